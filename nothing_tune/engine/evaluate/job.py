"""One evaluation from its request to its file: rows, run, base, judge, figures."""

from __future__ import annotations

import difflib
import gc
import json
import random
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from nothing_tune.artifacts import Run
from nothing_tune.artifacts.checkpoint import versions
from nothing_tune.engine import build, chat
from nothing_tune.engine.chat.models import Transformers
from nothing_tune.engine.evaluate import answers, calls, figures, judge, loss, measured, rows, statistics, tasks
from nothing_tune.engine.evaluate.answers import Answer
from nothing_tune.engine.evaluate.measured import Asked, Side
from nothing_tune.engine.evaluate.rows import Found
from nothing_tune.engine.export.source import Source, source
from nothing_tune.engine.export.stops import stops
from nothing_tune.engine.job import Send
from nothing_tune.errors import UsageError
from nothing_tune.outputs import evaluation as record
from nothing_tune.outputs.checkpoints import HANDED_OVER
from nothing_tune.outputs.evaluation import Evaluation
from nothing_tune.recipe.judges import Judge

GENERATED = 200
"""Answers that are generated where nobody says of how many rows."""
EVERY_S = 0.1


def work(request: dict[str, Any], send: Send) -> None:
    """Does what a request asks; see the box's docstring.

    Raises:
        UsageError: There are no such weights, rows, tasks or judge; or the run has seen the rows.
        OutOfMemory: One row does not fit.
        StorageError: The file cannot be written.
    """
    began = time.monotonic()
    told = _Telling(send)
    run = Run(Path(request["run"]).absolute())
    found = source(run, str(request.get("which") or HANDED_OVER))
    if request.get("name"):
        record.check_name(request["name"])
    prepared, seen = _rows(request, found, told)
    cells = _cells(prepared, str(request.get("group_by") or ""))
    asked = Asked(found=prepared, examples=request.get("rows"))
    asked.tasks = tasks.ready(request.get("tasks") or [])
    told.stage("loading the model")
    model, tokenizer = _load(found)
    if prepared is not None and request.get("generate", True):
        _ask(asked, request, model, tokenizer, told)
    mine = _side(model, tokenizer, asked, found, told, "")
    theirs: Side | None = None
    if request.get("base", True):
        inside = hasattr(model, "disable_adapter") and not _moved(found)
        if not inside:
            del model
            _free()
            told.stage("loading the base model")
            model, _ = chat.load(run, True)
            model.eval()
        with model.disable_adapter() if inside else nullcontext():
            theirs = _side(model, tokenizer, asked, found, told, ", base")
    del model
    _free()
    units = measured.units(asked, mine, theirs)
    metrics, base, apart = figures.figures(units)
    if asked.tasks:
        metrics |= mine.tasks[0]
        if theirs is not None:
            base = {**(base or {}), **theirs.tasks[0]}
            apart = {**(apart or {}), **tasks.differences(mine.tasks, theirs.tasks)}
    data, counts = measured.data(request, asked, seen)
    name = request.get("name") or record.default_name(
        data["sources"] if data["kind"] == "data" else [], request.get("tasks") or () if data["kind"] == "tasks" else ()
    )
    settings = measured.settings(request, found, asked)
    base_name = str(found.plan.model.get("name_or_path") or "") if theirs else ""
    if request.get("judge"):
        made = _judged(request, found, asked, mine, theirs, name, tokenizer, told)
        metrics |= made.run
        base = {**(base or {}), **made.other} or None
        apart = {**(apart or {}), **made.difference} or None
        settings["judge"] = made.facts
    groups = {}
    if prepared is not None:
        column = str(request.get("group_by") or "")
        groups = figures.groups(units, [row.file for row in prepared.rows], cells, column)
    result = Evaluation(
        name=name, run=run.id, step=found.step, data=data, rows=counts, metrics=metrics, base=base, difference=apart,
        groups=groups, samples=measured.samples(asked, mine, theirs), settings=settings, versions=versions(), time=time.time(),
        seconds=round(time.monotonic() - began, 2), base_name=base_name,
    )  # fmt: skip
    kept = record.kept(run, result)
    path, named = record.write(run, result)
    if kept:
        told.note(f"the evaluation {name} is kept, for it {kept}: this one is called {named.name}")
    send(type="report", path=str(path), evaluation=named.to_json())


class _Telling:
    """Progress, ten times a second at most, and words."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self._last = 0.0

    def stage(self, what: str, done: int = 0, total: int = 0, unit: str = "rows") -> None:
        """How far a stage is; its beginning and end are always told."""
        now = time.monotonic()
        if 0 < done < total and now - self._last < EVERY_S:
            return
        self._last = now
        self.send(type="progress", stage=what, done=done, total=total, unit=unit)

    def preparing(self, what: str, count: int, _: float | None = None) -> None:
        """As `prepare` tells."""
        self.stage(what, count, 0)

    def note(self, what: str) -> None:
        """What is done on the job's own account."""
        self.send(type="note", what=what)

    def warn(self, what: str, hint: str = "") -> None:
        """What may surprise."""
        self.send(type="warning", what=what, hint=hint)


def _rows(
    request: Mapping[str, Any], found: Source, told: _Telling
) -> tuple[Found | None, list[tuple[str, str]] | None]:
    """The rows, none for tasks alone, and those of them that the run has seen; None where that was not looked at."""
    plan, run, names = found.plan, found.run, request.get("data")
    if request.get("tasks") and not names:
        return None, None
    tokenizer = build.tokenizer(plan)
    day = time.strftime("%d %b %Y", time.localtime(run.status().get("created") or time.time()))
    allowed = bool(request.get("seen"))
    if names:
        prepared = rows.named(plan, tokenizer, names, day, told.preparing)
    else:
        prepared = rows.held_out(run, plan, tokenizer, day, allowed, told.preparing)
    if not prepared.rows:
        raise UsageError("there is no row to measure on", hint="name rows that hold an answer")
    if prepared.refused:
        told.note(
            f"{prepared.refused:,} rows are left out, as a training would: bad, too long, or nothing to learn in them"
        )
    prepared = rows.sample(prepared, request.get("rows"), statistics.SEED)
    try:
        twins = rows.seen(prepared, run, plan, day, told.preparing)
    except UsageError:
        if not allowed:
            raise
        return prepared, None
    if not allowed:
        rows.refuse_seen(twins, len(prepared.rows), run)
    elif twins:
        told.warn(
            f"the run was trained on {len(twins):,} of these {len(prepared.rows):,} rows",
            "what it knows by heart looks better",
        )
    return prepared, twins


def _cells(prepared: Found | None, name: str) -> list[str | None]:
    """The value of the column `name` of each row. `UsageError` where no row has it."""
    if not name:
        return [None] * (0 if prepared is None else len(prepared.rows))
    if prepared is None:
        raise UsageError("--group-by needs rows", hint="tasks alone have no columns; name rows with --data")
    cells = [rows.column(row, name) for row in prepared.rows]
    if any(cell is not None for cell in cells):
        return cells
    there = rows.columns(prepared)
    near = difflib.get_close_matches(name, there, n=3)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif there:
        hint = f"the rows have {', '.join(there[:8])}{' and others' if len(there) > 8 else ''}"
    else:
        hint = "the rows have no column beside the conversation"
    raise UsageError(f"no row has the column {name}", hint=hint)


def _load(found: Source) -> tuple[Any, Any]:
    handed_over = found.weights == found.run.adapter
    model, tokenizer = chat.load(found.run, False, None if handed_over else found.weights)
    model.eval()
    return model, tokenizer


def _moved(found: Source) -> bool:
    """Whether the base under the adapter is not the base itself: LoftQ repeats its own quantisation on it."""
    return str((found.plan.peft or {}).get("init_lora_weights", "")).lower().startswith("loftq")


def _ask(asked: Asked, request: Mapping[str, Any], model: Any, tokenizer: Any, told: _Telling) -> None:
    """Which answers are generated, and how long they may be."""
    assert asked.found is not None
    asked.syntax = calls.syntax(tokenizer, asked.found.encoder.template)
    every = answers.of_rows(asked.found.rows, asked.found.encoder, asked.syntax)
    asked.limit = int(request.get("max_new_tokens") or answers.most_new_tokens(every.turns))
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    fit = [t for t in every.turns if most is None or len(t.prompt) + asked.limit <= most]
    asked.unfit = every.unfit + len(every.turns) - len(fit)
    if asked.unfit:
        told.warn(
            f"{asked.unfit:,} answers cannot be asked for: their prompts do not fit the template or the model's context"
        )
    if request.get("rows") is None and len(fit) > GENERATED:
        order = sorted({t.row for t in fit})
        random.Random(statistics.SEED).shuffle(order)
        kept: set[int] = set()
        count = 0
        for row in order:
            if count >= GENERATED:
                break
            kept.add(row)
            count += sum(t.row == row for t in fit)
        told.note(f"answers are generated for {len(kept):,} of the rows, drawn by chance; --rows N says for how many")
        fit = [t for t in fit if t.row in kept]
    if asked.syntax.kind == "unknown" and any(t.calls for t in fit):
        told.warn("how this chat template writes calls is not understood: calls are compared as text")
    asked.turns = fit


def _side(model: Any, tokenizer: Any, asked: Asked, found: Source, told: _Telling, whose: str) -> Side:
    """All that one model is asked."""
    out = Side()
    if asked.found is not None:
        parts = [p for row in asked.found.rows for p in row.parts]
        stage = f"loss{whose}"
        told.stage(stage, 0, len(parts))
        out.losses = loss.measure(model, parts, found.plan, lambda done: told.stage(stage, done, len(parts)))
    if asked.turns:
        prompts, stage = [t.prompt for t in asked.turns], f"answers{whose}"
        told.stage(stage, 0, len(prompts), "answers")
        out.answers = answers.generate(
            model, tokenizer, prompts, stops(tokenizer, model.generation_config), asked.limit, found.plan,
            lambda done: told.stage(stage, done, len(prompts), "answers"),
        )  # fmt: skip
    if asked.tasks:
        told.stage(f"tasks{whose}", 0, 0, "tasks")
        with loss.autocast(found.plan, model.device):
            out.tasks = tasks.run(model, tokenizer, asked.tasks, asked.examples)
    return out


def _judged(
    request: Mapping[str, Any],
    found: Source,
    asked: Asked,
    mine: Side,
    theirs: Side | None,
    name: str,
    tokenizer: Any,
    told: _Telling,
) -> judge.Judged:
    """Another model's verdicts on the answers of the run, beside those of the base or of another run."""
    if asked.found is None or not asked.turns:
        raise UsageError("there are no answers to judge", hint="a judge needs rows with answers, and no --no-generate")
    against = str(request.get("against") or "base")
    other = None if theirs is None else theirs.answers
    if against != "base":
        other = _answers_of(Run(Path(against).absolute()), asked, told)
    how = Judge(**request["judge"])
    if how.kind == "pairwise" and other is None:
        raise UsageError(
            "a pairwise judge needs the base's answers", hint="leave --no-base out, or name a run with --against"
        )
    items = []
    for index, turn in enumerate(asked.turns):
        texts = [None if some is None else measured.shown(some[index], turn) for some in (mine.answers, other)]
        items.append(
            judge.Item(
                turn.row,
                asked.found.rows[turn.row].place,
                turn.messages,
                turn.written if turn.calls else turn.content,
                str(texts[0]),
                texts[1],
            )
        )
    folder = record.folder(found.run)
    folder.mkdir(exist_ok=True)
    made = judge.judged(how, items, request["endpoint"], folder / f"{name}.json", tokenizer, told.send)
    made.facts["against"] = "base" if against == "base" else Path(against).name
    return made


def _answers_of(run: Run, asked: Asked, told: _Telling) -> list[Answer]:
    """What another run answers to the same messages, each with its own template."""
    assert asked.found is not None
    told.stage(f"loading {run.id}")
    there = source(run, HANDED_OVER)
    model, tokenizer = _load(there)
    both = Transformers(model, tokenizer)
    prompts = []
    for turn in asked.turns:
        tools = (asked.found.rows[turn.row].value or {}).get("tools")
        prompts.append(both.encode(turn.messages, json.loads(tools) if isinstance(tools, str) else tools))
    stage = f"answers of {run.id}"
    return answers.generate(
        model, tokenizer, prompts, sorted(both.stops), asked.limit, there.plan,
        lambda done: told.stage(stage, done, len(prompts), "answers"),
    )  # fmt: skip


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
