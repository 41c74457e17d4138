"""Takes from a process, for good, the means to open a connection or to start a program.

A decoder reads files of strangers in native code; what takes it over finds no socket to carry anything away, and none to
receive orders from. The kernel refuses (seccomp, Linux on x86-64 and arm64, without any privilege); where it can't be
asked, what ffmpeg itself may open is all that is limited (container.py).
"""  # noqa: E501

from __future__ import annotations

import ctypes
import errno
import platform
import sys

# Numbers of socket, connect, socketpair, bind, accept, accept4, execve, execveat, ptrace, io_uring_setup, by machine.
_CALLS = {
    "x86_64": (0xC000003E, (41, 42, 53, 49, 43, 288, 59, 322, 101, 425)),
    "aarch64": (0xC00000B7, (198, 203, 199, 200, 202, 242, 221, 281, 117, 425)),
}
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER_MODE = 38, 22, 2
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # of classic BPF
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_CALL_AT, _ARCHITECTURE_AT = 0, 4  # bytes into what the kernel tells of a call
_X32 = 0x40000000  # the same calls under other numbers


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("value", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def forbid_network() -> bool:
    """No socket and no other program from now on, in this process and its children; whether the kernel agreed."""
    known = _CALLS.get(platform.machine())
    if sys.platform != "linux" or known is None:
        return False
    architecture, calls = known
    rules = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        # Another architecture's calls have other numbers: none of them is allowed.
        (_JUMP_IF_EQUAL, 0, len(calls) + 3, architecture),
        (_LOAD, 0, 0, _CALL_AT),
        (_JUMP_IF_AT_LEAST, len(calls) + 1, 0, _X32),
        *((_JUMP_IF_EQUAL, len(calls) - place, 0, call) for place, call in enumerate(calls)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    program = _Program(len(rules), (_Instruction * len(rules))(*(_Instruction(*rule) for rule in rules)))
    prctl = ctypes.CDLL(None).prctl
    return (
        prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        and prctl(_PR_SET_SECCOMP, _FILTER_MODE, ctypes.byref(program), 0, 0) == 0
    )
