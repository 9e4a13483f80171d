# shellcheck shell=bash
# Shared by the tools that fill the cache: progress, errors, temporary folders,
# locks, atomic replacement. Source it after `set -Eeuo pipefail`; the sourcing
# script sets `tool` to its own name first.

: "${tool:=tool}"
AKIRA_CACHE=${AKIRA_CACHE:-/var/cache/akira}
export LC_ALL=C
# What is made here is read by other users, whatever the umask of who makes it.
umask 022
export PATH="${PATH:-}:/usr/sbin:/usr/bin:/sbin:/bin"

# The lock's descriptor: long-running children are started without it, as they
# could outlive this process and would hold the lock on.
lock_fd=
step_start=${EPOCHREALTIME/./}
scratch_dir=

die() {
	printf '%s: error: %s\n' "$tool" "$*" >&2
	exit 1
}

# has_value "$@": dies if the option in $1 is the last word.
has_value() {
	[[ $# -gt 1 && -n $2 ]] || die "$1 needs a value (see --help)"
}

# step TEXT...: one line of progress with the seconds since the start.
step() {
	local us=$((${EPOCHREALTIME/./} - step_start))
	printf '%s: [%3d.%d s] %s\n' "$tool" $((us / 1000000)) $((us / 100000 % 10)) "$*"
}

# need COMMAND...: dies if one is absent, saying how to get it.
need() {
	local name
	for name in "$@"; do
		command -v "$name" >/dev/null || die "'$name' is not installed: run tools/bootstrap"
	done
}

# Unmounts whatever is below a folder, deepest first. Mount points that cannot
# be unmounted stay, and with them the folder: better than deleting through one.
unmount_below() {
	local dir=$1 point failed=0
	while read -r point; do
		umount -- "$point" 2>/dev/null || umount -l -- "$point" || failed=1
	done < <(awk -v d="$dir/" 'index($5, d) == 1 { print $5 }' /proc/self/mountinfo | sort -r)
	return "$failed"
}

# cleanup [STATUS]: ends the process with STATUS, by default that of the last command.
cleanup() {
	local status=${1:-$?}
	trap - EXIT INT TERM HUP
	if [[ -n $scratch_dir && -d $scratch_dir ]]; then
		if unmount_below "$scratch_dir"; then
			rm -rf --one-file-system -- "$scratch_dir"
		else
			printf '%s: left %s behind: something is mounted below it\n' "$tool" "$scratch_dir" >&2
		fi
	fi
	exit "$status"
}

# make_scratch PARENT WORK: sets scratch_dir to a new folder in PARENT that goes
# away with this process, whatever ends it (SIGKILL aside: see sweep_scratch).
make_scratch() {
	mkdir -p -- "$1" || die "cannot make $1: set AKIRA_CACHE or --out to a folder that you may write"
	scratch_dir=$(mktemp -d -- "$(realpath -- "$1")/.new.$2.XXXXXXXX") || die "cannot make a temporary folder in $1"
	chmod 755 "$scratch_dir"
	trap cleanup EXIT
	trap 'printf "%s: interrupted\n" "$tool" >&2; exit 130' INT
	trap 'printf "%s: terminated\n" "$tool" >&2; exit 143' TERM
	trap 'exit 129' HUP
}

# sweep_scratch PARENT WORK: removes what a killed run of the same work left. Only
# with the lock of that work held.
sweep_scratch() {
	local old
	for old in "$1/.new.$2".????????; do
		[[ -d $old ]] || continue
		unmount_below "$(realpath -- "$old")" && rm -rf --one-file-system -- "$old"
	done
}

# take_lock FILE: holds FILE exclusively until this process ends. Waits while
# another run of the same work goes on, as its result is ours too.
take_lock() {
	mkdir -p -- "$(dirname -- "$1")" || die "cannot make $(dirname -- "$1")"
	exec {lock_fd}>"$1" || die "cannot open the lock file $1"
	if ! flock -n "$lock_fd"; then
		step "another run holds $1: waiting for it"
		flock -w 3600 "$lock_fd" || die "the other run has not ended within an hour"
	fi
}

# need_space DIR MIB: dies early when the disk is too full to finish.
need_space() {
	local dir=$1 mib=$2 free
	mkdir -p -- "$dir" || die "cannot make $dir"
	free=$(df --output=avail -k -- "$dir" | tail -1)
	((free / 1024 >= mib)) || die "$dir has $((free / 1024)) MiB free, $mib MiB are needed: free some space or use another folder"
}

# explain_failure DIR LOG WHAT: dies with the end of a log, and says so plainly
# when the cause is a full disk.
explain_failure() {
	local dir=$1 log=$2 what=$3
	if grep -qs 'No space left on device' "$log" || (($(df --output=avail -k -- "$dir" | tail -1) < 1024)); then
		die "$what failed: no space left on the disk of ${dir%/.new.*}"
	fi
	tail -n 20 -- "$log" >&2 || true
	die "$what failed (the end of its output is above)"
}

# replace_dir NEW OLD: puts folder NEW in the place of OLD. Readers see either
# the one or the other, where the file system can exchange names.
replace_dir() {
	local new=$1 old=$2
	sync -f "$new"
	if [[ ! -e $old ]]; then
		mv -T -- "$new" "$old"
	# renameat2(AT_FDCWD, new, AT_FDCWD, old, RENAME_EXCHANGE)
	elif perl -e 'exit(syscall(316, -100, $ARGV[0], -100, $ARGV[1], 2) == 0 ? 0 : 1)' "$new" "$old"; then
		rm -rf --one-file-system -- "$new"
	else
		mv -T -- "$old" "$new.old"
		mv -T -- "$new" "$old"
		rm -rf --one-file-system -- "$new.old"
	fi
}

sha256_of() {
	local sum
	sum=$(sha256sum -- "$1") && printf '%s' "${sum%% *}"
}

# fetch_package NAME[=VERSION] DIR: downloads one Debian package without
# installing it, and prints the path of the file.
fetch_package() {
	local name=$1 dir=$2 file
	(cd "$dir" && apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=3 \
		download "$name" </dev/null) >"$dir/fetch.log" 2>&1 ||
		explain_failure "$dir" "$dir/fetch.log" "the download of $name"
	file=$(find "$dir" -maxdepth 1 -name "${name%%=*}_*.deb" -print -quit)
	[[ -n $file ]] || die "the download of $name left no file"
	printf '%s\n' "$file"
}

# candidate_of NAME: the version that apt would take. Updates the package lists
# once when they do not know the name and we may.
candidate_of() {
	local name=$1 version
	version=$(apt-cache policy -- "$name" | awk '/Candidate:/ { print $2 }')
	if [[ -z $version || $version == "(none)" ]] && [[ $(id -u) -eq 0 ]]; then
		apt-get -qq -o DPkg::Lock::Timeout=300 update </dev/null >/dev/null 2>&1 || true
		version=$(apt-cache policy -- "$name" | awk '/Candidate:/ { print $2 }')
	fi
	[[ -n $version && $version != "(none)" ]] ||
		die "apt knows no package '$name': run 'apt-get update' and check the package sources"
	printf '%s\n' "$version"
}
