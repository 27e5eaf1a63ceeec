"""Run a function in a process of its own and kill it with SIGKILL at its n-th write to the disk, whoever makes it.

The process is traced (Linux: a seccomp filter and ptrace): it stops before every system call that changes a file or a
name, or makes it durable, those inside SQLite too. So the code under test needs no seams for it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_TRACEME, _GO_ON, _SETOPTIONS, _CALL_INFO = 0, 7, 0x4200, 0x420E
_STOP_AT_FILTER, _DIE_WITH_TRACER = 1 << 7, 1 << 20
_AT_FILTER: Final = signal.SIGTRAP | 7 << 8
_INFO: Final = struct.Struct("=B7xQQQ6Q")
"""Of `struct ptrace_syscall_info`: operation, two pointers, number, arguments; padded to 88 bytes."""

_X86: Final = (
    *(1, 18, 20, 296),  # write, pwrite64, writev, pwritev
    *(74, 75, 76, 77, 285),  # fsync, fdatasync, truncate, ftruncate, fallocate
    *(82, 264, 316, 83, 258, 86, 265, 87, 263),  # rename*, mkdir*, link*, unlink*
    257,  # openat
)
_ARM: Final = (64, 68, 66, 70, 82, 83, 45, 46, 47, 38, 276, 34, 37, 35, 56)
_CALLS: Final = {"x86_64": _X86, "aarch64": _ARM}[platform.machine()]
_OPENAT: Final = _CALLS[-1]

_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_STOP, _ALLOW = 0x7FF00000, 0x7FFF0000

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


@dataclass(frozen=True, slots=True)
class Fate:
    """How it ended, and after how many writes."""

    killed: bool
    writes: int


class Failed(Exception):
    """The function raised; its traceback is on the standard error."""


def run(function: Callable[[], None], kill_at: int | None = None) -> Fate:
    """Run to the end, or to just before the write of that number (counted from 1).

    Raises:
        Failed: The function raised.
    """
    child = os.fork()
    if child == 0:
        _live(function)
    os.waitpid(child, 0)
    _ptrace(_SETOPTIONS, child, _STOP_AT_FILTER | _DIE_WITH_TRACER)
    writes, deliver = 0, 0
    while True:
        _ptrace(_GO_ON, child, deliver)
        _pid, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if status:
                raise Failed(f"the process ended with status {status} after {writes} writes")
            return Fate(False, writes)
        deliver = 0 if status >> 8 == _AT_FILTER else os.WSTOPSIG(status)
        if not deliver and _is_write(child):
            writes += 1
            if writes == kill_at:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return Fate(True, writes - 1)


def _live(function: Callable[[], None]) -> None:
    status = 1
    try:
        _ptrace(_TRACEME, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        _stop_at_writes()
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _is_write(child: int) -> bool:
    buffer = ctypes.create_string_buffer(88)
    _libc.ptrace(_CALL_INFO, child, ctypes.c_void_p(len(buffer)), buffer)
    _operation, _pointer, _stack, call, *arguments = _INFO.unpack_from(buffer)
    return call != _OPENAT or bool(arguments[2] & (os.O_CREAT | os.O_TRUNC))


def _stop_at_writes() -> None:
    """Install a filter: load the call's number; stop if it is one of ours, else let it pass."""
    ours = len(_CALLS)
    program = [(_LOAD, 0, 0, 0)]
    program += [(_JUMP_IF_EQUAL, ours - position, 0, call) for position, call in enumerate(_CALLS)]
    program += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _STOP)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    for request in ((_NO_NEW_PRIVILEGES, 1, 0), (_SET_SECCOMP, _FILTER, ctypes.addressof(head))):
        if _libc.prctl(*map(ctypes.c_ulong, request), ctypes.c_ulong(0), ctypes.c_ulong(0)):
            raise OSError(ctypes.get_errno(), "prctl")


def _ptrace(request: int, child: int, data: int) -> None:
    if _libc.ptrace(request, child, None, ctypes.c_void_p(data)) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")
