"""Rows: where they come from, what is wrong with them, and that they keep their shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nothing_tune.engine import data
from nothing_tune.errors import UsageError

GOOD = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def write(path: Path, *rows: object) -> str:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n")
    return str(path)


def load(train: object, evaluate: bool = False, **more: object) -> data.Data:
    return data.load({"train": train, "format": "auto", "seed": 42, **more}, evaluate)


def test_lines_with_errors_are_named_all_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path / "rows.jsonl",
        GOOD,
        "{nope",
        {"messages": []},
        [1],
        GOOD,
        {"messages": [{"role": "bot", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x"}]},
    )
    with pytest.raises(UsageError) as caught:
        load(path)
    what = [p.what for p in caught.value.problems]
    assert [w.split(": ")[0] for w in what] == [f"{path}:{n}" for n in (2, 3, 4, 6, 7)]
    assert "not JSON" in what[0]
    assert "a list of messages" in what[1]
    assert "'bot'" in what[3]
    assert "nothing to learn" in what[4]
    assert "messages" in caught.value.problems[-1].hint


def test_many_bad_rows_are_counted(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(write(tmp_path / "rows.jsonl", GOOD, *[{"messages": []}] * 25))
    assert len(caught.value.problems) == data.MAX_PROBLEMS + 1
    assert "15 more rows" in caught.value.problems[-1].what


def test_unknown_columns_say_what_was_found_and_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(write(tmp_path / "rows.jsonl", {"instruction": "a", "output": "b"}))
    problem = caught.value.problems[0]
    assert "its columns are instruction, output" in problem.what
    assert all(word in problem.hint for word in ("messages", "prompt-completion", "text"))


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"looked for {tmp_path}/data/none.jsonl") as caught:
        load("data/none.jsonl")
    assert caught.value.problems[0].key == "data.train"
    with pytest.raises(UsageError, match="holds no file that ends in"):
        load(str(tmp_path))
    with pytest.raises(UsageError, match="no rows"):
        load(write(tmp_path / "empty.jsonl", ""))


def test_files_folders_globs_and_lists_are_read_alike(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a.jsonl", GOOD, GOOD), write(tmp_path / "b.jsonl", GOOD)
    for source in ([one, two], str(tmp_path), str(tmp_path / "*.jsonl")):
        assert len(load(source).train) == 3


def test_json_csv_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([GOOD, GOOD]))
    assert load(str(tmp_path / "a.json")).format == "messages"
    (tmp_path / "b.csv").write_text('prompt,completion\n"a, b",c\nd,e\n')
    loaded = load(str(tmp_path / "b.csv"))
    assert loaded.format == "prompt-completion"
    assert loaded.train[0] == {"prompt": "a, b", "completion": "c"}
    from datasets import Dataset

    Dataset.from_list([{"text": "x"}] * 3).to_parquet(tmp_path / "c.parquet")
    assert load(str(tmp_path / "c.parquet")).format == "text"


def test_tool_calls_keep_their_shape(tmp_path: Path) -> None:
    rows = []
    for arguments in ({"city": "Oslo"}, {"n": 3, "deep": {"x": [1, "two"]}}):
        call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
        rows.append(
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [call]}]}
        )
    rows.append(GOOD)
    assert load(write(tmp_path / "rows.jsonl", *rows)).train.to_list() == rows


def test_the_split_happens_only_with_evaluation(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *[GOOD] * 10)
    assert load(path, evaluate=False, eval=0.2).eval is None
    both = load(path, evaluate=True, eval=0.2)
    assert both.eval is not None
    assert (len(both.train), len(both.eval)) == (8, 2)
    other = write(tmp_path / "other.jsonl", GOOD)
    own = load(path, evaluate=True, eval=other)
    assert own.eval is not None
    assert (len(own.train), len(own.eval)) == (10, 1)
    with pytest.raises(UsageError, match="names no rows"):
        load(path, evaluate=True, eval=None)
    assert len(load(path, max_samples=4).train) == 4


def test_large_files_are_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "IN_MEMORY_BYTES", 10)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    assert len(load(write(tmp_path / "rows.jsonl", GOOD, GOOD)).train) == 2
    with pytest.raises(UsageError, match="row 1"):
        load(write(tmp_path / "bad.jsonl", GOOD, {"messages": [{"role": "user", "content": "x"}]}))


def test_a_hub_data_set_without_a_network(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load("nobody/no-such-data")
    assert caught.value.problems[0].key == "data.train"
    assert "nobody/no-such-data" in caught.value.problems[0].what
