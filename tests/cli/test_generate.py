"""`tune data generate`: the pages it shows, what it refuses, and a dry run through the real job."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.cli.console import Ink
from nothing_tune.cli.data.drawing import bar
from nothing_tune.cli.data.generate import dollars, estimate_lines, plain_text, progress_text, report_lines
from tests.cli.conftest import Output

pytestmark = pytest.mark.engine  # takes seconds

PLAIN = Ink(False)
RECIPE = """
layers: [methods/lora]
name: teacher
model: {name_or_path: sapienzanlp/Minerva-3B-base-v1.0}
data: {train: out.jsonl}
generate:
  prompts: prompts.jsonl
  prompt: question
  answer: answer
  group_by: level
  output: out.jsonl
  generator: {model: Qwen/Qwen2.5-3B-Instruct, usd_per_million_input_tokens: 1, usd_per_million_output_tokens: 2}
  sampling: {max_new_tokens: 100}
  groups:
    A1: {target: 3}
    B1: {target: 9, sampling: {max_new_tokens: 200}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    rows: list[dict[str, Any]] = [
        {"question": f"Che cos'è la parola {n}?", "level": "A1" if n < 6 else "B1"} for n in range(9)
    ]
    rows[0]["answer"] = "Una parola."
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    path = tmp_path / "teacher.yaml"
    path.write_text(RECIPE)
    return str(path)


def test_a_dry_run_says_what_would_be_asked_and_makes_nothing(
    recipe: str, tune: Callable[..., Output], tmp_path: Path
) -> None:
    before = sorted(p.name for p in tmp_path.iterdir())
    said = tune("data", "generate", recipe, "--dry-run")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == [
        "teacher  dry run: nothing is asked",
        "  generator  Qwen/Qwen2.5-3B-Instruct",
        "  output     out.jsonl",
        "",
        "level  prompts  authentic  taken  to ask  target",
        "A1           6          1      0       2       3",
        "B1           3          0      0       3       9  6 short",
        "",
        "5 questions would be asked: about 62 tokens in, at most about 800 tokens out",
        "cost: at most about $0.0017",
        "too few prompts for the target of B1",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.engine  # takes seconds
def test_the_sample_that_ships_is_named_where_there_are_no_prompts_yet(tune: Callable[..., Output]) -> None:
    said = tune("data", "generate", "marco", "--dry-run")
    assert said.code == 2
    command = said.err.strip().rsplit("to rehearse on its sample: tune ", 1)[1]
    again = tune(*command.split(), "--dry-run", "--json")
    assert (again.code, again.json()["asked"]) == (0, 34)


def test_what_is_refused_before_anything_is_asked(recipe: str, tune: Callable[..., Output], tmp_path: Path) -> None:
    circular = tune("data", "generate", recipe, "model.name_or_path=Qwen/Qwen2.5-7B", "--json")
    assert circular.code == 2
    (error,) = circular.json()["errors"]
    assert error["what"] == (
        "circular training: Qwen/Qwen2.5-3B-Instruct would answer for Qwen/Qwen2.5-7B, and both are Qwen models"
    )
    assert (error["key"], error["place"]["line"]) == ("generate.generator.model", 12)
    none = tune("data", "generate", recipe, "generate=null")
    assert none.code == 2
    assert none.err.splitlines() == [
        "error: recipe teacher says nothing about making rows: it has no section generate",
        "  hint: tune show-config marco shows one that has; docs/generate.md explains the section",
    ]
    unnamed = tune("data", "generate")
    assert (unnamed.code, unnamed.err.splitlines()[0]) == (2, "error: which recipe? none is named")


def test_a_training_without_rows_names_the_command_that_makes_them(recipe: str, tune: Callable[..., Output]) -> None:
    said = tune("train", recipe, "--dry-run", "--json")
    (missing,) = [p for p in said.json()["missing"] if p["key"] == "data.train"]
    assert missing["hint"] == "tune data generate teacher.yaml makes it"


PROGRESS = {
    "type": "progress", "asked": 120, "total": 3000, "taken": 100, "rejected": 12, "failed": 1, "tokens_in": 9000,
    "tokens_out": 21000, "cost_usd": 0.0423, "seconds": 60.0,
}  # fmt: skip


def test_progress() -> None:
    whole = "120 of 3,000 asked, 2.0/s, 30,000 tokens, $0.0423, 12 rejected, 1 failed, 0:24:00 left"
    assert plain_text(PROGRESS) == whole
    assert plain_text({**PROGRESS, "asked": 20, "cost_usd": None, "rejected": 0, "failed": 0}) == (
        "20 of 3,000 asked, 20.0/min, 30,000 tokens, 2:29:00 left"
    )
    assert plain_text(
        {**PROGRESS, "asked": 0, "tokens_in": 0, "tokens_out": 0, "cost_usd": None, "rejected": 0, "failed": 0}
    ) == ("0 of 3,000 asked")
    line = progress_text(PROGRESS, 140, PLAIN)
    assert line == f"  {'─' * 24}  {whole.replace(', ', ' · ')}"
    assert progress_text({**PROGRESS, "asked": 1500}, 140, PLAIN).startswith(f"  {'━' * 12}{'─' * 12}  1,500 of")
    assert progress_text(PROGRESS, 80, PLAIN).startswith(f"  {'─' * 8}  120 of")
    assert "stopping, waiting for answers on their way" in progress_text(PROGRESS, 140, PLAIN, stopping=True)


def test_dollars() -> None:
    assert [dollars(x) for x in (None, 0, 0.00042, 0.1, 12.345)] == ["unknown", "$0.00", "$0.0004", "$0.10", "$12.35"]


def group(rows: int, share: float, target: int | None, lacking: int = 0, unasked: int = 0) -> dict[str, Any]:
    return {
        "rows": rows, "share": share, "authentic": 0, "generated": rows, "rejected": 0, "failed": 0, "unasked": unasked,
        "target": target, "lacking": lacking,
    }  # fmt: skip


def made(**changes: Any) -> dict[str, Any]:
    """A report with the composition that the source of the Marco recipe gives."""
    counts = {"A1": 4000, "A2": 4000, "B1": 3501, "B2": 2600, "C1": 2600, "C2": 1212}
    return {
        "version": 1, "output": "data/marco.jsonl", "generator": "Qwen/Qwen2.5-3B-Instruct", "total": 17913,
        "authentic": {"rows": 771, "share": 771 / 17913}, "generated": {"rows": 17142, "share": 17142 / 17913},
        "group_by": "level", "groups": {name: group(n, n / 17913, n) for name, n in counts.items()},
        "rejected": {}, "examples": {}, "failed": {"rows": 0, "examples": []}, "repeated": 0, "other_settings": 0,
        "damaged_lines": 0, "asked": 17500, "limit": None, "tokens": {"in": 2000000, "out": 3000000, "cost_usd": None},
        "this_time": {"in": 1900000, "out": 2900000, "cost_usd": None}, **changes,
    }  # fmt: skip


def test_the_composition_is_told_as_in_the_source() -> None:
    assert report_lines(made(), "marco", 80, PLAIN) == [
        "marco  17,913 rows in data/marco.jsonl",
        "  authentic  771 (4.3 %)",
        "  generated  17,142 (95.7 %)  by Qwen/Qwen2.5-3B-Instruct",
        "",
        "level",
        *(
            f"  {name}  {bar(rows / 4000, 32).ljust(32)}  {rows:,}  {share}"
            for name, rows, share in (
                ("A1", 4000, " 22.3 %  of 4,000"),
                ("A2", 4000, " 22.3 %  of 4,000"),
                ("B1", 3501, " 19.5 %  of 3,501"),
                ("B2", 2600, " 14.5 %  of 2,600"),
                ("C1", 2600, " 14.5 %  of 2,600"),
                ("C2", 1212, "  6.8 %  of 1,212"),
            )
        ),
        "",
        "asked   17,500 prompts this time, 1,900,000 tokens in, 2,900,000 out",
        "in all  2,000,000 tokens in, 3,000,000 out",
    ]


def test_what_was_not_taken_what_failed_and_what_is_missing() -> None:
    lines = report_lines(
        made(
            groups={"A1": group(5, 0.5, 9, 4), "B1": group(5, 0.5, None, unasked=3)},
            rejected={"refusal": 2, "near_duplicate": 1},
            examples={"refusal": [{"prompt": "p", "answer": "No.\nNever.", "why": "i cannot"}]},
            failed={"rows": 1, "examples": [["p.jsonl:3", "status 500: broken\x1b"]]},
            other_settings=1,
            tokens={"in": 1, "out": 2, "cost_usd": 1.5},
        ),
        "marco",
        80,
        PLAIN,
    )
    text = "\n".join(lines)
    for part in (
        "3 answers not taken\n  refusals         2\n    i cannot: No. Never.\n  near duplicates  1",
        "1 prompt without an answer, for a fault\n  p.jsonl:3: status 500: broken\n  the same command asks them again; with --retry-failed",
        "missing to the target: A1 4; the prompts ran out: add some, or lower the target",
        "in all  1 token in, 2 out, $1.50",
        "1 answer to other prompts or with other settings is kept and not used",
    ):
        assert part in text, text
    goes_on = report_lines(made(groups={"A1": group(5, 1.0, 9, 4, unasked=7)}), "marco", 80, PLAIN)
    assert "missing to the target: A1 4; the same command goes on" in goes_on
    more = report_lines(made(limit=5, groups={"A1": group(5, 1.0, None, unasked=7)}), "marco", 80, PLAIN)
    assert "more prompts wait: the same command without --limit asks them" in more


def test_an_estimate_without_prices_names_the_keys() -> None:
    event = {
        "output": "o.jsonl", "generator": "m", "group_by": None, "prompts": 2, "asked": 2, "tokens_in": 20, "tokens_out": 9,
        "measured": True, "cost_usd": None,
        "groups": {"": {"prompts": 2, "authentic": 0, "taken": 0, "asked": 2, "target": None, "lacking": 0}},
    }  # fmt: skip
    lines = estimate_lines(event, "x", PLAIN)
    assert lines[4:6] == [
        "group  prompts  authentic  taken  to ask  target",
        "all          2          0      0       2       -",
    ]
    assert lines[7] == "2 questions would be asked: about 20 tokens in, about 9 tokens out"
    assert lines[8] == "cost: unknown; generate.generator.usd_per_million_input_tokens and ..._output_tokens tell it"
