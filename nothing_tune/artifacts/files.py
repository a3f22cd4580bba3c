"""How files are written so that a kill or a full disk loses nothing: whole files by temp file, fsync and replace; events by append."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from nothing_tune.artifacts.redact import redact_all
from nothing_tune.errors import StorageError, UsageError


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Replaces `path` atomically, and has it on the disk when this returns unless `durable` is False.

    Raises:
        StorageError: The disk refuses.
    """
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temp, "w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            if durable:
                os.fsync(handle.fileno())
        os.replace(temp, path)
        if durable:
            fsync_dir(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path}: {error.strerror}", hint="free some space or mend the permissions"
        ) from error


def write_json(path: Path, data: Any, durable: bool = True) -> None:
    """`write_text` of `data` as JSON, indented by one space. Non-finite floats are written as null."""
    write_text(path, json.dumps(finite(data), indent=1, ensure_ascii=False, allow_nan=False) + "\n", durable)


def finite(data: Any) -> Any:
    """`data` with every NaN and infinity replaced by None, so that it is JSON."""
    if isinstance(data, float):
        return data if data - data == 0 else None
    if isinstance(data, dict):
        return {str(k): finite(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [finite(v) for v in data]
    return data


def read_json(path: Path) -> Any:
    """The JSON in `path`; None when there is no such file. `UsageError` when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError) as error:
        raise UsageError(
            f"cannot read {path}: {error}", hint="the file is damaged; the run cannot be used as it is"
        ) from error


def append_event(path: Path, event: dict[str, Any]) -> None:
    """Appends one event, without secrets, as one line in one write, so that readers never see two torn lines."""
    line = json.dumps(finite(redact_all(event)), ensure_ascii=False, allow_nan=False) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def fsync_dir(path: Path) -> None:
    """Makes the entries of a folder durable; a file system that cannot is passed over."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def cache_root() -> Path:
    """Where things lie that can be made again: TUNE_CACHE_DIR, else XDG_CACHE_HOME/nothing-tune, else ~/.cache/nothing-tune."""
    own = os.environ.get("TUNE_CACHE_DIR")
    if own:
        return Path(own).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "nothing-tune"
