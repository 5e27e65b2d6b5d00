"""Own a way to make a disk fail: from now on every fsync of this process ends with EIO.

By a seccomp filter, so that it is the kernel that says no to SQLite, below every library; no compiler, no root and no file
system of our own is needed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

_SYSCALLS = {  # machine: (audit architecture, seccomp, fsync, fdatasync)
    "x86_64": (0xC000003E, 317, 74, 75),
    "aarch64": (0xC00000B7, 277, 82, 83),
}
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _TSYNC = 1, 1  # for all threads
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def why_not() -> str:
    """Say why this machine cannot do it; "" if it can."""
    if sys.platform != "linux" or platform.machine() not in _SYSCALLS:
        return f"no system call numbers known for {sys.platform} on {platform.machine()}"
    return ""


def fail_fsync() -> None:
    """Let every fsync and fdatasync of this process fail with EIO. Raises OSError if the kernel does not take the filter."""
    architecture, seccomp, fsync, fdatasync = _SYSCALLS[platform.machine()]
    program = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_JUMP_EQUAL, 0, 4, architecture),
        (_LOAD, 0, 0, 0),  # the number of the call
        (_JUMP_EQUAL, 1, 0, fsync),
        (_JUMP_EQUAL, 0, 1, fdatasync),
        (_RETURN, 0, 0, _ERRNO | errno.EIO),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(seccomp, _SET_MODE_FILTER, _TSYNC, head):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
