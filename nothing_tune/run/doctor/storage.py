"""Checks of memory, disks and limits: the folders that a run writes to are really written to, and nothing is left behind."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nothing_tune.artifacts import fsync_dir, runs_root
from nothing_tune.artifacts.attempts import NO_LOCKS
from nothing_tune.artifacts.files import cache_root
from nothing_tune.data import hub
from nothing_tune.discovery import host_memory
from nothing_tune.run.doctor.finding import FAIL, OK, SKIP, WARN, Finding, gib

STORAGE, MEMORY = "storage", "machine"
FULL, TIGHT = 1 << 30, 5 << 30
"""Bytes free below which a run is likely to end with a full disk, and below which it is worth a word: an adapter's checkpoint
with its optimizer takes some hundred MiB, and two to four of them are kept."""
TEMP_TIGHT = 1 << 29
LEAST_MEMORY = 2 << 30
"""Bytes of free host memory below which even loading a small model may fail: importing the libraries takes about 0.7 GiB."""
FILES = 1024
"""Open files that a data loader with some workers and a tracker need with room to spare."""
SHM = 1 << 30
"""Bytes of /dev/shm that data loader workers and NCCL need; containers have 64 MiB unless told otherwise (docs.docker.com, --shm-size)."""
PROBE = 1 << 16
"""Bytes that are written to try a folder."""
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "9p", "lustre", "gpfs", "ceph", "glusterfs", "beegfs", "afs"}
CGROUPS = Path("/sys/fs/cgroup")


def memory() -> Finding:
    """Host memory, or the container's share of it."""
    total, free = host_memory()
    if total is None:
        with contextlib.suppress(ValueError, OSError):
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if total is None:
        return Finding(MEMORY, "memory", SKIP, "this system does not tell")
    limit, used = _cgroup()
    of = ""
    if limit is not None and limit < total:
        total, of = limit, " (the container's limit)"
        free = limit - used if used is not None else free
    what = f"{gib(total)}{of}" + (f", {gib(max(free, 0))} free" if free is not None else "")
    if free is not None and free < LEAST_MEMORY:
        cure = "close other programs, or give the machine more: ps aux --sort=-rss | head shows who has it"
        return Finding(MEMORY, "memory", WARN, f"{what}: too little to load most models", cure)
    return Finding(MEMORY, "memory", OK, f"{what}; {os.cpu_count() or 1} CPUs")


def _cgroup() -> tuple[int | None, int | None]:
    """`(limit, used)` in bytes of this container's memory; None where there is none."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            most = int((CGROUPS / limit).read_text(encoding="ascii"))
            with contextlib.suppress(OSError, ValueError):
                return most, int((CGROUPS / used).read_text(encoding="ascii"))
            return most, None
    return None, None


def runs() -> Iterator[Finding]:
    """The folder of runs: room, and whether files can be written, flushed, renamed and locked there."""
    root = runs_root()
    yield from _folder("runs", root, FULL, TIGHT, "export TUNE_RUNS_DIR=/another/folder")


def caches() -> Iterator[Finding]:
    """The folders of prepared data, of the hub and of temporary files."""
    yield from _folder("cache", cache_root(), FULL, FULL, "export TUNE_CACHE_DIR=/another/folder", locks=False)
    models = Path(os.environ.get("HF_HUB_CACHE") or hub.home() / "hub").expanduser()
    yield from _folder("hub cache", models, FULL, TIGHT, "export HF_HOME=/another/folder", locks=False)
    wanted = os.environ.get("TMPDIR")
    if wanted and not Path(wanted).is_dir():
        yield Finding(
            STORAGE, "TMPDIR", WARN, f"TMPDIR is {wanted}, which is no folder: another one is used", "unset TMPDIR"
        )
    try:
        temp = Path(tempfile.gettempdir())
    except OSError as error:
        yield Finding(
            STORAGE, "temporary", FAIL, f"no folder for temporary files can be used: {error}", "export TMPDIR=~/tmp"
        )
        return
    yield from _folder("temporary", temp, TEMP_TIGHT // 8, TEMP_TIGHT, "export TMPDIR=/another/folder", locks=False)


def _folder(name: str, path: Path, least: int, tight: int, elsewhere: str, locks: bool = True) -> Iterator[Finding]:
    """One finding about a folder, the gravest: it cannot be written, is full, has no locks, is short of room, or is fine."""
    there = next(p for p in (path, *path.parents) if p.exists())
    if not there.is_dir():
        yield Finding(STORAGE, name, FAIL, f"{there} is a file, and {path} cannot be made", elsewhere)
        return
    said = f"{path}" if there == path else f"{path} (made when needed)"
    free = shutil.disk_usage(there).free
    kind = file_system(there)
    remote = kind in NETWORK or kind.startswith("fuse")
    if os.statvfs(there).f_files and not os.statvfs(there).f_favail:
        yield Finding(
            STORAGE, name, FAIL, f"{said}: no file can be made there any more, the disk has no inodes left", elsewhere
        )
        return
    why, locked = try_folder(there)
    if why:
        yield Finding(STORAGE, name, FAIL, f"{said} cannot be written: {why}", elsewhere)
        return
    room = f"{said}, {gib(free)} free" + (f" on {kind}" if remote or kind == "tmpfs" else "")
    if free < least:
        yield Finding(STORAGE, name, FAIL, f"{room}: the disk is nearly full", f"free some space, or {elsewhere}")
    elif locks and not locked:
        what = f"{room}; it has no file locks, so a lease alone keeps two processes apart"
        yield Finding(STORAGE, name, WARN, what, f"start a run from one machine only, or {elsewhere}")
    elif free < tight:
        yield Finding(STORAGE, name, WARN, f"{room}: little", f"free some space, or {elsewhere}")
    elif locks and kind == "tmpfs":
        yield Finding(STORAGE, name, WARN, f"{room}: it is kept in memory and gone after a restart", elsewhere)
    else:
        yield Finding(STORAGE, name, OK, room)


def try_folder(folder: Path) -> tuple[str, bool]:
    """`(why it cannot be written, has locks)`: writes, flushes, renames, locks and removes a small file as a run does."""
    first = folder / f".tune-doctor-{os.getpid()}-{secrets.token_hex(4)}"
    second, locked = first.with_suffix(".renamed"), True
    try:
        with open(first, "xb") as handle:
            handle.write(b"\0" * PROBE)
            handle.flush()
            os.fsync(handle.fileno())
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                locked = False
        os.replace(first, second)
        fsync_dir(folder)
    except OSError as error:
        words = {
            errno.EROFS: "it is read-only",
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "your quota is used up",
        }
        return words.get(error.errno or 0, (error.strerror or str(error)).lower()), locked
    finally:
        for path in (first, second):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    return "", locked


def file_system(path: Path) -> str:
    """The kind of file system that `path` lies on, such as `ext4` or `nfs4`; empty where that is not told."""
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    best, real = ("", ""), os.path.realpath(path)
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        place = fields[1].replace("\\040", " ")
        inside = real == place or real.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best[0]):
            best = (place, fields[2])
    return best[1]


def limits() -> Iterator[Finding]:
    """Limits on open files and file sizes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FILES:
        most = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
        cure = f"ulimit -n {most if most == 'unlimited' or hard < 4096 else 4096}"
        yield Finding(
            MEMORY, "open files", WARN, f"at most {soft}: data loader workers and trackers may need more", cure
        )
    else:
        most = "any number" if soft == resource.RLIM_INFINITY else f"{soft:,}"
        yield Finding(MEMORY, "open files", OK, f"at most {most}")
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if largest != resource.RLIM_INFINITY:
        what = f"no file may be larger than {gib(largest)}: a model or checkpoint may be"
        yield Finding(MEMORY, "file size", WARN, what, "ulimit -f unlimited")


def shared_memory() -> Finding | None:
    """/dev/shm, which data loader workers and several GPUs talk through."""
    place = Path("/dev/shm")
    if sys.platform != "linux" or not place.is_dir():
        return None
    found = shutil.disk_usage(place)
    what = f"/dev/shm has {gib(found.total)}, {gib(found.free)} free"
    if found.free < SHM:
        return Finding(
            MEMORY, "shared", WARN, f"{what}: data loader workers may end with a bus error",
            "docker run --shm-size=8g; or training.dataloader_num_workers=0",
        )  # fmt: skip
    return Finding(MEMORY, "shared", OK, what)
