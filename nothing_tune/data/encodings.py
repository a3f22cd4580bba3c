"""What a file that is not UTF-8 is written in, as far as its bytes tell."""

from __future__ import annotations

import re
from pathlib import Path

from nothing_tune.data import lines
from nothing_tune.data.streams import open_bytes
from nothing_tune.errors import UsageError

NOT_UTF8 = "not UTF-8"
"""What bad rows start with whose bytes are no UTF-8."""
WINDOWS = "Windows-1252"
MARKS = "‘’‚“”„–—…•€™«»°§©®"  # noqa: RUF001
"""Characters of Windows-1252 that are no letters and yet usual."""
LATIN_SHARE = 0.25
"""Of the letters in words that hold a character beyond ASCII, at least so many are ASCII in western languages; in Cyrillic ones none."""

_WORD = re.compile(r"[^\W\d_]+")


def refuse(path: Path, first: int, header: bool = False) -> None:
    """Raises a `UsageError` when a file as a whole is in another encoding: at once, instead of a bad row for every accent.

    A file is when several of its lines are no UTF-8 (or its header is), no line beyond ASCII is UTF-8, and the lines look like
    Windows-1252, or most lines of the file are among them. Else its rows are bad one by one: nothing is raised.

    Args:
        path: The file, of which a line is known to be no UTF-8. It is read once more, to its end.
        first: The number of that line.
        header: Whether that line is the header of a table, without which nothing can be read.
    """
    torn: list[bytes] = []
    count = total = 0
    with open_bytes(path) as handle:
        for number, line in lines.lines(handle):
            total += 1
            if number == 1 and line is not None:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line is None or line.isascii():
                continue
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                count += 1
                if len(torn) < 1000:
                    torn.append(line)
            else:
                count = -1
                break
    found = likely(b"".join(torn))
    if not header and (count < 2 or not (found or 2 * count >= total)):
        return
    others = f"this and {count - 1:,} more line{'s' if count > 2 else ''} are" if count > 1 else "this line is"
    what = f"{path}:{first}: {others} not UTF-8" + (f", but likely {found}" if found else "")
    raise UsageError(what, hint=lines.iconv(path, found))


def likely(data: bytes) -> str | None:
    """`Windows-1252` where bytes that are no UTF-8 read as words in it; None where they do not."""
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return None
    odd = [c for c in text if not c.isascii()]
    if not odd or 2 * sum(c.isalpha() or c in MARKS for c in odd) < len(odd):
        return None
    letters = "".join(word for word in _WORD.findall(text) if not word.isascii())
    ascii_letters = sum(c.isascii() for c in letters)
    return WINDOWS if ascii_letters >= LATIN_SHARE * len(letters) else None
