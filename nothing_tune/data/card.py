"""Writes rows as JSON lines, whole or not at all, with a card beside them that says what they were made of."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from nothing_tune import __version__
from nothing_tune.artifacts import finite, fsync_dir, write_json
from nothing_tune.data import files
from nothing_tune.errors import StorageError, UsageError

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst")
"""What written files may end in."""


def card_path(path: Path) -> Path:
    """Where the card of `path` lies: `rows.jsonl.card.json` beside `rows.jsonl`."""
    return path.with_name(path.name + files.CARD)


def check(path: Path, force: bool = False) -> None:
    """Refuses, before anything is read, what `write` would refuse in the end.

    Raises:
        UsageError: The name does not end in one of `ENDINGS`, or the file exists and `force` is off.
    """
    if not path.name.endswith(ENDINGS):
        raise UsageError(
            f"{path} is no name for what is written, which is JSON lines", hint=f"let it end in {', '.join(ENDINGS)}"
        )
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint="name a file")
    if path.exists() and not force:
        raise UsageError(f"{path} is there already", hint="name another file, or add --force to replace it")


def write(path: Path, rows: Iterable[Mapping[str, Any]], card: Mapping[str, Any], force: bool = False) -> int:
    """Writes rows and card, and returns the number of rows; until both are whole nothing is seen of them.

    Args:
        path: A name that ends in one of `ENDINGS`; its folder is made.
        rows: Canonical rows; they are asked for one by one, and what they raise leaves nothing behind.
        card: What the rows were made of (`command`, `sources`, `settings`), read when all rows are written; `made_by`,
            `rows` and `sha256` (of the file) are added.
        force: Replaces a file that is there.

    Raises:
        UsageError: As `check`.
        StorageError: The disk is full or refuses.
    """
    with Writer(path, force) as out:
        for row in rows:
            out.add(row)
        out.finish(card)
    return out.rows


class Writer:
    """What `write` does, row by row: `with Writer(path) as out`, then `add` for each row, and `finish`.

    A block that ends without `finish`, by an error or otherwise, leaves nothing behind. Errors are those of `write`.

    Attributes:
        rows: Rows written so far.
    """

    def __init__(self, path: Path, force: bool = False) -> None:
        check(path, force)
        self.path, self.rows = path, 0
        self._temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Writer:
        """Makes the folder and the temporary file."""
        with self._told():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._raw: IO[bytes] = open(self._temp, "wb")
            self._open.callback(self._raw.close)
            self._out = self._open.enter_context(_packed(self._raw, self.path))
        return self

    def __exit__(self, *_: object) -> None:
        """Removes what is not finished."""
        with contextlib.suppress(OSError):
            self._open.close()
        with contextlib.suppress(OSError):
            self._temp.unlink(missing_ok=True)

    def add(self, row: Mapping[str, Any]) -> None:
        """Writes one row."""
        line = _line(row)
        with self._told():
            self._out.write(line)
        self.rows += 1

    def finish(self, card: Mapping[str, Any]) -> dict[str, Any]:
        """Puts file and card in their places, and returns the card as it was written."""
        with self._told():
            self._open.close()
            with open(self._temp, "rb+", buffering=0) as handle:
                os.fsync(handle.fileno())
            digest = _sha256(self._temp)
            os.replace(self._temp, self.path)
            fsync_dir(self.path.parent)
        whole = {"made_by": f"nothing-tune {__version__}", **card, "rows": self.rows, "sha256": digest}
        write_json(card_path(self.path), whole)
        return whole

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"cannot write {self.path}: {error.strerror}", hint="free some space or mend the permissions"
            ) from error


@contextlib.contextmanager
def _packed(raw: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    """The writer that the name asks for. The bytes depend on the rows alone: no time and no name goes into them."""
    if path.suffix == ".gz":
        with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
            yield cast(IO[bytes], packed)
    elif path.suffix == ".zst":
        import zstandard

        with zstandard.ZstdCompressor(level=3).stream_writer(raw, closefd=False) as frames:
            yield cast(IO[bytes], frames)
    else:
        yield raw


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=str)


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        text = _ENCODER.encode(row)
    except ValueError:  # NaN or infinity in a column that is carried along
        text = _ENCODER.encode(finite(row))
    return text.encode() + b"\n"


def _sha256(path: Path) -> str:
    whole = hashlib.sha256()
    with open(path, "rb", buffering=0) as handle:
        while chunk := handle.read(2**20):
            whole.update(chunk)
    return whole.hexdigest()
