"""Holds the arrows between the folders of src/ (docs: who may include whom), by reading the #include lines.

A folder that is not in the tables fails: whoever adds one says here what it may see.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"

# Each folder of src/ and what it may include besides itself. Programs never include one another.
FOLDERS = {
    "base": set(),
    "proto": {"base"},
    "agent": {"base", "proto"},
    "launch": {"base", "proto"},
    "doctor": {"base", "proto"},
    "cli": {"base", "proto", "doctor"},
    "daemon": {"base", "proto", "doctor"},
}

# The same inside akirad. "" is main and the configuration, which put the parts together.
DAEMON = {
    "": {"http", "api", "sandbox", "engine", "image", "net", "store", "launcher", "guest", "config", "auth"},
    "config": set(),
    "auth": {"store", "config"},
    "http": {"auth", "config"},
    "store": set(),
    "launcher": set(),
    "guest": set(),
    "engine": {"launcher", "config"},
    "image": {"config"},
    "net": {"launcher"},
    "sandbox": {"engine", "image", "net", "store", "launcher", "guest", "config"},
    "api": {"http", "sandbox", "store", "auth", "config"},
}

# Of no domain, for all of akirad.
COMMON = {"json"}

# A library that one folder alone may name.
LIBRARIES = {
    r"microhttpd\.h": {"daemon/http"},
    r"wslay/.*": {"daemon/http"},
    r"sqlite3\.h": {"daemon/store"},
    r"libpq-fe\.h": {"daemon/store"},
    r"libmnl/.*": {"launch/net"},
    r"seccomp\.h": {"launch"},
    r"ini\.h": {"daemon", "daemon/config", "cli"},
    r"linux/kvm\.h": {"daemon/engine", "doctor", "launch"},
}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


def files():
    return sorted(path for path in SRC.rglob("*") if path.suffix in (".c", ".h") and path.is_file())


def parts_of(path):
    """(folder of src/, folder inside akirad or None) of a path relative to src/."""
    pieces = Path(path).parts
    inner = None
    if pieces[0] == "daemon":
        inner = pieces[1] if len(pieces) > 2 else ""
    return pieces[0], inner


def check_own(source, target):
    """What is wrong with one file of src/ including another, or None."""
    (folder, inner), (seen, seen_inner) = parts_of(source), parts_of(target)
    if folder not in FOLDERS:
        return f"folder src/{folder} is not in the table FOLDERS"
    if seen != folder:
        return None if seen in FOLDERS[folder] else f"{folder} must not include {seen}"
    if folder != "daemon" or seen_inner == inner or seen_inner in COMMON:
        return None
    if inner not in DAEMON:
        return f"folder src/daemon/{inner} is not in the table DAEMON"
    return None if seen_inner in DAEMON[inner] else f"daemon/{inner or '(main)'} must not include daemon/{seen_inner}"


def check_library(source, header):
    place = str(Path(source).parent)
    for pattern, allowed in LIBRARIES.items():
        if re.fullmatch(pattern, header) and place not in allowed:
            return f"<{header}> belongs to {', '.join(sorted(allowed))} alone"
    return None


def problems():
    found = []
    for path in files():
        source = str(path.relative_to(SRC))
        for kind, header in INCLUDE.findall(path.read_text(encoding="utf-8", errors="replace")):
            if kind == "<":
                wrong = check_library(source, header)
            elif (SRC / header).exists():
                wrong = check_own(source, header)
            elif (path.parent / header).exists():
                wrong = f'"{header}": name it from src/ on ("{path.parent.relative_to(SRC)}/{header}")'
            else:
                wrong = None  # made by the build
            if wrong:
                found.append(f"src/{source}: {wrong}")
    return found


def test_includes_follow_the_arrows():
    assert files(), "no sources found"
    assert problems() == []


def test_a_wrong_arrow_is_seen():
    assert check_own("base/buf.c", "daemon/store/store.h")
    assert check_own("agent/exec.c", "launch/cgroup.h")
    assert check_own("daemon/store/keys.c", "daemon/http/http.h")
    assert check_own("daemon/sandbox/pool.c", "daemon/api/api.h")
    assert check_own("newfolder/x.c", "base/buf.h")
    assert check_library("daemon/api/keys.c", "sqlite3.h")
    assert check_library("daemon/sandbox/x.c", "microhttpd.h")
    assert not check_own("daemon/api/keys.c", "daemon/store/store.h")
    assert not check_own("agent/exec.c", "proto/guest.h")


def test_the_guest_protocol_has_one_codec():
    """Both sides link src/proto: nobody else spells out the frame's numbers."""
    for path in files():
        relative = path.relative_to(SRC)
        if relative.parts[0] != "proto":
            assert "GUEST_HEADER_SIZE 12" not in path.read_text(encoding="utf-8", errors="replace"), relative
