"""Files that are not what they should be: exactly what is said of each, and what is read of it all the same."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.data import files, rows, sources
from nothing_tune.errors import UsageError

ROW = b'{"prompt": "a", "completion": "b"}\n'
VALUE = ROW.strip()
MENDED = "1 of 2 rows is bad, and none may be"
MEND = "mend them, or set data.max_bad_rows to 0.5, which leaves them out"
AGAIN = "download or copy it again"
ICONV = "convert it: iconv -f {0} -t UTF-8 {1}{2} > {1}.utf8{2}"


def row(**more: str) -> bytes:
    """A row whose last column is written as it is given."""
    return b'{"prompt": "a", ' + ", ".join(f'"{k}": {v}' for k, v in more.items()).encode() + b"}\n"


def lines(*texts: str) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def zst(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(data)


def parquet(count: int = 5) -> bytes:
    import pyarrow
    from pyarrow import parquet as writer

    whole = io.BytesIO()
    writer.write_table(pyarrow.table({"prompt": ["a"] * count, "completion": ["b"] * count}), whole)
    return whole.getvalue()


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


def bytes_of(path: Path, made: bytes | Callable[[], bytes]) -> None:
    path.write_bytes(made() if callable(made) else made)


BAD: list[tuple[str, bytes, str]] = [
    ("latin.jsonl", row(completion='"caf\xe9"').decode().encode("latin-1"), "not UTF-8: byte 0xe9 at position 35"),
    ("nul.jsonl", b'{"prompt": "a\0", "completion": "b"}\n', "holds NUL bytes"),
    ("zeros.jsonl", b"\0" * 64, "holds NUL bytes"),
    (
        "torn.jsonl",
        b'{"prompt": "a", "compl',
        "not JSON (a string without an end at column 17); it is the last line and has no end, so the file may be cut off",
    ),
    ("commas.jsonl", VALUE + b",\n", "not JSON (there is more behind the value at column 35)"),
    ("two.jsonl", VALUE + ROW, "not JSON (there is more behind the value at column 35)"),
    ("single.jsonl", b"{'prompt': 'a'}\n", "not JSON (a key in double quotes is expected at column 2)"),
    ("bare.jsonl", b'{"prompt": a}\n', "not JSON (a value is expected at column 12)"),
    (
        "tab.jsonl",
        b'{"prompt": "a\tb"}\n',
        "not JSON (a tab, line break or other control character that is not escaped at column 14)",
    ),
    ("escape.jsonl", b'{"prompt": "C:\\data"}\n', "not JSON (invalid \\escape at column 15)"),
    ("colon.jsonl", b'{"prompt" "a"}\n', "not JSON (expecting ':' delimiter at column 11)"),
    ("list.jsonl", b'["a", "b"]\n', "a row must be a JSON object, this is a list"),
    ("string.jsonl", b'"hello"\n', "a row must be a JSON object, this is a string"),
    ("number.jsonl", b"17\n", "a row must be a JSON object, this is a number"),
    ("float.jsonl", b"1.5\n", "a row must be a JSON object, this is a number"),
    ("null.jsonl", b"null\n", "a row must be a JSON object, this is null"),
    ("true.jsonl", b"true\n", "a row must be a JSON object, this is true or false"),
    ("nan.jsonl", row(completion='"b"', score="NaN"), "NaN is no JSON value"),
    ("infinity.jsonl", row(completion='"b"', score="-Infinity"), "-Infinity is no JSON value"),
    ("large.jsonl", row(completion='"b"', score="1e999"), "the number 1e999 is too large"),
    ("digits.jsonl", row(completion='"b"', score="7" * 5000), "holds a number with too many digits"),
    ("twice.jsonl", row(completion='"b"', prompt='"c"'), "the key `prompt` stands twice in one object"),
    (
        "inside.jsonl",
        b'{"messages": [{"role": "user", "role": "user"}]}\n',
        "the key `role` stands twice in one object",
    ),
    ("surrogate.jsonl", row(completion='"\\ud83d"'), "holds half of a surrogate pair (\\ud83d)"),
    ("deep.jsonl", b'{"prompt": ' + b"[" * 100_000 + b"\n", "is nested too deeply"),
    ("missing.csv", b"a\n", "has 1 cell, the header has 2"),
    ("extra.csv", b"a,b,c\n", "has 3 cells, the header has 2"),
    ("behind.csv", b'"a"x,b\n', "text follows the closing quote of a cell"),
    ("latin.csv", b"caf\xe9,b\n", "not UTF-8 in the column `prompt`"),
    ("nul.csv", b"a,b\0\n", "holds NUL bytes in the column `completion`"),
    ("missing.tsv", b"a\n", "has 1 cell, the header has 2"),
    ("empty.jsonl", b'{"prompt": "a", "completion": " "}\n', "`completion` is empty"),
]
"""Name, what comes after one good row, and what is wrong with it. (What formats say of rows is tested with them.)"""


@pytest.mark.parametrize(("name", "behind", "why"), BAD, ids=[case[0] for case in BAD])
def test_bad_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, behind: bytes, why: str) -> None:
    monkeypatch.chdir(tmp_path)
    before = {".csv": b"prompt,completion\na,b\n", ".tsv": b"prompt\tcompletion\na\tb\n"}.get(Path(name).suffix, ROW)
    Path(name).write_bytes(before + behind)
    ledger = rows.Ledger()
    found = list(rows.stream(sources.open_all(name), {}, ledger))
    where = f"{name}:{before.count(chr(10).encode()) + 1}"
    assert [r.value for r in found] == [{"prompt": "a", "completion": "b"}]
    assert (ledger.read, ledger.bad, ledger.bad_rows) == (2, 1, [(where, why)])
    rows.refuse(ledger, 0.5)
    with pytest.raises(UsageError) as caught:
        rows.refuse(ledger, 0.49)
    assert [(p.what, p.hint) for p in caught.value.problems] == [
        (f"{where}: {why}", ""),
        ("1 of 2 rows is bad, and 49.000% may be", MEND),
    ]


UNREADABLE: list[tuple[str, bytes | Callable[[], bytes], str, str]] = [
    ("empty.jsonl", b"", "{0} has no rows", "name data that has some"),
    ("blank.jsonl", b"\n  \n\t\n", "{0} has no rows", "name data that has some"),
    ("mark.jsonl", b"\xef\xbb\xbf", "{0} has no rows", "name data that has some"),
    ("empty.json", b"", "{0} has no rows", "name data that has some"),
    ("list.json", b"[]", "{0} has no rows", "name data that has some"),
    ("empty.csv", b"", "{0} has no rows", "name data that has some"),
    ("header.csv", b"prompt,completion\n", "{0} has no rows", "name data that has some"),
    ("empty.txt", b"", "{0} has no rows", "name data that has some"),
    ("empty.jsonl.gz", b"", "{0} has no rows", "name data that has some"),
    ("empty.jsonl.zst", b"", "{0} has no rows", "name data that has some"),
    ("none.parquet", lambda: parquet(0), "{0} has no rows", "name data that has some"),
    ("utf16.jsonl", ROW.decode().encode("utf-16"), "{0} is UTF-16, not UTF-8", ICONV.format("UTF-16", "{1}", ".jsonl")),
    ("be.json", ROW.decode().encode("utf-16-be"), "{0} is UTF-16, not UTF-8", ICONV.format("UTF-16", "{1}", ".json")),
    ("le.csv", "prompt".encode("utf-16-le"), "{0} is UTF-16, not UTF-8", ICONV.format("UTF-16", "{1}", ".csv")),
    ("utf32.txt", "hello".encode("utf-32"), "{0} is UTF-32, not UTF-8", ICONV.format("UTF-32", "{1}", ".txt")),
    (
        "utf16.jsonl.gz",
        gzip.compress(ROW.decode().encode("utf-16")),
        "{0} is UTF-16, not UTF-8",
        "decompress it, then convert it: iconv -f UTF-16 -t UTF-8",
    ),
    (
        "pretty.jsonl",
        b'{\n  "prompt": "a"\n}\n',
        "{0} has objects that are spread over several lines, and JSON lines have one a line",
        "convert it: jq -c . {0} > new.jsonl",
    ),
    (
        "web.jsonl",
        b"<!DOCTYPE html>\n<html></html>\n",
        "{0} is a web page, not data",
        "download the file itself: on the hub, /resolve/ instead of /blob/",
    ),
    (
        "web.csv",
        b"\n <HTML>\n",
        "{0} is a web page, not data",
        "download the file itself: on the hub, /resolve/ instead of /blob/",
    ),
    (
        "lfs.jsonl",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        "{0} is a Git LFS pointer, not the data",
        "fetch the data: git lfs pull",
    ),
    ("sheet.csv", b"PK\x03\x04abc", "{0} is a zip archive or a spreadsheet", "unpack it, or save the sheet as CSV"),
    (
        "gz.jsonl",
        gzip.compress(ROW),
        "{0} is compressed with gzip, which its name does not say",
        "let its name end in .gz",
    ),
    (
        "zst.csv",
        lambda: zst(ROW),
        "{0} is compressed with zstd, which its name does not say",
        "let its name end in .zst",
    ),
    ("parquet.json", parquet, "{0} is a parquet file, which its name does not say", "let its name end in .parquet"),
    ("cut.jsonl.gz", gzip.compress(ROW)[:-9], "{0} is cut off: its compressed data has no end", AGAIN),
    ("plain.jsonl.gz", ROW, "{0} is no gzip file, or has something else behind its end", AGAIN),
    ("tail.jsonl.gz", gzip.compress(ROW) + b"tail", "{0} is no gzip file, or has something else behind its end", AGAIN),
    ("flip.jsonl.gz", flipped(gzip.compress(ROW), -5), "{0} is no gzip file, or is damaged", AGAIN),
    ("cut.jsonl.zst", lambda: zst(ROW * 99)[:-5], "{0} is cut off: its compressed data has no end", AGAIN),
    ("second.jsonl.zst", lambda: zst(ROW) + zst(ROW)[:9], "{0} is cut off: its compressed data has no end", AGAIN),
    ("plain.jsonl.zst", ROW, "{0} is no zstd file, or is damaged", AGAIN),
    (
        "several.json",
        b'{\n"prompt": "a"}\n{\n"prompt": "a"}\n',
        "{0} is not readable as JSON: not JSON (there is more behind the value at line 3, column 1)",
        "a file holds one document, or one object a line: jq -c . {0} > new.jsonl",
    ),
    (
        "broken.json",
        b"[\n" + ROW + ROW + b"]",
        "{0} is not readable as JSON: not JSON (expecting ',' delimiter at line 3, column 1)",
        "mend the file at that place",
    ),
    (
        "cut.json",
        b"[\n" + VALUE + b",\n" + ROW[:20],
        "{0} is not readable as JSON: not JSON (a string without an end at line 3, column 17)",
        "mend the file at that place",
    ),
    (
        "nan.json",
        b'[{"prompt": "a", "completion": NaN}]',
        "{0} is not readable as JSON: NaN is no JSON value",
        "mend the file at that place",
    ),
    (
        "latin.json",
        b'[{"prompt": "caf\xe9"}]',
        "{0} is not UTF-8, but likely Windows-1252",
        ICONV.format("WINDOWS-1252", "latin", ".json"),
    ),
    (
        "torn.json",
        b'[{"prompt": "caf\xff\xfe\x81"}]',
        "{0} is not readable as JSON: not UTF-8: byte 0xff at position 17",
        "mend the file at that place",
    ),
    (
        "rows.jsonl",
        ROW + row(completion='"\xe9t\xe9"').decode().encode("latin-1") * 3 + ROW,
        "{0}:2: this and 2 more lines are not UTF-8, but likely Windows-1252",
        ICONV.format("WINDOWS-1252", "rows", ".jsonl"),
    ),
    (
        "quotes.txt",
        b"it\x92s\nfine\nlet\x92s go\nand\nmore\n",
        "{0}:1: this and 1 more line are not UTF-8, but likely Windows-1252",
        ICONV.format("WINDOWS-1252", "quotes", ".txt"),
    ),
    (
        "russian.csv.gz",
        lambda: gzip.compress("prompt,completion\nпривет,мир\nещё,да\n".encode("cp1251")),  # noqa: RUF001
        "{0}:2: this and 1 more line are not UTF-8",
        "decompress it, then convert it: iconv -f ENCODING -t UTF-8, with the encoding it was saved in",
    ),
    (
        "text.json",
        b'"hello"',
        "{0} must hold a list of JSON objects, it holds a string",
        'write [{{"messages": [...]}}, ...], or one object a line',
    ),
    (
        "splits.json",
        b'{"train": [' + VALUE + b'], "test": [' + VALUE + b"]}",
        "{0} holds several lists of objects: train, test",
        "keep one: jq -c '.train[]' {0} > new.jsonl",
    ),
    (
        "nameless.csv",
        b"prompt,,completion\n",
        "{0}:1: column 2 has no name",
        "the first line of a table names its columns",
    ),
    ("same.csv", b"\na,b,a\n1,2,3\n", "{0}:2: two columns are called `a`", "give each column its own name"),
    (
        "several.csv",
        b"\nprompt;completion;a,b\n",
        "{0}:2: the header has commas and semicolons, and either may part the columns",
        "save it with commas, and names that hold one in quotes",
    ),
    ("commas.tsv", b"prompt,completion\n", "{0}:1: the columns are separated by commas", "let its name end in .csv"),
    (
        "quote.csv",
        b'prompt,completion\na,b\n"a,b\nc,d\n',
        "{0}:3: a quote is opened in this row and never closed",
        'a quote inside a cell is written ""',
    ),
    (
        "behind.csv",
        b'"prompt"x,completion\n',
        "{0}:1: the header cannot be read (',' expected after '\"')",
        'a quote inside a cell is written ""',
    ),
    (
        "mac.csv",
        b"prompt,completion\ra,b\r",
        "{0}:1: lines end in a bare carriage return",
        "convert it: tr '\\r' '\\n' < {0} > new.csv",
    ),
    (
        "latin.csv",
        b"prompt,r\xe9ponse\n",
        "{0}:1: this line is not UTF-8, but likely Windows-1252",
        ICONV.format("WINDOWS-1252", "latin", ".csv"),
    ),
    (
        "cut.parquet",
        lambda: parquet()[:-50],
        "{0} is no parquet file, or is damaged: parquet magic bytes not found in footer. Either the file is corrupted or "
        "this is not a parquet file",
        AGAIN,
    ),
    ("empty.parquet", b"", "{0} is no parquet file, or is damaged: parquet file size is 0 bytes", AGAIN),
    (
        "cut.parquet.gz",
        lambda: gzip.compress(parquet())[:-9],
        "{0} is cut off: its compressed data has no end",
        AGAIN,
    ),
    (
        "rows.xlsx",
        b"PK",
        "{0} is no data file that is known",
        "data files end in .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .txt, and may be compressed: .gz, .zst",
    ),
]
"""Name, bytes, what is said, and the cure; `{0}` is the name."""


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, made, what, hint in UNREADABLE:
        bytes_of(Path(name), made)
        with pytest.raises(UsageError) as caught:
            rows.refuse(all_of(name))
        assert [(p.what, p.hint) for p in caught.value.problems] == [
            (what.format(name), hint.format(name, Path(name).stem))
        ], name
    assert len(BAD) + len(UNREADABLE) > 80


def all_of(name: str) -> rows.Ledger:
    ledger = rows.Ledger()
    for _ in rows.stream(sources.open_all(name), {}, ledger):
        pass
    return ledger


FINE: list[tuple[str, bytes | Callable[[], bytes], int]] = [
    ("mark.jsonl", b"\xef\xbb\xbf" + ROW, 1),
    ("windows.jsonl", ROW.replace(b"\n", b"\r\n") + b"\r\n" + ROW, 2),
    ("no-end.jsonl", ROW + VALUE, 2),
    ("pair.jsonl", row(completion='"\\ud83d\\ude00"'), 1),
    ("rows.ndjson", ROW + b"\n \n" + ROW, 2),
    ("array.jsonl", b"[\n" + VALUE + b",\n" + ROW + b"]\n", 2),
    ("line.jsonl", b"[" + VALUE + b"]", 1),
    ("lines.json", ROW + ROW, 2),
    ("one.json", ROW, 1),
    ("pretty.json", b'{\n"prompt": "a",\n"completion": "b"\n}', 1),
    ("inside.json", b'{"version": 1, "data": [' + VALUE + b"]}", 1),
    (
        "conversation.json",
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
        1,
    ),
    ("mark.json", b"\xef\xbb\xbf[" + VALUE + b"]", 1),
    ("excel.csv", b"\xef\xbb\xbfprompt,completion\r\na,b\r\n\r\nc,d\r\n", 2),
    ("quotes.csv", b'prompt,completion\n"a ""quoted"", b","x\ny"\n', 1),
    ("tabs.tsv", b"prompt\tcompletion\na, b\tc\n", 1),
    ("tabs.csv", b"prompt\tcompletion\na, b\tc\n", 1),
    ("semicolons.csv", b'\xef\xbb\xbf\r\nprompt;"completion";"a, b"\r\na, b;"c;\nd";e\r\n', 1),
    ("commas.csv", b"prompt,completion,level;cefr\na,b;c,d\n", 1),
    ("frames.jsonl.gz", gzip.compress(ROW) + gzip.compress(ROW), 2),
    ("frames.jsonl.zst", lambda: zst(ROW) + zst(ROW) + zst(b""), 2),
    ("table.csv.zst", lambda: zst(b"prompt,completion\na,b\n"), 1),
    ("rows.parquet", parquet, 5),
    ("rows.parquet.gz", lambda: gzip.compress(parquet()), 5),
    ("rows.parquet.zst", lambda: zst(parquet()), 5),
    ("text.txt", b"\xef\xbb\xbfhello\r\n\r\nthere\r\n", 2),
]


def test_what_looks_odd_and_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, made, count in FINE:
        bytes_of(Path(name), made)
        ledger = all_of(name)
        assert (ledger.read, ledger.bad) == (count, 0), name


def test_bad_rows_stand_where_they_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text('prompt,completion\n"a\nb\nc",d\ne\n"f\ng",h\n')
    assert [number for number, _ in files.read(Path("rows.csv"))] == [2, 5, 6]
    Path("rows.json").write_text(f'[{VALUE.decode()}, 3, null, "x", [], 1.5, true]')
    ledger = all_of("rows.json")
    assert ledger.bad_rows == [
        (f"rows.json, row {number}", f"a row must be a JSON object, this is {what}")
        for number, what in enumerate(("a number", "null", "a string", "a list", "a number", "true or false"), 2)
    ]


def test_a_source_without_a_good_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.jsonl").write_text("hello there\nhow are you\n")
    with pytest.raises(UsageError) as caught:
        sources.open_all("notes.jsonl")
    assert [(p.what, p.key, p.hint) for p in caught.value.problems] == [
        ("notes.jsonl:1: not JSON (a value is expected at column 1)", "data.train", ""),
        ("notes.jsonl:2: not JSON (a value is expected at column 1)", "data.train", ""),
        (
            "notes.jsonl has no row that can be read",
            "data.train",
            "each line is one JSON object; plain text is read from a file that ends in .txt",
        ),
    ]
    Path("lists.json").write_text("[[1], [2]]")
    with pytest.raises(UsageError) as caught:
        sources.open_all("lists.json")
    assert caught.value.problems[-1].hint == "mend the rows"


def test_long_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are in MiB; smaller ones show the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nothing_tune.data.lines.LINE_BYTES", 2**20)
    long = row(completion=f'"{"x" * 2**20}"')
    Path("rows.jsonl").write_bytes(ROW + long + ROW + long.strip())
    assert all_of("rows.jsonl").bad_rows == [
        ("rows.jsonl:2", "the line is longer than 1 MiB"),
        ("rows.jsonl:4", "the line is longer than 1 MiB"),
    ]
    Path("rows.txt").write_bytes(b"a\n" + long)
    assert all_of("rows.txt").bad_rows == [("rows.txt:2", "the line is longer than 1 MiB")]
    Path("rows.json").write_bytes(b"[" + long.strip() + b"]")
    assert all_of("rows.json").read == 1
    Path("rows.csv").write_bytes(b"prompt,completion\n" + long)
    said: Any
    with pytest.raises(UsageError, match=r"rows\.csv:2: the line is longer than 1 MiB"):
        all_of("rows.csv")
    monkeypatch.setattr(files, "DOCUMENT_BYTES", 2**20)
    with pytest.raises(UsageError) as said:
        all_of("rows.json")
    assert said.value.problems[0].hint == "use JSON lines: jq -c '.[]' rows.json > new.jsonl"
    assert said.value.problems[0].what.startswith("rows.json is one JSON document of more than 1 MiB")


def test_what_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_bytes(ROW)

    def refuse(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(files, "open_bytes", refuse)
        with pytest.raises(UsageError) as caught:
            sources.open_all("rows.jsonl")
    assert [(p.what, p.hint) for p in caught.value.problems] == [
        ("cannot read rows.jsonl: Permission denied", "mend the permissions, or name another file")
    ]
