"""File systems that refuse: a small tmpfs and read-only folders, in a mount namespace that only the runs of one test see.

A holder process owns the namespace; attempts join it, and the test looks in through `/proc/PID/root`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path
from typing import Any

NEW_MOUNTS, NEW_USERS = 0x00020000, 0x10000000
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18


def hold(ready: str) -> None:
    """Makes the namespace, writes this process's id (or why it cannot be) to `ready`, and waits to be killed."""
    uid, gid = os.getuid(), os.getgid()
    try:
        _call("unshare", NEW_MOUNTS | (0 if uid == 0 else NEW_USERS))
        if uid != 0:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        _call("mount", b"none", b"/", None, RECURSIVE | PRIVATE, None)
        text = str(os.getpid())
    except OSError as error:
        text = f"no mount namespace here: {error.strerror}"
    Path(f"{ready}.tmp").write_text(text)
    os.replace(f"{ready}.tmp", ready)
    if text.isdigit():
        signal.pause()


def join(holder: int) -> None:
    """Moves this process, which must have one thread, into the namespace of `holder`."""
    if os.getuid() != 0:
        _join(holder, "user", NEW_USERS)
    _join(holder, "mnt", NEW_MOUNTS)


def small_disk(holder: int, folder: str, kib: int, again: bool = False) -> None:
    """Mounts a tmpfs of `kib` KiB on `folder`, or gives the one there another size."""
    join(holder)
    options = f"size={kib}k,mode=755".encode()
    _call("mount", b"tmpfs", folder.encode(), b"tmpfs", REMOUNT if again else 0, options)


def read_only(holder: int, folder: str) -> None:
    """Makes `folder` read-only, for root as well."""
    join(holder)
    _call("mount", folder.encode(), folder.encode(), None, BIND, None)
    _call("mount", folder.encode(), folder.encode(), None, BIND | REMOUNT | READ_ONLY, None)


class Namespace:
    """A mount namespace for one test; `reason` says why there is none."""

    def __init__(self, zygote: Any, folder: Path) -> None:
        ready = folder / "namespace"
        self.zygote = zygote
        self.child = zygote.start(fork="tests.faults.mounts:hold", **{"with": {"ready": str(ready)}})
        for _ in range(1000):
            if ready.exists() or self.child.ended.wait(0.01):
                break
        text = ready.read_text() if ready.exists() else "the namespace did not come up"
        self.pid = int(text) if text.isdigit() else None
        self.reason = "" if self.pid else text

    def see(self, path: Path) -> Path:
        """`path` as the namespace has it."""
        return Path(f"/proc/{self.pid}/root{path}")

    def small_disk(self, folder: Path, kib: int, again: bool = False) -> None:
        """Gives `folder` a disk of its own of `kib` KiB."""
        code = self.zygote.call(
            "tests.faults.mounts:small_disk", holder=self.pid, folder=str(folder), kib=kib, again=again
        )
        assert code == 0

    def read_only(self, folder: Path) -> None:
        """Makes `folder` read-only."""
        assert self.zygote.call("tests.faults.mounts:read_only", holder=self.pid, folder=str(folder)) == 0

    def close(self) -> None:
        """Ends the namespace, and what is mounted in it."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.child.ended.wait(10)


def _join(holder: int, kind: str, flag: int) -> None:
    descriptor = os.open(f"/proc/{holder}/ns/{kind}", os.O_RDONLY)
    try:
        _call("setns", descriptor, flag)
    finally:
        os.close(descriptor)


def _call(name: str, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    fixed = [ctypes.c_ulong(a) if isinstance(a, int) and name == "mount" else a for a in arguments]
    if getattr(libc, name)(*fixed) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
