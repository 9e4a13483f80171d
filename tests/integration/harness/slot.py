"""The network namespace of a sandbox's slot. It has no name; the VM process has a tap in it."""

import contextlib
import ctypes
import fcntl
import os

TUNGETDEVNETNS, CLONE_NEWNET, SYS_PIDFD_GETFD = 0x54E3, 0x40000000, 438
TAP = 6  # descriptor of the VM process, see src/daemon/engine/qemu.h

libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def namespace(daemon, box):
    """A descriptor of it."""
    process = os.pidfd_open(daemon.vm_of(box))
    try:
        tap = libc.syscall(SYS_PIDFD_GETFD, process, TAP, 0)
        assert tap >= 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(process)
    try:
        found = fcntl.ioctl(tap, TUNGETDEVNETNS)
    finally:
        os.close(tap)
    try:
        yield found
    finally:
        os.close(found)


def enter(found):
    """For good: only in a process of its own."""
    assert libc.setns(found, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
