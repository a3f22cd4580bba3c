"""`tune plan`: its page, its verdicts and exit codes, the table of GPUs; and a plan kept in a file, which train holds to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.cli.console import Ink
from nothing_tune.cli.plan import page
from nothing_tune.plan import make_plan
from nothing_tune.plan.advice import Advice
from nothing_tune.plan.cost import Cost
from nothing_tune.plan.forecast import Forecast, Memory, Pace, impossible
from nothing_tune.plan.maths import Every, maths
from nothing_tune.plan.memory import Change, Estimate
from nothing_tune.plan.rows import GIVEN, TOKENISED, Rows
from nothing_tune.recipe import load_recipe
from nothing_tune.run import saved

GIB = 1 << 30
LONGEST = Estimate(
    {
        "weights": 2 * GIB, "adapters": GIB // 10, "gradients": 0, "optimizer": GIB // 5, "activations": 30 * GIB, "logits": 0,
        "context": GIB // 2, "fragmentation": GIB,
    },
    34 * GIB, 30 * GIB, 38 * GIB, 8, 1024, "arithmetic",
)  # fmt: skip
USUAL = replace(LONGEST, terms={**LONGEST.terms, "activations": 10 * GIB}, peak=14 * GIB, length=412)
SMALL = replace(LONGEST, peak=6 * GIB)
PAGE = """\
nothing-gpt  does not fit l4: 34.0 GiB at its peak, of 22.0 GiB
  model      meta-llama/Llama-3.2-3B-Instruct
  method     LoRA r 32, alpha 32 on 4-bit nf4
  data       data/nothing-gpt.jsonl, 10 % of it held out
  gpu        NVIDIA L4, 24 GB
  precision  bf16: l4 computes in bfloat16
  length     2 epochs, rows of up to 1024 tokens

steps  counted from the tokens that will be trained on
  rows       13,482 rows; 1,498 more are evaluated
  batch      8 x 2 = 16 a step
  steps      843 an epoch, 1,686 in 2 epochs; the last step of an epoch has 10
  warmup     200, 12 % of all
  evaluated  every 200 steps (24 % of an epoch), 9 times
  saved      every 200 steps (24 % of an epoch), 9 times, and each new best
  tokens     8.09 M in all, about 4,798 a step, without padding; 50 % of them learned

memory  peak of a step, by arithmetic; between 30.0 GiB and 38.0 GiB
"""


def forecast(**over: Any) -> Forecast:
    plan = make_plan(load_recipe("nothing-gpt", gpu="l4"))
    lengths = ((0, 400, 9000), (400, 800, 4000), (800, 1024, 482))
    rows = Rows(TOKENISED, 13482, 1498, 13482, 4_044_600, 2_022_300, 1024, lengths)
    change = Change(("training.activation_checkpointing=true",), SMALL, "computes activations again")
    told = Advice("x", "warning", "the warmup is long", "200 of 1,686 steps", ("training.warmup_steps=0.05",), "", "")
    cost = Cost("modal", "on-demand", 0.8, 1, 3.2, 2.4, 4.0, "modal.com", "2026-05-07", True)
    made = Forecast(
        plan, rows, maths(rows, plan), "facts", None, None, "", Memory(LONGEST, USUAL, 22 * GIB, "does not fit", 600, (change,)), None,
        (cost,), (told,), ((replace(told, what="few epochs"), "the source says so"),), Pace(8.5, 100, "20261121-a"),
    )  # fmt: skip
    return replace(made, **over)


def text(found: Forecast) -> str:
    return "\n".join(page.lines(found, Ink(False)))


def test_the_page() -> None:
    said = text(forecast())
    head, steps, memory, holds, changes, cost, advice = said.split("\n\n")
    assert head == PAGE.split("\n\n")[0]
    assert steps == PAGE.split("\n\n")[1]
    assert memory == (
        "memory  peak of a step, by arithmetic; between 30.0 GiB and 38.0 GiB\n"
        "                       longest batch     usual batch\n"
        "                    8 x 1,024 tokens  8 x 412 tokens\n"
        "  weights                    2.0 GiB         2.0 GiB\n"
        "  adapters                   102 MiB         102 MiB\n"
        "  optimizer state            205 MiB         205 MiB\n"
        "  activations               30.0 GiB        10.0 GiB\n"
        "  CUDA context               512 MiB         512 MiB\n"
        "  fragmentation              1.0 GiB         1.0 GiB\n"
        "  peak                      34.0 GiB        14.0 GiB\n"
        "  usable on l4              22.0 GiB\n"
        "  free             12.0 GiB too much         8.0 GiB"
    )
    assert holds == "  holds for rows of up to 600 tokens only; 18 % of the rows are longer"
    assert changes == (
        "  would fit\n    training.activation_checkpointing=true\n      6.0 GiB; computes activations again"
    )
    assert cost == (
        "time and cost  measured: run 20261121-a was like it\n"
        "  time   4.0 h, between 3.0 h and 5.0 h\n"
        "  speed  8.5 s a step\n"
        "  modal on-demand          3.20 $  (2.40 to 4.00)      0.80 $/h, as of 2026-05-07, may have changed since"
    )
    assert advice == (
        "advice\n"
        "  warning: the warmup is long\n"
        "    200 of 1,686 steps\n"
        "    training.warmup_steps=0.05\n"
        "  accepted: few epochs\n"
        "    the source says so"
    )


def test_what_is_unknown_is_said() -> None:
    found = forecast(
        maths=None, memory=None, untold="no config.json", rows=Rows(), pace=None, costs=(), advice=(), accepted=()
    )
    said = text(found)
    assert said.startswith("nothing-gpt  cannot tell whether it fits l4: no config.json\n")
    assert (
        "steps  the data is not on this machine: --rows N says how many rows there are\n  batch  8 x 2 = 16 a step"
        in said
    )
    assert "memory\n  unknown: no config.json" in said
    assert said.endswith("time and cost\n  unknown: needs the number of rows: --rows N")
    assert (found.exit_code(), found.verdict) == (6, "cannot tell")


def test_verdicts_and_exit_codes() -> None:
    tight = forecast(memory=Memory(replace(LONGEST, peak=21 * GIB, high=23 * GIB), None, 22 * GIB, "fits", None, ()))
    assert (
        page.verdict(tight, Ink(False)) == "fits l4: 21.0 GiB at its peak, of 22.0 GiB, but up to 23.0 GiB are possible"
    )
    assert (tight.exit_code(), tight.exit_code(strict=True)) == (0, 3)
    assert forecast().exit_code() == 3
    bad = forecast(rows=Rows(findings=({"severity": "error", "what": "no row has anything to learn"},)))
    assert page.verdict(bad, Ink(False)) == "cannot train: no row has anything to learn"
    assert bad.exit_code() == 3


def test_heading_of_a_run() -> None:
    assert page.facts(forecast(), Ink(False)) == {
        "steps": "843 an epoch, 1,686 in 2 epochs; the last step of an epoch has 10",
        "memory": "does not fit l4: 34.0 GiB at its peak, of 22.0 GiB",
        "time": "4.0 h, between 3.0 h and 5.0 h",
        "cost": "3.20 $ at modal",
    }
    assert page.warnings(forecast(advice=()), Ink(False)) == [
        "",
        "  would fit",
        "    training.activation_checkpointing=true",
        "      6.0 GiB; computes activations again",
    ]


def test_every() -> None:
    assert page._every(None, 0) == "never"
    assert page._every(Every(40, 1.0, 3), 9) == "at the end of each epoch, 3 times"
    assert page._every(Every(1, 0.02, 1), 9) == "every 1 step (2.0 % of an epoch), once"
    assert page._every(Every(500, 12.5, 2), 9) == "every 500 steps (12.5 epochs), 2 times"


def test_the_command(tune: Callable[..., Any]) -> None:
    said = tune("plan", "nothing-gpt", "--gpu", "l4", "--rows", "13482")
    assert (said.code, said.err) == (0, "")
    head, steps, *_ = said.out.split("\n\n")
    assert head.startswith("nothing-gpt  fits l4: ")
    assert "3.21 B parameters; 48.6 M trained, 1.5 %" in head
    assert steps.splitlines()[3] == "  steps      843 an epoch, 1,686 in 2 epochs; the last step of an epoch has 10"
    wide = ("plan", "nothing-gpt", "--gpu", "l4", "--rows", "13482", "training.activation_checkpointing=false")
    said = tune(*wide, "--json")
    found = said.json()
    assert (said.code, found["verdict"], found["maths"]["total"]) == (3, "does not fit", 1686)
    assert sum(found["memory"]["longest"]["terms"].values()) == found["memory"]["longest"]["peak"]
    assert 100 < found["memory"]["holds"] < 1024
    assert {"training.activation_checkpointing=true"} <= {w for c in found["memory"]["changes"] for w in c["words"]}
    said = tune("plan", "nothing-gpt", "--gpu", "l4")
    assert said.code == 0
    assert "--rows N says how many rows there are" in said.out


@pytest.mark.engine  # takes seconds
def test_fits(tune: Callable[..., Any]) -> None:
    said = tune("plan", "templates/memory-optimized-13b", "--fits", "--rows", "5000", "--json")
    rows = {row["gpu"]: row for row in said.json()}
    assert said.code == 0
    assert len(rows) >= 12
    assert not {"cpu", "mps", "cuda"} & set(rows)
    assert rows["h100"]["verdict"] == "fits"
    said = tune("plan", "--model", "nano", "--data", "x.jsonl", "--fits", "--gpu", "l4")
    assert (said.code, said.err) == (
        2,
        "error: --fits looks at every GPU, and --gpu at one\n  hint: leave out --fits or --gpu\n",
    )


@pytest.mark.engine  # takes seconds
def test_fits_says_what_would(tune: Callable[..., Any]) -> None:
    said = tune("plan", "methods/full", "--with", "models/llama-2-13b", "--fits", "--rows", "5000")
    lines = said.out.splitlines()
    assert said.code in (0, 3)
    where = next(n for n, line in enumerate(lines) if line.startswith("rtx-3060 "))
    assert "does not fit" in lines[where]
    assert lines[where + 1].startswith("  ")


@pytest.fixture
def kept(tune: Callable[..., Any], tmp_path: Path) -> Path:
    """A plan of the shipped model on eight rows, saved."""
    turn = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
    rows = [{**turn, "messages": [{"role": "user", "content": f"hi {n}"}, turn["messages"][1]]} for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--model", "nano", "--data", "rows.jsonl", "--method", "lora", "--gpu", "cpu", "data.eval=null")
    off = ("training.eval_strategy=no", "training.load_best_model_at_end=false", "--rows", "8")
    said = tune("plan", *words, *off, "--save", "kept/plan.json")
    assert (said.code, said.err.splitlines()[0]) == (2, "error: there is no folder kept for the plan")
    (tmp_path / "kept").mkdir()
    said = tune("plan", *words, *off, "--save", "kept/plan.json")
    assert said.code == 0, said.err
    assert said.out.endswith("saved; train exactly this with tune train --plan kept/plan.json\n")
    return tmp_path / "kept" / "plan.json"


def test_a_kept_plan_is_trained_as_it_was(kept: Path, tune: Callable[..., Any]) -> None:
    said = tune("train", "--plan", str(kept), "--dry-run", "--json")
    assert said.code == 0, said.err
    assert said.json()["plan"]["values"] == saved.load(kept).plan.to_json()["values"]


def test_a_kept_plan_refuses_what_drifted(kept: Path, tune: Callable[..., Any], tmp_path: Path) -> None:
    said = tune("train", "--plan", str(kept), "--dry-run", "--max-steps", "3")
    assert said.code == 65
    assert said.err == (
        "error: training.max_steps was -1 and is now 3\n"
        f"  hint: look again: tune plan ... --save {kept}; or train without --plan\n"
    )
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')
    data = json.loads(kept.read_text())
    data["lock"]["packages"]["trl"] = "1.0.0"
    kept.write_text(json.dumps(data))
    said = tune("train", "--plan", str(kept), "--dry-run")
    assert said.code == 65
    first, *others = said.err.splitlines()
    assert first.startswith("error: trl was 1.0.0 and is now ")
    assert others[0] == "error: the data rows.jsonl has changed since the plan was saved"
    assert others[1].startswith("  hint: look again: ")


def test_what_is_no_recipe(kept: Path, tune: Callable[..., Any]) -> None:
    for command in ("plan", "train"):
        said = tune(command, "rows.jsonl")
        assert (said.code, said.err) == (
            2,
            "error: rows.jsonl is data, not a recipe\n"
            f"  hint: tune {command} --model NAME --data rows.jsonl; tune init --data rows.jsonl writes a recipe for it\n",
        )
    said = tune("plan", "--model", "./gone", "--data", "rows.jsonl")
    assert said.err.startswith("error: model.name_or_path: there is no model folder ./gone\n")
    said = tune("plan", "--model", "nano", "--data", "gone.jsonl")
    assert said.err.startswith("error: data.train: there is no file gone.jsonl")


def test_rows_that_cannot_be_read_stop_a_start(kept: Path, tune: Callable[..., Any], tmp_path: Path) -> None:
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write("{broken\n")
    words = ("--model", "nano", "--data", "rows.jsonl", "--gpu", "cpu")
    for more in (("--dry-run",), ()):
        said = tune("train", *words, *more)
        assert said.code == 2
        assert said.err.splitlines()[-2:] == [
            "error: 1 of 9 rows is bad, and none may be",
            "  hint: mend them, or set data.max_bad_rows to 0.12, which leaves them out",
        ]
    assert not (tmp_path / "runs").exists()


def test_what_is_no_plan(tune: Callable[..., Any], tmp_path: Path) -> None:
    hint = "  hint: tune plan RECIPE --save FILE writes one\n"
    said = tune("train", "--plan", "none.json")
    assert (said.code, said.err) == (2, f"error: there is no plan none.json\n{hint}")
    (tmp_path / "odd.json").write_text('{"plan": 1}')
    said = tune("train", "--plan", "odd.json")
    assert (said.code, said.err) == (2, f"error: odd.json is not a plan that tune has saved\n{hint}")
    (tmp_path / "new.json").write_text(json.dumps({"kind": saved.KIND, "version": 99}))
    said = tune("train", "--plan", "new.json")
    assert (said.code, said.err) == (
        2,
        f"error: new.json cannot be read: version 99 is newer than 1: use a newer nothing-tune\n{hint}",
    )


def test_the_impossible_is_refused() -> None:
    from nothing_tune.run.forecast import forecast as look

    words = ["training.bf16=null", "training.fp16=null"]
    plan = make_plan(load_recipe("methods/full", gpu="rtx-3060", with_=["models/llama-2-13b"], overrides=words))
    *_, problem = impossible(look(plan, Rows(GIVEN, 1000, 0), fetch=False))
    assert problem.what.startswith(
        "the run does not fit rtx-3060: one row at a time with activation checkpointing needs "
    )
    assert problem.hint.endswith("tune plan RECIPE --fits shows other GPUs; --anyway starts it all the same")
    assert impossible(look(make_plan(load_recipe("nothing-gpt", gpu="t4")), Rows(), fetch=False)) == []
