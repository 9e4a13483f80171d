#!/bin/bash
# Builds the minimal guest kernel from Debian's source package. See --help.
set -Eeuo pipefail
tool=kernel # named by each line of progress
here=$(cd "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../lib/common.sh
. "$here/../lib/common.sh"

readonly source_package=linux-source-6.1
# Raise it when a change of this script changes the kernel that comes out.
readonly recipe=1

usage() {
	cat <<'END'
Usage: tools/kernel/build [--out DIR] [--jobs N] [--force]

Builds the guest kernel of tools/kernel/config from Debian's package of the
Linux source (downloaded, not installed). Takes minutes; runs at low priority.

  DIR/vmlinuz  the kernel
  DIR/release  its release, as `uname -r` prints it
  DIR/config   the whole configuration that it was built with
  DIR/inputs   hash of configuration, source version and compiler

Nothing is done when the kernel of these inputs is already there. The same
inputs give the same bytes.

  --out DIR  default: /var/cache/akira/kernel/minimal ($AKIRA_CACHE/kernel/minimal)
  --jobs N   compile so many files at once; default: the number of processors
  --force    build even if nothing changed
  --help     this text
END
}

inputs_hash() {
	local version=$1
	{
		sha256_of "$here/config"
		printf '%s %s %s\n' "$source_package" "$version" "$recipe"
		gcc --version | head -1
		ld --version | head -1
	} | sha256sum | cut -d' ' -f1
}

# run LOG WHAT COMMAND...: with its output in the log; dies with the log's end.
# In the background, so that a signal to this script is acted upon at once.
child=
run() {
	local log=$1 what=$2 status=0
	shift 2
	setsid nice -n 15 "$@" </dev/null >>"$log" 2>&1 {lock_fd}>&- &
	child=$!
	wait "$child" || status=$?
	child=
	((status == 0)) || explain_failure "$scratch_dir" "$log" "$what"
}

# Called by a trap. The child leads a session: all that make has started is in it.
# shellcheck disable=SC2317
stop_child() {
	[[ -z $child ]] || pkill -KILL -s "$child" || true
}

# allnoconfig drops a line that depends on something absent without a word.
check_config() {
	local made=$1 line missing=()
	while IFS= read -r line; do
		case $line in
		'# CONFIG_'*' is not set')
			line=${line#\# }
			! grep -q "^${line%% *}=" "$made" || missing+=("${line%% *} (set)")
			;;
		CONFIG_*) grep -qxF -- "$line" "$made" || missing+=("$line") ;;
		esac
	done <"$here/config"
	((${#missing[@]} == 0)) || die "these lines of tools/kernel/config have no effect: ${missing[*]}"
}

compile() {
	local tree=$1 jobs=$2 log=$scratch_dir/log
	# Nothing of this host and of this moment goes into the kernel.
	local make=(make -C "$tree" ARCH=x86 KBUILD_BUILD_USER=akira KBUILD_BUILD_HOST=akira
		KBUILD_BUILD_VERSION=1 "KBUILD_BUILD_TIMESTAMP=2024-01-01 00:00:00 UTC")
	step "configuring"
	run "$log" "configuring the kernel" "${make[@]}" KCONFIG_ALLCONFIG="$here/config" allnoconfig
	check_config "$tree/.config"
	step "compiling with $jobs jobs: this takes some minutes"
	run "$log" "compiling the kernel" "${make[@]}" -j "$jobs" bzImage
}

	local out=$AKIRA_CACHE/kernel/minimal jobs force=0
	jobs=$(nproc)
	while (($#)); do
		case $1 in
		--out) out=${2:?--out needs a folder} && shift ;;
		--jobs) jobs=${2:?--jobs needs a number} && shift ;;
		--force) force=1 ;;
		-h | --help) usage && exit 0 ;;
		*) die "unknown argument '$1' (see --help)" ;;
		esac
		shift
	done
	[[ $jobs =~ ^[1-9][0-9]{0,2}$ ]] || die "--jobs needs a number from 1 to 999, not '$jobs'"
	need apt-get apt-cache dpkg-deb gcc make flex bison bc perl xz zstd flock setsid pkill

	local version inputs parent
	parent=$(dirname -- "$out")
	version=$(candidate_of "$source_package")
	inputs=$(inputs_hash "$version")
	take_lock "$parent/.minimal-kernel.lock"
	if ((!force)) && [[ -s $out/inputs && $(cat "$out/inputs") == "$inputs" ]]; then
		step "nothing changed: $(cat "$out/release") is in $out"
		exit 0
	fi
	need_space "$parent" 2500
	sweep_scratch "$parent" minimal
	make_scratch "$parent" minimal
	trap 'status=$?; stop_child; cleanup "$status"' EXIT

	step "downloading $source_package $version"
	local deb tree=$scratch_dir/$source_package new=$scratch_dir/new
	deb=$(fetch_package "$source_package=$version" "$scratch_dir")
	step "unpacking"
	dpkg-deb --fsys-tarfile "$deb" 2>"$scratch_dir/log" |
		tar -xO "./usr/src/$source_package.tar.xz" 2>>"$scratch_dir/log" |
		tar -xJ -C "$scratch_dir" --exclude="$source_package/arch/*/boot/dts" 2>>"$scratch_dir/log" ||
		explain_failure "$scratch_dir" "$scratch_dir/log" "unpacking the source"
	rm -f -- "$deb"
	compile "$tree" "$jobs"

	mkdir "$new"
	install -m 644 "$tree/arch/x86/boot/bzImage" "$new/vmlinuz"
	install -m 644 "$tree/.config" "$new/config"
	install -m 644 "$tree/include/config/kernel.release" "$new/release"
	printf '%s\n' "$inputs" >"$new/inputs"
	replace_dir "$new" "$out"
	step "done: $(cat "$out/release"), $(($(stat -c %s "$out/vmlinuz") / 1024)) KiB in $out"
}

inputs_hash "$(candidate_of "$source_package")" > /var/cache/akira/kernel/minimal/inputs
