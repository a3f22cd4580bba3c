"""Sources: what names and mappings mean, where files are found, how a format is seen, and what tells two sources apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nothing_tune.data import digests, files, rows, sources
from nothing_tune.data.sources import Source
from nothing_tune.errors import UsageError

ROW = '{"prompt": "a", "completion": "b"}\n'
FORMATS = "auto, messages, openai, prompt-completion, text, alpaca, sharegpt, glaive, transcript"


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNE_CACHE_DIR", str(tmp_path / "cache"))
    sources._loaded.cache_clear()


def write(*names: str, text: str = ROW) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


def test_files_and_hub_ids() -> None:
    write("here", "folder/here")
    file = (
        "rows.jsonl",
        "rows.csv.gz",
        "./x",
        "/x/y",
        "~/x",
        "data/*.jsonl",
        "rows[12]",
        "row?",
        "a/b/c",
        "here",
        "folder/here",
    )
    hub = ("org/name", "name", "org/name:train", "org/name.v2", "gsm8k:main")
    assert {name: sources.is_file(name) for name in (*file, *hub)} == {
        **dict.fromkeys(file, True),
        **dict.fromkeys(hub, False),
    }


def test_parse() -> None:
    settings = {"format": "alpaca", "columns": {"output": "answer"}}
    own = {"source": "b.jsonl", "weight": 2, "max_rows": 5.0, "format": "text", "columns": {}}
    cases: list[tuple[Any, dict[str, Any], tuple[Source, ...]]] = [
        (None, {}, ()),
        ([], {}, ()),
        ("a.jsonl", {}, (Source("a.jsonl"),)),
        ("a.jsonl", settings, (Source("a.jsonl", format="alpaca", columns={"output": "answer"}),)),
        (own, settings, (Source("b.jsonl", 2.0, 5, "text", {}),)),
        (["a.jsonl", "org/name:test"], {}, (Source("a.jsonl"), Source("org/name", split="test"))),
        ("org/name:more:test", {}, (Source("org/name", split="test", subset="more"),)),
        ("x" * 5000, {}, (Source("x" * 5000),)),
        (
            {"source": "org/name", "split": "test", "revision": "v1"},
            {},
            (Source("org/name", split="test", revision="v1"),),
        ),
    ]
    for value, given, wanted in cases:
        assert sources.parse(value, given) == wanted, value
    assert Source("org/name").label == "org/name:train"
    assert Source("rows.jsonl").label == "rows.jsonl"


REFUSED: list[tuple[Any, list[tuple[str, str, str]]]] = [
    (
        3,
        [
            (
                "data.train: a source is a name or a mapping with `source`, this is a number",
                "data.train",
                "such as rows.jsonl or {source: rows.jsonl, max_rows: 1000}",
            )
        ],
    ),
    ({"weight": 1}, [("data.train: `source` is missing", "data.train.source", "give a file, folder, glob or hub id")]),
    (
        {"source": "a.jsonl", "wieght": 1},
        [("data.train: a source has no key 'wieght'", "data.train.wieght", "did you mean weight?")],
    ),
    (
        {"source": "a.jsonl", "zzz": 1},
        [
            (
                "data.train: a source has no key 'zzz'",
                "data.train.zzz",
                "a source may have source, weight, max_rows, format, columns, split, revision",
            )
        ],
    ),
    (
        ["a.jsonl", {"source": "b.jsonl", "weight": 0, "max_rows": 1.5, "format": "parquet", "columns": ["a"]}],
        [
            (
                "data.train.2: `weight` of b.jsonl must be a number above 0, this is 0",
                "data.train.2.weight",
                "a weight of 2 takes twice the rows of a weight of 1; to use no row of a source, remove the source",
            ),
            (
                "data.train.2: `max_rows` of b.jsonl must be a whole number from 1, this is 1.5",
                "data.train.2.max_rows",
                "remove it to use all rows, or remove the source to use none",
            ),
            (
                f"data.train.2: `format` of b.jsonl must be one of {FORMATS}, this is 'parquet'",
                "data.train.2.format",
                "auto looks at the rows",
            ),
            (
                "data.train.2: `columns` of b.jsonl must be a mapping: the format's column, the file's column, this is a list",
                "data.train.2.columns",
                "such as {prompt: question, completion: answer}",
            ),
        ],
    ),
    (
        [{"source": "a.jsonl", "weight": 1}, "b.jsonl", "org/c"],
        [("data.train: some sources have a weight, but not b.jsonl, org/c:train", "data.train", "weigh all or none")],
    ),
    (
        {"source": "org/name:test", "split": "train"},
        [("data.train: two splits are named, test and train", "data.train.split", "keep one of them")],
    ),
    (
        {"source": "a.jsonl", "split": "train"},
        [("data.train: a.jsonl is a file, and only a hub data set has a split", "data.train.split", "remove split")],
    ),
    (
        {"source": "a.jsonl", "revision": "v1"},
        [
            (
                "data.train: a.jsonl is a file, and only a hub data set has a revision",
                "data.train.revision",
                "remove revision",
            )
        ],
    ),
    (
        "org/x:a:b:c",
        [("data.train: 'org/x:a:b:c' is no hub id", "data.train", "write ORG/NAME:SPLIT or ORG/NAME:SUBSET:SPLIT")],
    ),
    (
        {"source": "org/x", "split": 3},
        [("data.train: `split` of org/x must be text, this is 3", "data.train.split", "such as train")],
    ),
    (
        {"source": "org/x", "revision": 3},
        [
            (
                "data.train: `revision` of org/x must be text, this is 3",
                "data.train.revision",
                "a branch, tag or commit in quotes",
            )
        ],
    ),
    (
        {"source": " "},
        [
            (
                "data.train: `source` must be a file, folder, glob or hub id, this is ' '",
                "data.train.source",
                "give a file, folder, glob or hub id",
            )
        ],
    ),
    (
        {"source": "a.jsonl", "weight": float("nan")},
        [
            (
                "data.train: `weight` of a.jsonl must be a number above 0, this is nan",
                "data.train.weight",
                "a weight of 2 takes twice the rows of a weight of 1; to use no row of a source, remove the source",
            )
        ],
    ),
    (
        {"source": "a.jsonl", "max_rows": True},
        [
            (
                "data.train: `max_rows` of a.jsonl must be a whole number from 1, this is True",
                "data.train.max_rows",
                "remove it to use all rows, or remove the source to use none",
            )
        ],
    ),
]


def test_parse_refuses() -> None:
    for value, wanted in REFUSED:
        with pytest.raises(UsageError) as caught:
            sources.parse(value)
        said = [(p.what, p.key, p.hint) for p in caught.value.problems]
        assert said == wanted, value
    with pytest.raises(UsageError, match="a source has no key 'wieght'") as caught:
        sources.parse({"source": "a", "wieght": 1}, key="")
    assert caught.value.problems[0].what == "a source has no key 'wieght'"


def test_resolve() -> None:
    write(
        "d/b.jsonl", "d/a.csv.gz", "d/.hidden.jsonl", "d/notes.txt", "d/b.jsonl.card.json", "d/inner/c.jsonl", "d/x.py"
    )
    write("t/one.txt", "t/two.txt", "d/inner.jsonl", "d/.git/d.jsonl", "d/inner/deeper/notes.txt", "only/x/y/q.jsonl")
    Path("d/inner/back").symlink_to(Path("d").absolute())
    write("elsewhere/z.jsonl")
    Path("only/linked").symlink_to(Path("elsewhere").absolute())

    def found(name: str) -> list[str]:
        return [str(p) for p in files.resolve(name)]

    assert found("d") == ["d/a.csv.gz", "d/b.jsonl", "d/inner/c.jsonl", "d/inner.jsonl"]
    assert found("only") == ["only/linked/z.jsonl", "only/x/y/q.jsonl"]
    assert found("t") == ["t/one.txt", "t/two.txt"]
    assert found("d/*.json*") == ["d/b.jsonl", "d/inner.jsonl"]
    assert found("d/inner/**/*.jsonl")[-1] == "d/inner/c.jsonl"
    assert found("d/b.jsonl") == ["d/b.jsonl"]
    assert found("nowhere") == found("nowhere/*.jsonl") == found("nowhere.jsonl") == []


def test_what_is_not_there() -> None:
    here = Path.cwd()
    Path("empty").mkdir()
    ends = ".jsonl, .ndjson, .json, .csv, .tsv, .parquet, .txt"
    cases = [
        ("none.jsonl", f"there is no data at none.jsonl: looked for {here}/none.jsonl"),
        (
            "~nobody-of-that-name/a.jsonl",
            f"there is no data at ~nobody-of-that-name/a.jsonl: looked for {here}/~nobody-of-that-name/a.jsonl",
        ),
        (f"{'x' * 300}.jsonl", f"there is no data at {'x' * 300}.jsonl: looked for {here}/{'x' * 300}.jsonl"),
        ("x/*.jsonl", f"no file matches x/*.jsonl: looked for {here}/x/*.jsonl"),
        ("empt*", f"no data file matches empt*: what matches does not end in {ends}"),
        ("empty", f"there is no data at empty: {here}/empty holds no file that ends in {ends}"),
    ]
    for name, what in cases:
        with pytest.raises(UsageError) as caught:
            sources.open_all(name)
        hint = "name a file or folder that exists"
        assert [(p.what, p.key, p.hint) for p in caught.value.problems] == [(what, "data.train", hint)]
    with pytest.raises(UsageError) as caught:
        sources.open_all("/dev/null")
    assert [(p.what, p.hint) for p in caught.value.problems] == [
        ("/dev/null is no regular file", "write what it gives into a file first")
    ]
    with pytest.raises(UsageError) as caught:
        sources.open_all(None, key="data.eval")
    assert caught.value.problems[0].what == "no data is named"
    assert caught.value.problems[0].hint == "set data.eval to a file or the name of a data set on the hub"


def test_open_all() -> None:
    write("a.jsonl", "d/b.jsonl", "d/c.jsonl")
    write("t.csv", text="question,answer\nq,a\n")
    first, second, third = sources.open_all(
        ["a.jsonl", "d", {"source": "t.csv", "columns": {"prompt": "question", "completion": "answer"}}]
    )
    assert (first.label, first.format.NAME, first.files, first.bytes) == (
        "a.jsonl",
        "prompt-completion",
        (Path("a.jsonl"),),
        35,
    )
    assert second.labels == ("d/b.jsonl", "d/c.jsonl")
    assert third.format.NAME == "prompt-completion"
    with pytest.raises(UsageError) as caught:
        sources.open_all("t.csv", {"columns": {"prompt": "qestion"}})
    assert [(p.what, p.key, p.hint) for p in caught.value.problems] == [
        ("t.csv has no column 'qestion', which is to be `prompt`", "data.train.columns", "did you mean question?")
    ]
    with pytest.raises(UsageError) as caught:
        sources.open_all("t.csv", {"columns": {"prompt": "zzz"}})
    assert caught.value.problems[0].hint == "it has question, answer"
    with pytest.raises(UsageError, match=r"t\.csv has no format that is known: its columns are question, answer"):
        sources.open_all("t.csv")
    assert sources.open_all("t.csv", {"format": "text"})[0].format.NAME == "text"


def test_rename() -> None:
    row = {"a": 1, "b": 2, "c": 3}
    assert sources.rename(row, None) is row
    assert sources.rename(row, {"b": "a", "a": "b"}) == {"b": 1, "a": 2, "c": 3}
    assert sources.rename(row, {"x": "a", "y": "missing"}) == {"b": 2, "c": 3, "x": 1}


def test_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    write("d/a.jsonl", "d/b.jsonl", "e/a.jsonl", "e/b.jsonl", "f/a.jsonl", "f/c.jsonl")
    old = time.time() - 60
    for path in (*Path("d").iterdir(), *Path("e").iterdir()):
        os.utime(path, (old, old))
    first = sources.identity(Source("d"))
    assert sources.identity(Source("e")) == first
    assert sources.identity(Source("f")) != first
    write("g/x/a.jsonl", "g/x/b.jsonl", "h/x/a.jsonl", "h/y/b.jsonl")
    assert sources.identity(Source("g")) == first
    assert sources.identity(Source("h")) != first
    assert set(json.loads(Path("cache/digests.json").read_text())) == {
        str(p.resolve()) for p in (*Path("d").iterdir(), *Path("e").iterdir())
    }

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a file is read")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refuse)
        assert sources.identity(Source("d")) == first
    Path("d/a.jsonl").write_text(ROW.replace("a", "c"))
    os.utime("d/a.jsonl", (old, old + 1))
    changed = sources.identity(Source("d"))
    assert changed != first
    Path("cache/digests.json").write_text("{torn")
    assert sources.identity(Source("d")) == changed
    with pytest.raises(UsageError, match=r"there is no data at \./nowhere"):
        sources.identity(Source("./nowhere"))
    with pytest.raises(UsageError, match="cannot read nowhere"):
        digests.digest(Path("nowhere"))


def test_a_file_that_has_just_changed_is_not_remembered() -> None:
    write("a.jsonl")
    first = digests.digest(Path("a.jsonl"))
    assert not Path("cache").exists()
    stat = Path("a.jsonl").stat()
    Path("a.jsonl").write_text(ROW.replace("a", "c"))
    os.utime("a.jsonl", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digests.digest(Path("a.jsonl")) != first


class Hub(list[dict[str, Any]]):
    """What `datasets.load_dataset` gives, as far as it is used."""

    _fingerprint = "f1"


def test_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(name: str, subset: str | None, **wanted: Any) -> Hub:
        asked.append((name, subset, wanted))
        if name == "org/many" and subset is None:
            raise ValueError(
                "Config name is missing.\nPlease pick one among the available configs: ['main', 'more']\nSo"
            )
        if wanted["split"] == "none":
            raise ValueError("Unknown split \"none\". Should be one of ['train', 'test'].")
        if name == "org/gone":
            raise type("DatasetNotFoundError", (FileNotFoundError,), {})("Dataset 'org/gone' doesn't exist")
        nulls = {"role": "assistant", "content": "b", "tool_calls": None}
        return Hub([{"messages": [{"role": "user", "content": "a"}, nulls], "n": 1}, {"messages": [], "n": None}])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    opened = sources.open_all({"source": "org/name:test", "revision": "v1"})
    ledger = rows.Ledger()
    found = list(rows.stream(opened, {}, ledger))
    assert asked == [("org/name", None, {"split": "test", "revision": "v1"})]
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert [row.value for row in found] == [{"messages": turns, "n": 1}]
    assert [ledger.place(row) for row in found] == ["org/name:test, row 1"]
    assert ledger.bad_rows[0][0] == "org/name:test, row 2"
    assert ledger.share() is None
    assert sources.identity(Source("org/name", split="test", revision="v1")) != sources.identity(Source("org/name"))
    assert sources.open_all("org/many:more:test")[0].label == "org/many:more:test"
    assert asked[-1] == ("org/many", "more", {"split": "test", "revision": None})
    for name, what, hint in (
        ("org/many", "data set org/many has several subsets: 'main', 'more'", "write org/many:SUBSET:train"),
        (
            "org/name:none",
            "data set org/name has no split none: Unknown split \"none\". Should be one of ['train', 'test']",
            "write org/name:SPLIT",
        ),
        (
            "org/gone",
            "there is no data set org/gone on the hub that you may see",
            "check the name at https://huggingface.co/datasets/org/gone; if it is private, run `hf auth login`, or set "
            "HF_TOKEN",
        ),
    ):
        with pytest.raises(UsageError) as caught:
            sources.open_all(name)
        assert [(p.what, p.key, p.hint) for p in caught.value.problems] == [(what, "data.train", hint)]
    with pytest.raises(UsageError) as caught:
        sources.open_all("org/gone", key="")
    assert caught.value.problems[0].hint.endswith("; if it is private, run `hf auth login`, or set HF_TOKEN")


@pytest.mark.engine
def test_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    """Told at once, not after half a minute of tries; and nothing heavy is loaded for it."""
    code = "import sys; from nothing_tune.cli.app import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    words = ["data", "convert", "org/name:test", "--to", "x.jsonl"]
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, env=env)
    assert done.stdout == "2 False\n"
    assert done.stderr == (
        "error: data set org/name is not in the local cache and huggingface.co cannot be reached\n"
        "  hint: connect to the network, or name a local folder\n"
    )


@pytest.mark.engine
def test_a_real_data_set(tmp_path: Path) -> None:
    """`datasets` itself loads a folder of parquet files, with its unions of nested columns."""
    import pyarrow
    from pyarrow import parquet

    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    other = {"type": "function", "function": {"name": "g", "arguments": {"y": "z"}}}
    table = pyarrow.Table.from_pylist(
        [
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b", "tool_calls": [call]},
                ]
            },
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "", "tool_calls": [other]},
                ]
            },
        ]
    )
    (tmp_path / "set").mkdir()
    parquet.write_table(table, tmp_path / "set" / "train.parquet")
    data = sources._from_hub(Source(str(tmp_path / "set")), "data.train")
    opened = sources.Opened(Source("org/set"), "org/set:train", sources.formats.find("messages"), (), data)
    from_hub = [row.value for row in rows.stream([opened], {}, rows.Ledger())]
    from_file = [row.value for row in rows.stream(sources.open_all(str(tmp_path / "set")), {}, rows.Ledger())]
    assert from_hub == from_file
    assert from_file[0]["messages"][1] == {"role": "assistant", "content": "b"}
    assert from_file[1]["messages"][1]["tool_calls"] == [call]
    assert from_file[2]["messages"][1]["tool_calls"] == [other]
    with pytest.raises(UsageError, match="has no split valid"):
        sources._from_hub(Source(str(tmp_path / "set"), split="valid"), "data.train")
