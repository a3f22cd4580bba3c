"""Rows: in order, each with its place; the ledger counts them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.data import rows, sources
from nothing_tune.data.rows import Ledger, Row
from nothing_tune.errors import UsageError


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pair(number: int, **more: Any) -> dict[str, Any]:
    return {"prompt": f"q{number}", "completion": f"a{number}", **more}


def write(name: str, *found: Any) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("".join(f"{json.dumps(row)}\n" for row in found))


def test_order_places_and_counts() -> None:
    write("d/1/a.jsonl", pair(1), {"prompt": "q"}, pair(2, level="A1"))
    write("d/2/a.jsonl", pair(3))
    Path("b.json").write_text(json.dumps([pair(4), pair(5)]))
    Path("c.jsonl.gz").write_bytes(gzip.compress(json.dumps(pair(6)).encode()))
    ledger = Ledger()
    opened = sources.open_all(["d/*/*.jsonl", "b.json", "c.jsonl.gz"])
    stream = rows.stream(opened, {}, ledger)
    assert ledger.files == ["d/1/a.jsonl", "d/2/a.jsonl", "b.json", "c.jsonl.gz"]
    assert (ledger.read, ledger.share()) == (0, 0.0)
    found = list(stream)
    assert found == [
        Row(pair(1), 0, 1, 0, "1/a.jsonl"),
        Row(pair(2, level="A1"), 0, 3, 0, "1/a.jsonl"),
        Row(pair(3), 1, 1, 0, "2/a.jsonl"),
        Row(pair(4), 2, 1, 1, "b.json"),
        Row(pair(5), 2, 2, 1, "b.json"),
        Row(pair(6), 3, 1, 2, "c.jsonl.gz"),
    ]
    assert [ledger.place(row) for row in found] == [
        "d/1/a.jsonl:1", "d/1/a.jsonl:3", "d/2/a.jsonl:1", "b.json, row 1", "b.json, row 2", "c.jsonl.gz:1",
    ]  # fmt: skip
    assert (ledger.read, ledger.bad, ledger.share()) == (7, 1, 1.0)
    assert [place for place, _ in ledger.bad_rows] == ["d/1/a.jsonl:2"]
    sizes = [one.bytes for one in opened]
    assert [ledger.counts(one) for one in opened] == [
        {"files": 2, "bytes": sizes[0], "read": 4, "bad": 1, "rows": 3},
        {"files": 1, "bytes": sizes[1], "read": 2, "bad": 0, "rows": 2},
        {"files": 1, "bytes": sizes[2], "read": 1, "bad": 0, "rows": 1},
    ]
    assert ledger.where(2, 9) == "b.json, row 9"


def test_one_ledger_for_several_streams() -> None:
    write("a.jsonl", pair(1), pair(2))
    write("b.jsonl", pair(3))
    opened = sources.open_all(["a.jsonl", "b.jsonl"])
    ledger = Ledger(total=sum(one.bytes for one in opened))
    next(rows.stream(opened[:1], {}, ledger))  # not read to its end
    found = list(rows.stream(opened[1:], {}, ledger))
    assert [ledger.place(row) for row in found] == ["b.jsonl:1"]
    assert found[0].source == 1
    assert ledger.share() == 1.0
    ledger.refuse(found[0], "the template says no")
    assert ledger.bad_rows == [("b.jsonl:1", "the template says no")]
    assert ledger.counts(opened[1]) == {"files": 1, "bytes": opened[1].bytes, "read": 1, "bad": 1, "rows": 0}


def test_columns_are_renamed_before_a_format_is_looked_for() -> None:
    Path("qa.csv").write_text("question,answer,level\nq,a,B1\n")
    settings = {"columns": {"prompt": "question", "completion": "answer"}}
    found = list(rows.stream(sources.open_all("qa.csv", settings), settings, Ledger()))
    assert [row.value for row in found] == [{"prompt": "q", "completion": "a", "level": "B1"}]


def test_cells_that_hold_json() -> None:
    turns = [{"role": "user", "content": "a, b"}, {"role": "assistant", "content": "c"}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    cells = ['"' + json.dumps(part).replace('"', '""') + '"' for part in (turns, tools)]
    Path("chat.csv").write_text(f"messages,tools\n{','.join(cells)}\n")
    assert [row.value for row in rows.stream(sources.open_all("chat.csv"), {}, Ledger())] == [
        {"messages": turns, "tools": tools}
    ]


def test_nulls_that_arrow_adds_are_taken_away() -> None:
    import pyarrow
    from pyarrow import parquet

    def said(**arguments: Any) -> dict[str, Any]:
        call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
        schema = {"type": "object", "properties": {name: {"type": "string"} for name in arguments}}
        return {"messages": turns, "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}

    both = [said(x=1), said(y={"k": 2}, z=[{"l": 3}, {"m": 4}])]
    parquet.write_table(pyarrow.Table.from_pylist(both), "rows.parquet")
    assert [row.value for row in rows.stream(sources.open_all("rows.parquet"), {}, Ledger())] == both
    assert rows.without_nulls({"a": None, "b": [{"c": None, "d": [None, 1]}]}) == {"b": [{"d": [None, 1]}]}


def test_chat_logs_are_joined_file_by_file() -> None:
    """Conversations end with their file; the wanted speaker need not be in every one of them."""
    log = [{"speaker": name, "line": f"{name} {n}"} for n in (1, 2) for name in ("ANNA", "BEN")]
    write("d/1.jsonl", *log)
    write("d/2.jsonl", {"speaker": "CARL", "line": "alone"})
    write("d/3.jsonl", *log)
    settings: dict[str, Any] = {"transcript": {"speaker": "BEN", "turns": 8}, "format": "transcript"}
    ledger = Ledger()
    found = list(rows.stream(sources.open_all("d", settings), settings, ledger))
    assert [ledger.place(row) for row in found] == ["d/1.jsonl:1", "d/3.jsonl:1"]
    assert [len(row.value["messages"]) for row in found] == [4, 4]
    settings["transcript"]["speaker"] = "DORA"
    with pytest.raises(UsageError, match="'DORA' speaks nowhere"):
        list(rows.stream(sources.open_all("d", settings), settings, Ledger()))


def test_refuse() -> None:
    write("rows.jsonl", *[pair(n) for n in range(20)], *[[n] for n in range(30)])
    ledger = Ledger()
    assert len(list(rows.stream(sources.open_all("rows.jsonl"), {}, ledger))) == 20
    rows.refuse(ledger, 0.6)
    rows.refuse(Ledger())
    with pytest.raises(UsageError) as caught:
        rows.refuse(ledger, 0.001)
    said = [(p.what, p.key, p.hint) for p in caught.value.problems]
    assert said[:-1] == [
        (f"rows.jsonl:{n}: a row must be a JSON object, this is a list", "", "") for n in range(21, 31)
    ]
    assert said[-1] == (
        "30 of 50 rows are bad, and 0.100% may be, the first 10 are named",
        "data.max_bad_rows",
        "mend them, or set data.max_bad_rows to 0.6, which leaves them out",
    )


def test_enough() -> None:
    cases = [(2, 56, "0.036"), (1, 3, "0.34"), (1, 1000, "0.001"), (1, 10**7, "0.0000001"), (3, 10, "0.3"), (7, 7, "1")]
    for bad, read, wanted in cases:
        assert float(rows.enough(bad, read)) == float(wanted), (bad, read)
    for read in range(1, 200):
        for bad in range(1, read + 1):
            rows.refuse_share(bad, read, [], float(rows.enough(bad, read)))


def test_a_limit_reads_no_further() -> None:
    write("a.jsonl", pair(1), {"prompt": "q"}, pair(2), pair(3), {"prompt": "q"})
    write("b.jsonl", pair(4))
    ledger = Ledger()
    opened = sources.open_all([{"source": "[ab].jsonl", "max_rows": 2}, "b.jsonl"])
    stream = rows.stream(opened, {}, ledger)
    assert [ledger.place(next(stream)) for _ in range(2)] == ["a.jsonl:1", "a.jsonl:3"]
    assert [ledger.place(row) for row in stream] == ["b.jsonl:1"]
    assert [(c.read, c.bad, c.rows) for c in ledger.sources] == [(3, 1, 2), (1, 0, 1)]
    assert ledger.share() == 1.0


def test_lines_that_are_in_no_example_are_counted() -> None:
    log = [{"scene": n, "speaker": name, "line": "x"} for n in range(7) for name in ("BEN", "ANNA", "BEN")]
    write("log.jsonl", *log)
    settings: dict[str, Any] = {"transcript": {"speaker": "BEN"}, "format": "transcript"}
    ledger = Ledger()
    assert len(list(rows.stream(sources.open_all("log.jsonl", settings), settings, ledger))) == 7
    why = "the speaker's line opens the conversation"
    assert (ledger.bad, ledger.left_out) == (0, {why: 7})
    assert ledger.left_out_places == {why: [f"log.jsonl:{n}" for n in (1, 4, 7, 10, 13)]}


def test_only_the_first_bad_rows_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "KEPT_BAD_ROWS", 3)
    write("rows.jsonl", pair(1), *[[n] for n in range(5)])
    ledger = Ledger()
    list(rows.stream(sources.open_all("rows.jsonl"), {}, ledger))
    assert (ledger.bad, len(ledger.bad_rows)) == (5, 3)
