"""CSV and TSV files as raw rows: the first line that is not blank names the columns, and a bad row is told, not guessed at."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from nothing_tune.data import encodings, lines
from nothing_tune.errors import UsageError


def rows(handle: IO[bytes], path: Path, comma: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """`(line, row)` of each row as `files.read` gives them.

    Args:
        handle: The file, behind its byte-order mark.
        path: Its name, for errors.
        comma: What parts the cells by the file's name: a comma or a tab. In a table with commas the header may say
            otherwise: where it has semicolons, or tabs, and nothing else of these, they part the cells.

    Raises:
        UsageError: The header is unusable, or the rows behind a place cannot be told apart.
    """
    csv.field_size_limit(lines.LINE_BYTES)
    text = _decoded(handle, path)
    if comma == ",":
        comma, text = _comma(text, path)
    reader = csv.reader(text, delimiter=comma, strict=True)
    header: list[str] = []
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield start, _fault(error, path, start, bool(header))
            continue
        if not cells or cells == [""]:
            continue
        if not header:
            header = _header(cells, path, start, comma)
            continue
        wrong = _bad_cells(cells, header)
        yield start, wrong or dict(zip(header, cells, strict=True))


_QUOTED = re.compile(r'"[^"]*"')
_COMMAS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def _comma(text: Iterator[str], path: Path) -> tuple[str, Iterator[str]]:
    """What parts the cells, told from the first line that is not blank, and all lines again."""
    read = []
    for line in text:
        read.append(line)
        if line.strip():
            break
    bare = _QUOTED.sub("", read[-1].strip("\r\n")) if read else ""
    found = {sign: bare.count(sign) for sign in _COMMAS if sign in bare}
    most = max(found, key=lambda sign: found[sign], default=",")
    if len(found) > 1 and (most != "," or "," not in found):
        told = " and ".join(_COMMAS[sign] for sign in found)
        raise UsageError(
            f"{path}:{len(read)}: the header has {told}, and either may part the columns",
            hint="save it with commas, and names that hold one in quotes",
        )
    return (most if len(found) == 1 else ","), itertools.chain(read, text)


def _decoded(handle: IO[bytes], path: Path) -> Iterator[str]:
    for number, line in lines.lines(handle):
        if line is None:
            raise UsageError(f"{path}:{number}: {lines.too_long()}", hint="split or mend the file")
        yield line.decode("utf-8", "surrogateescape")


def _fault(error: csv.Error, path: Path, start: int, after_header: bool) -> str:
    """What is wrong with one row; `UsageError` where the rows behind it cannot be told apart."""
    text = str(error)
    if "unexpected end of data" in text or "field larger" in text:
        raise UsageError(
            f"{path}:{start}: a quote is opened in this row and never closed",
            hint='a quote inside a cell is written ""',
        ) from error
    if "new-line character" in text:
        raise UsageError(
            f"{path}:{start}: lines end in a bare carriage return",
            hint=f"convert it: tr '\\r' '\\n' < {path.name} > new.csv",
        ) from error
    if not after_header:
        raise UsageError(
            f"{path}:{start}: the header cannot be read ({lines.lowered(error)})",
            hint='a quote inside a cell is written ""',
        ) from error
    return (
        "text follows the closing quote of a cell" if "expected after" in text else f"not CSV ({lines.lowered(error)})"
    )


def _header(cells: list[str], path: Path, line: int, comma: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    for number, name in enumerate(names, 1):
        if _is_torn(name):
            encodings.refuse(path, line, header=True)
        if not name:
            raise UsageError(
                f"{path}:{line}: column {number} has no name", hint="the first line of a table names its columns"
            )
        if names.index(name) + 1 < number:
            raise UsageError(f"{path}:{line}: two columns are called `{name}`", hint="give each column its own name")
    for other, called in ((";", "semicolons"), (",", "commas")):
        if len(names) == 1 and comma == "\t" and other in names[0]:
            raise UsageError(f"{path}:{line}: the columns are separated by {called}", hint="let its name end in .csv")
    return names


def _bad_cells(cells: list[str], header: list[str]) -> str | None:
    if len(cells) != len(header):
        count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
        return f"has {count}, the header has {len(header)}"
    for name, cell in zip(header, cells, strict=True):
        if _is_torn(cell):
            return f"not UTF-8 in the column `{name}`"
        if "\0" in cell:
            return f"holds NUL bytes in the column `{name}`"
    return None


def _is_torn(cell: str) -> bool:
    """Whether bytes of `cell` were no UTF-8 (`surrogateescape` keeps them as these characters)."""
    return not cell.isascii() and any("\udc80" <= c <= "\udcff" for c in cell)
