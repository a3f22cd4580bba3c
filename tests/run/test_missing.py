"""What a machine lacks for a run's data, before the run is made; exact texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from nothing_tune import run as runs
from nothing_tune.plan import make_plan
from nothing_tune.recipe import load_recipe


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "one.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read.me").write_text("x")
    (tmp_path / "tiny.yaml").write_text("layers: [methods/qlora, models/nano]\nname: tiny\n")
    return tmp_path


def lacks(*words: str) -> list[tuple[str, str]]:
    recipe = load_recipe("tiny.yaml", gpu="cpu", overrides=words)
    return [(p.what, p.hint) for p in runs.missing(recipe, make_plan(recipe)) if p.key.startswith("data.")]


@pytest.mark.parametrize(
    "value",
    [
        "rows/one.jsonl",
        "rows",
        "rows/*.jsonl",
        "rows/**/*.jsonl",
        "org/name",
        "org/name:test",
        "{source: org/name, split: test, revision: main}",
        "[rows, {source: rows/one.jsonl, max_rows: 3}, org/name]",
        "${oc.env:ROWS}",
        "${oc.env:ROWS}/one.jsonl",
    ],
)
def test_what_is_there_or_may_be(folder: Path, value: str) -> None:
    assert lacks(f"data.train={value}", "data.eval=0.1") == []


@pytest.mark.parametrize(
    ("value", "what", "hint"),
    [
        ("null", "the recipe names no training data", "give data.train=FILE"),
        (
            "rows/ona.jsonl",
            "data.train: there is no file rows/ona.jsonl: looked for rows/ona.jsonl",
            "did you mean rows/one.jsonl?",
        ),
        (
            "rows/*.csv",
            "data.train: no data file matches rows/*.csv: looked for rows/*.csv",
            "put the file there, or give data.train=FILE",
        ),
        (
            "[rows, {source: gone.csv.gz, max_rows: 1}]",
            "data.train: there is no file gone.csv.gz: looked for gone.csv.gz",
            "put the file there, or give data.train=FILE",
        ),
        (
            "{source: notes}",
            "data.train: the folder notes holds no data file",
            "data files end in .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .txt",
        ),
        (
            "rows/org",
            "data.train: there is no file rows/org: looked for rows/org",
            "put the file there, or give data.train=FILE",
        ),
    ],
)
def test_what_is_not_there(folder: Path, value: str, what: str, hint: str) -> None:
    assert lacks(f"data.train={value}", "data.eval=0.1") == [(what, hint)]


def test_both_sides_at_once(folder: Path) -> None:
    found = lacks("data.train=[{source: gone.csv, weight: 1}, {source: rows, weight: 2}]", "data.eval={source: ./gone}")
    assert [what for what, _ in found] == [
        "data.train: there is no file gone.csv: looked for gone.csv",
        "data.eval: there is no file ./gone: looked for gone",
    ]


def test_a_rehearsal_is_offered_only_where_it_works(folder: Path) -> None:
    (folder / "bare.yaml").write_text("layers: [methods/qlora]\nname: bare\ndata: {train: gone.jsonl, eval: 0.1}\n")
    sampled = "data: {train: gone.jsonl, eval: 0.1, sample: {train: %s, eval: 0.1}}\n"
    for name, sample in (("sampled", "rows/one.jsonl"), ("lost", "rows/lost.jsonl")):
        (folder / f"{name}.yaml").write_text(f"layers: [methods/qlora]\nname: {name}\n{sampled % sample}")
    plain = "put the file there, or give data.train=FILE"
    offer = "; to rehearse on its sample: tune train sampled.yaml --with models/nano"
    nano = ["models/nano"]
    for name, with_, cure in (("bare", [], ""), ("lost", [], ""), ("sampled", [], offer), ("sampled", nano, "")):
        overrides = ["model.name_or_path=./none", "data.train=gone.jsonl"] if not with_ else ["data.train=gone.jsonl"]
        recipe = load_recipe(f"{name}.yaml", gpu="cpu", with_=with_, overrides=overrides)
        found = {p.key: p.hint for p in runs.missing(recipe, make_plan(recipe))}
        assert found["data.train"] == plain + cure
        model = "name a folder with a config.json, or a hub id such as org/name"
        near = "; to rehearse: tune train sampled.yaml --with models/nano" if cure else ""
        assert found.get("model.name_or_path") == (None if with_ else model + near)


def test_prompts_that_are_not_there(folder: Path) -> None:
    recipe = load_recipe("marco", gpu="cpu")
    assert [(p.what, p.key, p.hint) for p in runs.no_prompts(recipe)] == [
        (
            "generate.prompts: there is no file data/marco-prompts.jsonl",
            "generate.prompts",
            "put the file there, or give generate.prompts=FILE; to rehearse on its sample: "
            "tune data generate marco generate.prompts=samples/marco.prompts.jsonl",
        )
    ]
    for there in ("samples/marco.prompts.jsonl", "[rows, org/name]", "${oc.env:ROWS}/a.jsonl"):
        assert runs.no_prompts(load_recipe("marco", gpu="cpu", overrides=[f"generate.prompts={there}"])) == []
    bare = load_recipe("marco", gpu="cpu", overrides=["data.sample.prompts=null", "generate.prompts=[rows, gone.csv]"])
    assert [(p.what, p.hint) for p in runs.no_prompts(bare)] == [
        ("generate.prompts: there is no file gone.csv", "put the file there, or give generate.prompts=FILE")
    ]
