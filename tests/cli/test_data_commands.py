"""`tune data convert`, `split`, `dedupe` and `mix` as they are typed: what they write and print, and their exit codes."""

from __future__ import annotations

import errno
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.cli.data import mix
from nothing_tune.data import files

pytestmark = pytest.mark.engine  # nothing heavy is imported, but it takes seconds


def pairs(name: str, count: int, **columns: Callable[[int], Any]) -> None:
    made = [
        {"prompt": f"q {name} {n}", "completion": f"a {n}", **{k: make(n) for k, make in columns.items()}}
        for n in range(count)
    ]
    Path(name).write_text("".join(f"{json.dumps(row)}\n" for row in made))


def values(name: str) -> list[Any]:
    return [row for _, row in files.read(Path(name))]


def test_convert(tune: Callable[..., Any], tmp_path: Path) -> None:
    Path("alpaca.json").write_text(
        json.dumps([{"instruction": "Count", "input": "", "output": "1 2", "level": "A1"}, {"instruction": "Bad"}])
    )
    said = tune("data", "convert", "alpaca.json", "--to", "out/rows.jsonl")
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        "error: alpaca.json, row 2: there is no `output`\n"
        "error: 1 of 2 rows is bad, and none may be\n"
        "  hint: mend them, or give --max-bad-rows 0.5, which leaves them out\n"
    )
    assert list(Path("out").iterdir()) == []
    said = tune("data", "convert", "alpaca.json", "--to", "out/rows.jsonl", "--max-bad-rows", "0.5")
    size = Path("out/rows.jsonl").stat().st_size
    assert (said.code, said.err) == (0, "")
    assert said.out == (
        "read      alpaca.json: 2 rows of alpaca, 1 bad\n"
        "bad       alpaca.json, row 2: there is no `output`\n"
        f"wrote     out/rows.jsonl: 1 row, {size} B\n"
    )
    turns = [{"role": "user", "content": "Count"}, {"role": "assistant", "content": "1 2"}]
    assert values("out/rows.jsonl") == [{"messages": turns, "level": "A1"}]
    card = json.loads(Path("out/rows.jsonl.card.json").read_text())
    assert card["sha256"] == hashlib.sha256(Path("out/rows.jsonl").read_bytes()).hexdigest()
    assert (card["command"], card["rows"], card["settings"]) == ("tune data convert", 1, {"max_bad_rows": 0.5})
    assert [(s["name"], s["format"], s["read"], s["bad"], len(s["identity"])) for s in card["sources"]] == [
        ("alpaca.json", "alpaca", 2, 1, 64)
    ]
    again = tune("data", "convert", "out", "--to", "again.jsonl", "--json").json()
    assert values("again.jsonl") == values("out/rows.jsonl")
    assert [(w["path"], w["rows"]) for w in again["written"]] == [("again.jsonl", 1)]
    assert (again["sources"][0]["format"], again["sources"][0]["kind"], again["bad_rows"]) == (
        "messages",
        "messages",
        [],
    )


def test_convert_with_settings(tune: Callable[..., Any]) -> None:
    Path("qa.csv").write_text("question,answer\nq,a\n")
    words = ("--columns", "prompt=question", "--columns", "completion=answer", "--to", "rows.jsonl.gz")
    assert tune("data", "convert", "qa.csv", *words).code == 0
    assert values("rows.jsonl.gz") == [{"prompt": "q", "completion": "a"}]
    Path("log.csv").write_text("speaker,line\nANNA,one\nBEN,two\nANNA,three\nBEN,four\n")
    said = tune("data", "convert", "log.csv", "--speaker", "BEN", "--turns", "2", "--to", "log.jsonl.zst")
    assert said.out.startswith("read      log.csv: 4 rows of transcript\nwrote     log.jsonl.zst: 2 rows, ")
    assert [[turn["content"] for turn in row["messages"]] for row in values("log.jsonl.zst")] == [
        ["one", "two"],
        ["three", "four"],
    ]
    pairs("many.jsonl", 2)
    Path("many.jsonl").write_text(Path("many.jsonl").read_text() + "[]\n" * 8)
    said = tune("data", "convert", "many.jsonl", "--max-bad-rows", "1", "--to", "some.jsonl")
    assert said.out.splitlines()[1:7] == [
        *(f"bad       many.jsonl:{n}: a row must be a JSON object, this is a list" for n in range(3, 8)),
        "bad       3 more",
    ]


def test_split(tune: Callable[..., Any]) -> None:
    pairs("rows.jsonl", 40, level=lambda n: "AB"[n % 2], author=lambda n: n // 4)
    said = tune("data", "split", "rows.jsonl", "--eval", "0.25", "--stratify-by", "level", "--to", "parts")
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0] == "read      rows.jsonl: 40 rows of prompt-completion"
    assert [line.split(": ")[0] for line in lines[1:]] == [
        "level     A", "level     B", "wrote     parts/train.jsonl", "wrote     parts/eval.jsonl",
    ]  # fmt: skip
    train, held = values("parts/train.jsonl"), values("parts/eval.jsonl")
    assert sorted(row["prompt"] for row in train + held) == sorted(row["prompt"] for row in values("rows.jsonl"))
    card = json.loads(Path("parts/eval.jsonl.card.json").read_text())["settings"]
    counts = {level: sum(row["level"] == level for row in held) for level in "AB"}
    assert card["strata"] == {level: {"train": 20 - n, "eval": n} for level, n in counts.items()}
    assert all(4 <= n <= 6 for n in counts.values())
    assert (card["eval"], card["seed"], card["stratify_by"]) == (0.25, 42, "level")
    made = tune("data", "split", "rows.jsonl", "--group-by", "author", "--to", "groups", "--json").json()
    assert [w["path"] for w in made["written"]] == ["groups/train.jsonl", "groups/eval.jsonl"]
    assert not {r["author"] for r in values("groups/train.jsonl")} & {r["author"] for r in values("groups/eval.jsonl")}


def test_split_refuses(tune: Callable[..., Any]) -> None:
    pairs("one.jsonl", 1)
    pairs("two.jsonl", 2, author=lambda _: "same")
    cases = [
        (
            ("one.jsonl", "--to", "p", "--eval", "1"),
            "--eval must be above 0 and below 1, this is 1",
            "a tenth is --eval 0.1",
        ),
        (("one.jsonl",), "where to? --to is missing", "tune data split rows.jsonl --to parts"),
        (
            ("two.jsonl", "--stratify-by", "level", "--to", "p"),
            "--stratify-by: no row that was looked at has the column 'level'",
            "the columns are author, prompt, completion",
        ),
    ]
    for words, what, hint in cases:
        said = tune("data", "split", *words)
        assert (said.code, said.err) == (2, f"error: {what}\n  hint: {hint}\n")
    for words, what in ((("one.jsonl",), "row"), (("two.jsonl", "--group-by", "author"), "group")):
        said = tune("data", "split", *words, "--to", "p")
        assert said.code == 2
        assert f" cannot be divided: no {what} is left for " in said.err
        assert said.err.endswith(f"  hint: give more {what}s\n")
        assert list(Path("p").iterdir()) == []


def test_dedupe(tune: Callable[..., Any]) -> None:
    text = (
        "the quick brown fox jumps over the lazy dog and runs far away into the dark green woods behind our old house"
    )
    found = [text, f" {text} ", f"{text} again", "something else entirely", "what evaluation asks"]
    Path("rows.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in found))
    Path("eval.jsonl").write_text(json.dumps({"text": found[-1]}) + "\n")
    said = tune("data", "dedupe", "rows.jsonl", "--to", "exact.jsonl")
    size = Path("exact.jsonl").stat().st_size
    assert said.out == (
        "read      rows.jsonl: 5 rows of text\n"
        "removed   1 duplicate\n"
        "          rows.jsonl:2 is rows.jsonl:1\n"
        f"wrote     exact.jsonl: 4 rows, {size} B\n"
    )
    words = ("--near", "--against", "eval.jsonl", "--to", "near.jsonl")
    said = tune("data", "dedupe", "rows.jsonl", *words)
    assert said.out.splitlines()[1:5] == [
        "removed   1 duplicate, 1 near duplicate, 1 row of the other source",
        "          rows.jsonl:2 is rows.jsonl:1",
        "          rows.jsonl:3 is nearly rows.jsonl:1",
        "          rows.jsonl:5 is in the other: eval.jsonl:1",
    ]
    assert values("near.jsonl") == [{"text": found[0]}, {"text": found[3]}]
    card = json.loads(Path("near.jsonl.card.json").read_text())["settings"]
    assert card == {
        "max_bad_rows": 0.0,
        "near": 0.85,
        "against": ["eval.jsonl"],
        "removed": {"duplicates": 1, "near_duplicates": 1, "against": 1},
    }
    made = tune("data", "dedupe", "rows.jsonl", *words, "--force", "--json").json()
    assert made["removed"] == card["removed"]
    assert made["examples"][1] == ["rows.jsonl:3", "rows.jsonl:1", "near"]


def test_mix(tune: Callable[..., Any]) -> None:
    pairs("a.jsonl", 100)
    pairs("b.jsonl", 20)
    said = tune("data", "mix", "a.jsonl=3", "b.jsonl=1:10", "--to", "mixed.jsonl")
    assert said.code == 0, said.err
    assert said.out.splitlines()[2:4] == [
        "mixed     a.jsonl: 30 of 100 rows, 75.0% (weight 3)",
        "mixed     b.jsonl: 10 rows, 25.0% (weight 1, at most 10)",
    ]
    found = [row["prompt"].split()[1] for row in values("mixed.jsonl")]
    assert (found.count("a.jsonl"), found.count("b.jsonl")) == (30, 10)
    assert all(found[n : n + 8].count("b.jsonl") in (1, 2, 3) for n in range(0, 40, 8))
    made = tune("data", "mix", "a.jsonl", "b.jsonl:5", "--to", "all.jsonl", "--json").json()
    assert made["mixture"] == [
        {"name": "a.jsonl", "rows": 100, "used": 100},
        {"name": "b.jsonl", "rows": 5, "used": 5},
    ]
    assert [s["bad"] for s in made["sources"]] == [0, 0]
    assert len({row["prompt"] for row in values("all.jsonl")}) == 105
    said = tune("data", "mix", "a.jsonl=3", "b.jsonl", "--to", "no.jsonl")
    assert said.err == "error: some sources have a weight, but not b.jsonl\n  hint: weigh all or none\n"
    Path("t.jsonl").write_text('{"text": "x"}\n')
    said = tune("data", "mix", "a.jsonl", "t.jsonl", "--to", "no.jsonl")
    assert said.err == (
        "error: rows of text cannot stand with others in one file: a.jsonl gives prompt-completion, t.jsonl gives text\n"
        "  hint: to train on all of them, name them as a list in a recipe's data.train\n"
    )
    said = tune("data", "mix", "a.jsonl=0", "b.jsonl=1", "--to", "no.jsonl")
    assert said.err == (
        "error: `weight` of a.jsonl must be a number above 0, this is 0\n  hint: a weight of 2 takes twice the rows of a "
        "weight of 1; to use no row of a source, remove the source\n"
    )


def test_prompts_become_conversations_beside_conversations(tune: Callable[..., Any]) -> None:
    pairs("a.jsonl", 1, level=lambda _: "A1")
    turns = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "y"},
        {"role": "user", "content": "z"},
        {"role": "assistant", "content": "w"},
    ]
    Path("b.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    Path("c.jsonl").write_text(json.dumps({"prompt": turns[:3], "completion": turns[3:]}) + "\n")
    said = tune("data", "mix", "a.jsonl", "b.jsonl", "c.jsonl", "--to", "all.jsonl")
    assert said.code == 0, said.err
    asked = [{"role": "user", "content": "q a.jsonl 0"}, {"role": "assistant", "content": "a 0"}]
    unlearned = [turns[0], {**turns[1], "weight": 0}, *turns[2:]]
    assert values("all.jsonl") == [{"messages": asked, "level": "A1"}, {"messages": turns}, {"messages": unlearned}]
    Path("d.jsonl").write_text(json.dumps({"messages": asked}) + "\n")
    said = tune("data", "dedupe", "a.jsonl", "--against", "d.jsonl", "--to", "none.jsonl")
    assert "removed   0 duplicates, 1 row of the other source\n" in said.out


def test_settings_of_recipes_are_told_as_options(tune: Callable[..., Any]) -> None:
    Path("pref.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    Path("qa.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    Path("log.csv").write_text("speaker,line\nBEN,zero\nANNA,one\nBEN,two\n")
    cases = [
        (("pref.jsonl",), "to train on the chosen answers, give --columns completion=chosen and --format prompt-completion"),
        (("log.csv",), "give --speaker one of those who speak: BEN (2 lines), ANNA (1 line)"),
        (("log.csv", "--turns", "0"), "one turn asks and one answers: --turns 2 makes pairs, 8 is the default"),
        (("qa.jsonl", "data.columns={prompt: question, completion: answer}"),
         "here it is --columns prompt=question --columns completion=answer"),
        (("qa.jsonl", "data.max_bad_rows=0.1"), "here it is --max-bad-rows 0.1"),
        (("qa.jsonl", "data.dedupe=none"),
         "here there are options: --format, --columns, --speaker, --turns, --max-bad-rows"),
    ]  # fmt: skip
    for command in ("convert", "split", "dedupe", "mix"):
        for words, hint in cases if command == "convert" else cases[:2]:
            said = tune("data", command, *words, "--to", "new" if command == "split" else "new.jsonl")
            assert (said.code, said.err.splitlines()[-1]) == (2, f"  hint: {hint}"), (command, words)
    assert "perhaps --columns prompt=question --columns completion=answer; rows" in tune(
        "data", "convert", "qa.jsonl", "--to", "new.jsonl"
    ).err  # fmt: skip
    said = tune("data", "convert", "qa.jsonl", "data.format=text", "--to", "new.jsonl")
    assert said.err == "error: data.format=text is an override of recipes\n  hint: here it is --format text\n"
    said = tune("data", "convert", "log.csv", "--speaker", "BEN", "--to", "new.jsonl")
    assert said.out.splitlines()[1] == "left out  1 row: the speaker's line opens the conversation"


def test_split_tells_what_was_not_asked_for(tune: Callable[..., Any]) -> None:
    pairs("rows.jsonl", 20, author=lambda n: "" if n < 3 else "ab"[n % 2])
    said = tune("data", "split", "rows.jsonl", "--eval", "0.01", "--group-by", "author", "--to", "p")
    held = len(values("p/eval.jsonl")) / 20
    lines = said.out.splitlines()
    assert lines[-3] == "          3 rows have no author: each is a group by itself"
    told = [f"held out  {held * 100:.3g}% of the rows, and 1% was asked for: rows with the same author stay together"]
    assert lines[1:-3] == told
    made = tune("data", "split", "rows.jsonl", "--stratify-by", "author", "--to", "q", "--json").json()
    assert (made["lacking"], set(made["strata"])) == ({"author": 3}, {"-", "a", "b"})
    assert made["held_out"] == len(values("q/eval.jsonl")) / 20


def test_words_of_mix() -> None:
    Path("odd=1.jsonl:3").write_text("")
    cases: list[tuple[str, Any]] = [
        ("a.jsonl", "a.jsonl"),
        ("org/name:train", "org/name:train"),
        ("a.jsonl=2", {"source": "a.jsonl", "weight": 2.0, "max_rows": None}),
        ("a.jsonl=0.5:100", {"source": "a.jsonl", "weight": 0.5, "max_rows": 100}),
        ("org/name:train:100", {"source": "org/name:train", "weight": None, "max_rows": 100}),
        ("data/*.jsonl=1e-2", {"source": "data/*.jsonl", "weight": 0.01, "max_rows": None}),
        ("odd=1.jsonl:3", "odd=1.jsonl:3"),
    ]
    for word, wanted in cases:
        assert mix.parsed(word) == wanted, word


def test_refusals_of_all(tune: Callable[..., Any]) -> None:
    pairs("rows.jsonl", 3)
    Path("there.jsonl").write_text("mine")
    for command in ("convert", "dedupe", "mix"):
        assert tune("data", command, "rows.jsonl").err == (
            f"error: where to? --to is missing\n  hint: tune data {command} rows.csv --to new.jsonl\n"
        )
        assert tune("data", command, "--to", "x.jsonl").err == (
            f"error: which rows? no source is named\n  hint: tune data {command} rows.csv --to new.jsonl\n"
        )
        assert tune("data", command, "rows.jsonl", "--to", "there.jsonl").err == (
            "error: there.jsonl is there already\n  hint: name another file, or add --force to replace it\n"
        )
        said = tune("data", command, "nowhere.jsonl", "--to", "x.jsonl")
        assert said.err.startswith("error: there is no data at nowhere.jsonl: looked for ")
        assert said.err.endswith("\n  hint: name a file or folder that exists\n")
    assert tune("data", "convert", "rows.jsonl", "--columns", "prompt", "--to", "x.jsonl").err == (
        "error: 'prompt' names no column\n  hint: write --columns A=B: the format's column A is called B in the file\n"
    )
    assert Path("there.jsonl").read_text() == "mine"
    assert tune("data", "convert", "rows.jsonl", "--to", "there.jsonl", "--force").code == 0


def test_a_full_disk(tune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pairs("rows.jsonl", 3)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    said = tune("data", "convert", "rows.jsonl", "--to", "new.jsonl")
    assert (said.code, said.err) == (
        74,
        "error: cannot write new.jsonl: No space left on device\n  hint: free some space or mend the permissions\n",
    )
    assert sorted(p.name for p in Path().iterdir()) == ["rows.jsonl"]


@pytest.mark.parametrize("command", ["convert", "split", "dedupe", "mix"])
def test_help(tune: Callable[..., Any], command: str) -> None:
    page = tune("data", command, "--help")
    assert page.code == 0
    lines = page.out.splitlines()
    assert lines[0].startswith(f"Usage: tune data {command} SOURCE")
    assert max(map(len, lines)) <= 100
    for head in ("Arguments:", "Options:", "Examples:", "Exit codes:"):
        assert head in lines


def test_nothing_heavy_is_imported() -> None:
    pairs("rows.jsonl", 20)
    code = (
        "import sys, io\n"
        "from nothing_tune.cli.app import main\n"
        "shown, sys.stdout = sys.stdout, io.StringIO()\n"
        "code = main(['data', 'split', 'rows.jsonl', '--to', 'parts'])\n"
        "sys.stdout = shown\n"
        "print(code, [m for m in ('torch', 'transformers', 'datasets', 'pyarrow', 'datasketch', 'numpy', 'rich') "
        "if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "0 []\n", done.stderr
