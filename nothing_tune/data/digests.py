"""SHA-256 of files, remembered by path, size, time and inode, so that a second start reads no bytes."""

from __future__ import annotations

import contextlib
import hashlib
import time
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import read_json, write_json
from nothing_tune.artifacts.files import cache_root
from nothing_tune.errors import StorageError, UsageError

NAME = "digests.json"
SETTLED_S = 2.0
"""A file that was changed less than so many seconds before it was read is read again next time: its clock may be as coarse."""
KEPT = 4096
"""Files that are remembered, the newest."""
CHUNK = 2**20


def digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hexadecimal digits; remembered in the cache folder where that can be written.

    Raises:
        UsageError: The file cannot be read.
    """
    try:
        state = path.stat()
        stamp = [state.st_size, state.st_mtime_ns, state.st_ino]
        name = str(path.resolve())
        known = _known().get(name)
        if isinstance(known, list) and known[:-1] == stamp:
            return str(known[-1])
        started = time.time()
        whole = hashlib.sha256()
        with open(path, "rb", buffering=0) as handle:
            while chunk := handle.read(CHUNK):
                whole.update(chunk)
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", hint="mend the permissions, or name another file"
        ) from error
    if started - state.st_mtime > SETTLED_S:
        _remember(name, [*stamp, whole.hexdigest()])
    return whole.hexdigest()


def _known() -> dict[str, Any]:
    try:
        data = read_json(cache_root() / NAME)
    except UsageError:  # a damaged memory is an empty one
        return {}
    return data if isinstance(data, dict) else {}


def _remember(name: str, entry: list[Any]) -> None:
    known = _known()
    known.pop(name, None)
    kept = dict([*known.items(), (name, entry)][-KEPT:])
    with contextlib.suppress(OSError, StorageError):
        cache_root().mkdir(parents=True, exist_ok=True)
        write_json(cache_root() / NAME, kept, durable=False)
