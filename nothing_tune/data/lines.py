"""The first bytes and the lines of data files: what a file really is, lines of bounded length, text that is UTF-8."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from nothing_tune.errors import UsageError

COMPRESSED = (".gz", ".zst")
"""What compressed files end in."""
LINE_BYTES = 64 * 2**20
"""The longest line, and the largest cell of a table, in bytes."""


def check_start(handle: IO[bytes], path: Path) -> None:
    """Refuses a file that is something else than its name says, by its first bytes; skips a byte-order mark."""
    start = cast(Any, handle).peek(64)[:64]
    if start[:3] == b"\xef\xbb\xbf":
        handle.read(3)
        return
    wide = start[:2] in (b"\xff\xfe", b"\xfe\xff") or (len(start) > 3 and start[:4].count(0) >= 2)
    if wide:
        name = "UTF-32" if start[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff") or start[:4].count(0) == 3 else "UTF-16"
        raise UsageError(f"{path} is {name}, not UTF-8", hint=iconv(path, name))
    for mark, what, cure in _STRANGERS:
        if start.lstrip()[: len(mark)].lower() == mark:
            raise UsageError(f"{path} {what}", hint=cure)


def iconv(path: Path, name: str | None) -> str:
    """How to make UTF-8 of a file in the encoding `name`; of an unknown one where None."""
    known = name.upper() if name else "ENCODING"
    which = "" if name else ", with the encoding it was saved in"
    if path.suffix in COMPRESSED:
        return f"decompress it, then convert it: iconv -f {known} -t UTF-8{which}"
    here, there = (shlex.quote(str(p)) for p in (path, path.with_suffix(f".utf8{path.suffix}")))
    return f"convert it: iconv -f {known} -t UTF-8 {here} > {there}{which}"


_STRANGERS = (
    (b"\x1f\x8b", "is compressed with gzip, which its name does not say", "let its name end in .gz"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd, which its name does not say", "let its name end in .zst"),
    (b"par1", "is a parquet file, which its name does not say", "let its name end in .parquet"),
    (b"pk\x03\x04", "is a zip archive or a spreadsheet", "unpack it, or save the sheet as CSV"),
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, not the data",
        "fetch the data: git lfs pull",
    ),
    (b"<!doctype", "is a web page, not data", "download the file itself: on the hub, /resolve/ instead of /blob/"),
    (b"<html", "is a web page, not data", "download the file itself: on the hub, /resolve/ instead of /blob/"),
)
"""First bytes in lower case, what such a file is, and the cure."""


def lines(handle: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """`(number from 1, line with its end)`; None instead of a line that is longer than `LINE_BYTES`."""
    number = 0
    while line := handle.readline(LINE_BYTES + 1):
        number += 1
        if len(line) <= LINE_BYTES or line.endswith(b"\n"):
            yield number, line
            continue
        while rest := handle.readline(LINE_BYTES):
            if rest.endswith(b"\n"):
                break
        yield number, None


def too_long() -> str:
    """What is wrong with a line that `lines` gives as None."""
    return f"the line is longer than {LINE_BYTES // 2**20} MiB"


def decoded(line: bytes) -> tuple[str, str | None]:
    """`(text, None)`, or `("", what is wrong)`."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return "", f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start + 1}"
    if "\0" in text:
        return "", "holds NUL bytes"
    return text, None


def lowered(error: BaseException | str) -> str:
    """What somebody else's error says, as a part of our sentences."""
    text = " ".join(str(error).split()).rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
