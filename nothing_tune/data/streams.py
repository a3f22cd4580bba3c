"""Bytes of plain, gzip and zstd files as one stream, where a cut-off file is an error and never a short one."""

from __future__ import annotations

import gzip
import io
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import IO, Any, cast

CHUNK = 2**17
"""Bytes that are read of a compressed file at once."""


def open_bytes(path: Path, watch: list[IO[bytes]] | None = None) -> IO[bytes]:
    """A buffered reader of what is in `path`, decompressed when its name ends in `.gz` or `.zst`.

    `watch` gets the open file itself, whose `tell()` says how far reading has come.

    Reading raises `EOFError` where compressed data is cut off, `zlib.error` or `gzip.BadGzipFile` where it is damaged,
    `OSError` where the file cannot be read. Several frames one after the other (as pigz, zstd and appending make them)
    are read to the last.
    """
    handle = open(path, "rb", buffering=CHUNK)  # noqa: SIM115 - whoever reads it closes it
    if watch is not None:
        watch[:] = [handle]
    if path.suffix == ".gz":
        return cast(IO[bytes], io.BufferedReader(Gzip(handle), CHUNK))
    if path.suffix == ".zst":
        return cast(IO[bytes], io.BufferedReader(Zstd(handle), CHUNK))
    return handle


def unpacked(path: Path) -> IO[bytes]:
    """A nameless temporary file with what is in a compressed file, at its start: for readers that need to seek."""
    whole = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        with open_bytes(path) as packed:
            shutil.copyfileobj(packed, whole, CHUNK)
        whole.seek(0)
    except BaseException:
        whole.close()
        raise
    return cast(IO[bytes], whole)


class Gzip(gzip.GzipFile):
    """Reads a gzip file that is open already, and closes it in the end."""

    def __init__(self, handle: IO[bytes]) -> None:
        super().__init__(fileobj=handle, mode="rb")
        self._handle = handle

    def close(self) -> None:
        """Closes this and the file below."""
        super().close()
        self._handle.close()


class Zstd(io.RawIOBase):
    """The decompressed bytes of a zstd file. zstandard's own reader takes a file without an end for a shorter one."""

    def __init__(self, handle: IO[bytes]) -> None:
        import zstandard

        self._zstd: Any = zstandard
        self._handle = handle
        self._frame: Any = None
        self._packed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Closes the file below."""
        self._handle.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        """Fills `buffer` as far as bytes are there; 0 at the end."""
        while not self._ready:
            if not self._packed:
                self._packed = self._handle.read(CHUNK)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError
                return 0
            self._frame = self._frame or self._zstd.ZstdDecompressor(max_window_size=2**31).decompressobj()
            try:
                self._ready = memoryview(self._frame.decompress(self._packed))
            except self._zstd.ZstdError as error:
                raise zlib.error(str(error)) from error
            self._packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count
