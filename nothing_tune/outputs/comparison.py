"""What differs between runs, and how they went: records beside each other, and what of them may be compared. Pure, but for `gathered`.

A loss is a mean over tokens: it is compared where rows and tokenizer are the same, which the fingerprints of the checkpoints tell.
Evaluations are compared where they are of the same name and the same rows. What may not be compared stands there all the same, but
nothing is called the best of it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nothing_tune.artifacts import Run
from nothing_tune.errors import TuneError
from nothing_tune.outputs import evaluation as evaluations
from nothing_tune.outputs import record
from nothing_tune.plan import drift

Record = Mapping[str, Any]
ABSENT = "\0absent"
"""Stands for a key that a run's recipe does not have."""
PASSED_OVER = ("name", "description", "training.run_name", "model.facts", "model.facts.", "gpu.", "layers", "replace")
"""Keys (or their beginnings) of values that say nothing of how a run was trained; the GPU's name is compared all the same."""
TOP = "recipe"
"""Section of the keys that stand in none."""


@dataclass(frozen=True)
class Line:
    """One thing said of every run.

    Attributes:
        key: Its name for programs.
        label: Its name for people.
        values: One value a run; None where it is not known.
        form: How it is written: `text`, `count`, `loss`, `seconds`, `rate`, `bytes`, `usd`, `value` (of a recipe), `metric`.
        details: One text a run that stands after its value; empty for none.
        best: Places of the runs with the best value; empty where none is better, or they may not be compared.
    """

    key: str
    label: str
    values: tuple[Any, ...]
    form: str = "text"
    details: tuple[str, ...] = ()
    best: tuple[int, ...] = ()


@dataclass(frozen=True)
class Compared:
    """One evaluation of the same rows by two runs or more.

    Attributes:
        name: Its name.
        rows: How many rows it is of; None for tasks.
        lines: One line a metric: values are `{value, low, high, n}`, None for a run without it.
        settings_differ: Answers were drawn with other settings, so that metrics of answers are not of the same thing.
    """

    name: str
    rows: int | None
    lines: tuple[Line, ...]
    settings_differ: bool = False


@dataclass(frozen=True)
class Comparison:
    """Runs beside each other.

    Attributes:
        runs: `{id, path, name, state, problem}` of each.
        recipe: Section -> its keys with one value a run, in the order of recipes; `ABSENT` for a key that a run does not have.
        data: Rows, fingerprints, tokenizers.
        went: State, steps, time, losses.
        evaluated: Evaluations that may be compared.
        exports: What was exported, and whether it was proven.
        notes: What may not be compared, and why.
    """

    runs: tuple[dict[str, Any], ...]
    recipe: dict[str, tuple[Line, ...]]
    data: tuple[Line, ...]
    went: tuple[Line, ...]
    evaluated: tuple[Compared, ...]
    exports: tuple[Line, ...]
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """As plain data; a key that a run does not have is left out of its values' list as null."""
        return _plain(asdict(self))  # type: ignore[no-any-return]


def gathered(run: Run) -> dict[str, Any]:
    """The record of a run; of one whose files are damaged what they tell, with `problem`: why there is no more."""
    try:
        return record.of_run(run)
    except TuneError as error:
        why = error.problems[0].what
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = f"its files are not those of a run: {error}"
    found: dict[str, Any] = {"id": run.id, "path": str(run.path), "name": run.id, "state": "damaged", "problem": why}
    with contextlib.suppress(TuneError):
        found["metrics"] = (run.result() or {}).get("metrics") or {}
    with contextlib.suppress(TuneError):
        status = run.status()
        found |= {
            "steps": status.get("step"),
            "total_steps": status.get("total_steps"),
            "created": status.get("created"),
        }
    return found


def compare(records: Sequence[Record], *, everything: bool = False) -> Comparison:
    """The comparison of two records or more; with `everything` the keys that are the same in all of them, too."""
    data, same_loss, notes = _data(records)
    evaluated, more = _evaluated(records)
    return Comparison(
        runs=tuple({k: r.get(k) for k in ("id", "path", "name", "state", "problem", "created")} for r in records),
        recipe=_recipe(records, everything),
        data=data,
        went=_went(records, same_loss),
        evaluated=evaluated,
        exports=_exports(records),
        notes=(*notes, *more),
    )


def _recipe(records: Sequence[Record], everything: bool) -> dict[str, tuple[Line, ...]]:
    """Keys by section. A setting that a newer version added counts with the value at which it changes nothing."""
    known = [r.get("recipe") or {} for r in records]
    flats = [drift.flat(k["values"]) if k.get("values") else None for k in known]
    there = [f for f in flats if f is not None]
    keys = dict.fromkeys(key for flat in there for key in flat)
    out: dict[str, list[Line]] = {}
    for key in keys:
        if key != "gpu.name" and _passed_over(key):
            continue
        values = tuple(None if f is None else f.get(key, drift.USUAL.get(key, ABSENT)) for f in flats)
        told = [v for v, flat in zip(values, flats, strict=True) if flat is not None]
        if everything or any(v != told[0] for v in told):
            section, _, name = key.partition(".")
            out.setdefault(section if name else TOP, []).append(Line(key, name or key, values, "value"))
    return {section: tuple(lines) for section, lines in out.items()}


def _passed_over(key: str) -> bool:
    return key in PASSED_OVER or key.startswith(tuple(k for k in PASSED_OVER if k.endswith(".")))


def _data(records: Sequence[Record]) -> tuple[tuple[Line, ...], bool, list[str]]:
    """`(lines, whether eval losses may be compared, notes)`."""
    known = [r.get("data") or {} for r in records]
    lines = []
    alike = {}
    for role, count, mark, label in (
        ("train", "rows", "train_tokens", "training rows"),
        ("eval", "eval_rows", "eval_tokens", "evaluation rows"),
    ):
        classes = _classes([_rows_of(r, role, mark) for r in records])
        alike[role] = len(set(classes)) == 1 and classes[0] is not None
        details = tuple(_which(c, classes) for c in classes)
        lines.append(Line(f"data.{role}", label, tuple(d.get(count) for d in known), "count", details))
    lines.append(Line("data.tokens", "learned tokens", tuple(d.get("supervised_tokens") for d in known), "count"))
    prints = [r.get("fingerprints") or {} for r in records]
    tokenizers, templates = ([p.get(name) for p in prints] for name in ("tokenizer", "chat_template"))
    notes = []
    for name, label, values in (("tokenizer", "tokenizer", tokenizers), ("template", "chat template", templates)):
        if _differ(values):
            classes = _classes(values)
            lines.append(Line(name, label, tuple(None if c is None else f"{label} {c + 1}" for c in classes)))
    if _differ(tokenizers):
        notes.append(
            "the tokenizers differ: a loss counts tokens, so that losses cannot be compared; bits per byte can: tune eval"
        )
    elif _differ(templates):
        notes.append(
            "the chat templates differ: the rows are written in other tokens, and losses are not of the same text"
        )
    elif not alike["eval"] and sum(1 for d in known if d.get("eval_rows")) > 1:
        unknown = any(
            _rows_of(r, "eval", "eval_tokens") is None for r in records if (r.get("data") or {}).get("eval_rows")
        )
        notes.append(
            "it is not known of all runs which rows they were evaluated on: their eval losses are not compared"
            if unknown
            else "the evaluation rows differ: eval losses of other rows are not compared"
        )
    return tuple(one for one in lines if _told(one)), alike["eval"] and not _differ(tokenizers), notes


def _rows_of(one: Record, role: str, mark: str) -> str | None:
    """What tells rows apart: the digest of their tokens, else the digests of the files with all that chooses rows of them."""
    found = (one.get("fingerprints") or {}).get(mark)
    if found:
        return str(found)
    data = one.get("data") or {}
    marks = [s.get("sha256") for s in data.get("sources") or [] if s.get("role") == role]
    if role == "eval" and not marks and data.get("held_out"):
        marks = [s.get("sha256") for s in data.get("sources") or [] if s.get("role") == "train"]
    if not marks or not all(marks):
        return None
    values = (one.get("recipe") or {}).get("values") or {}
    chosen = {k: v for k, v in drift.flat(values).items() if k.startswith("data.") and k not in drift.BY_CONTENT}
    limit = (values.get("training") or {}).get("max_length")
    return repr(
        (
            marks,
            data.get("held_out"),
            data.get("rows" if role == "train" else "eval_rows"),
            sorted(chosen.items(), key=str),
            limit,
        )
    )


def _classes(values: Sequence[Any]) -> list[int | None]:
    """The number of each value among the different ones, from 0; None for None."""
    order = list(dict.fromkeys(v for v in values if v is not None))
    return [None if v is None else order.index(v) for v in values]


def _which(one: int | None, classes: Sequence[int | None]) -> str:
    """`the same` where all are, else which of the different ones; empty where it is not known."""
    if one is None:
        return ""
    known = [c for c in classes if c is not None]
    if len(known) < 2:
        return ""
    return "the same" if len(set(known)) == 1 else f"set {one + 1}"


def _differ(values: Iterable[Any]) -> bool:
    return len({v for v in values if v is not None}) > 1


def _went(records: Sequence[Record], same_loss: bool) -> tuple[Line, ...]:
    def each(name: str) -> list[Mapping[str, Any]]:
        return [r.get(name) or {} for r in records]

    metrics, curves, best = each("metrics"), each("curves"), each("best")
    steps = tuple(_steps(r) for r in records)
    final = tuple(_first(m.get("eval_loss"), _last(c, "eval")) for m, c in zip(metrics, curves, strict=True))
    at = tuple(_first(b.get("value"), m.get("best_eval_loss")) for b, m in zip(best, metrics, strict=True))
    named = {b.get("metric") for b in best if b} or {"eval_loss"}
    label = "best eval loss" if named == {"eval_loss"} else f"best {named.pop()}" if len(named) == 1 else "best"
    where = tuple(f"at {s:,}" if isinstance(s := b.get("step"), int) else "" for b in best)
    lower = not any(
        (r.get("recipe") or {}).get("values", {}).get("training", {}).get("greater_is_better") for r in records
    )
    peak = tuple(max((v for _, v in c.get("memory_gib") or []), default=None) for c in curves)
    lines = [
        Line("state", "state", tuple(r.get("state") for r in records)),
        Line("steps", "steps", steps),
        Line("epochs", "epochs", tuple(r.get("epochs") for r in records), "metric"),
        Line("tokens", "tokens", tuple(m.get("num_tokens") for m in metrics), "count"),
        Line("time", "time", tuple(r.get("duration_s") for r in records), "seconds"),
        Line("speed", "tokens/s", tuple(_rate(m) for m in metrics), "count"),
        Line("memory", "peak memory", tuple(None if v is None else v * 2**30 for v in peak), "bytes"),
        Line("cost", "cost", tuple(_cost(r) for r in records), "usd"),
        Line("trainable", "trained weights", tuple(m.get("trainable") for m in each("method")), "count"),
        Line("attempts", "attempts", _unless(tuple(r.get("attempts") for r in records), 1), "count"),
        Line(
            "train_loss", "last train loss",
            tuple(_first(m.get("last_loss"), _last(c, "loss")) for m, c in zip(metrics, curves, strict=True)), "loss",
        ),
        Line("eval_loss", "last eval loss", final, "loss", (), _best(final, True) if same_loss else ()),
        Line("best", label, at, "loss", where, _best(at, lower) if same_loss and len(label) > 4 else ()),
    ]  # fmt: skip
    return tuple(line for line in lines if _told(line))


def _steps(one: Record) -> str | None:
    done, total = one.get("steps"), one.get("total_steps")
    if done is None:
        return None
    return f"{done:,}" if total in (None, done) else f"{done:,} of {total:,}"


def _rate(metrics: Mapping[str, Any]) -> float | None:
    tokens, seconds = metrics.get("num_tokens"), metrics.get("trained_s")
    return tokens / seconds if tokens and seconds else None


def _cost(one: Record) -> float | None:
    """US dollars as measured: the time it took at the price that the plan had."""
    rows = one.get("plan_against_measured") or []
    return next((r.get("measured") for r in rows if str(r.get("what")).startswith("cost")), None)


def _last(curves: Mapping[str, Any], name: str) -> float | None:
    points = curves.get(name) or []
    return points[-1][1] if points else None


def _first(*values: Any) -> Any:
    return next((v for v in values if v is not None), None)


def _unless(values: tuple[Any, ...], usual: Any) -> tuple[Any, ...]:
    return (None,) * len(values) if all(v in (None, usual) for v in values) else values


def _told(line: Line) -> bool:
    return any(v is not None for v in line.values)


def _best(values: Sequence[float | None], lower: bool) -> tuple[int, ...]:
    """Places of the best value; none where fewer than two are known, or all are the same."""
    known = [v for v in values if v is not None]
    if len(known) < 2 or len(set(known)) == 1:
        return ()
    top = min(known) if lower else max(known)
    return tuple(i for i, v in enumerate(values) if v == top)


def _evaluated(records: Sequence[Record]) -> tuple[tuple[Compared, ...], list[str]]:
    """The evaluations of the same name and rows, and what may not be compared."""
    found: dict[tuple[Any, ...], list[evaluations.Evaluation | None]] = {}
    for place, one in enumerate(records):
        for raw in one.get("evaluations") or []:
            with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):
                made = evaluations.Evaluation.from_json(raw)
                runs = found.setdefault((_stem(made), *_identity(made)), [None] * len(records))
                runs[place] = _rather(runs[place], made, one)
    compared = tuple(
        _compared(key[0], runs) for key, runs in found.items() if sum(1 for e in runs if e is not None) > 1
    )
    notes = []
    for name in dict.fromkeys(key[0] for key in found):
        sets = [runs for key, runs in found.items() if key[0] == name]
        if len(sets) > 1:
            notes.append(
                f"the evaluations called {name} are of {len(sets)} different sets of rows: only those of one are compared"
            )
        elif sum(1 for e in sets[0] if e is not None) == 1 and len(records) > 1:
            notes.append(f"the evaluation {name} was made of one run only: tune eval makes it of the others")
    return compared, notes


def _stem(one: evaluations.Evaluation) -> str:
    """An evaluation's name without the number that one of another step has."""
    return re.sub(r"-\d+$", "", one.name)


def _identity(one: evaluations.Evaluation) -> tuple[Any, ...]:
    """What makes two evaluations ones of the same rows and tasks; of rows without a digest, those of no other."""
    digest, tasks = one.data.get("digest"), one.settings.get("tasks")
    if digest is None and not tasks:
        return (one.run, one.name)
    return (digest, repr(tasks))


def _rather(one: evaluations.Evaluation | None, other: evaluations.Evaluation, run: Record) -> evaluations.Evaluation:
    """Of two evaluations of the same rows by one run that of the best step, else the newer one."""
    if one is None:
        return other
    step = (run.get("best") or {}).get("step")
    return max((one, other), key=lambda e: (e.step == step, e.time))


def _compared(name: str, runs: Sequence[evaluations.Evaluation | None]) -> Compared:
    there = [e for e in runs if e is not None]
    drawn = [
        {k: v for k, v in e.settings.items() if k in ("generation", "generate", "sampling", "max_new_tokens")}
        for e in there
    ]
    judges = [e.settings.get("judge") for e in there]
    names = dict.fromkeys(metric for e in there for metric in e.metrics)
    order = {metric: place for place, metric in enumerate(evaluations.METRICS)}
    lines = []
    for metric in sorted(names, key=lambda m: (order.get(m, len(order)), m)):
        values = tuple(e.metrics.get(metric) if e else None for e in runs)
        better = evaluations.fact(metric).better
        mine = [judges, drawn][not metric.startswith("judge_")]
        comparable = metric in ("loss", "perplexity", "bits_per_byte") or all(s == mine[0] for s in mine)
        best = _best([v.value if v else None for v in values], better == "lower") if better and comparable else ()
        plain = tuple(v.to_json() if v else None for v in values)
        lines.append(
            Line(
                metric,
                evaluations.fact(metric).label,
                plain,
                "metric",
                tuple(_interval(metric, v) for v in values),
                best,
            )
        )
    rows = there[0].rows.get("count")
    return Compared(name, rows, tuple(lines), any(d != drawn[0] for d in drawn))


def _interval(name: str, one: evaluations.Metric | None) -> str:
    """`0.41 to 0.52`; empty without an interval."""
    if one is None or one.low is None or one.high is None:
        return ""
    return f"{evaluations.shown(name, one.low)} to {evaluations.shown(name, one.high)}"


def _exports(records: Sequence[Record]) -> tuple[Line, ...]:
    """One line an output: bytes, and `proven`, `not proven` or `proof failed`."""
    made: list[dict[str, Mapping[str, Any]]] = [{_output(e): e for e in r.get("exports") or []} for r in records]
    lines = []
    for name in dict.fromkeys(key for one in made for key in one):
        entries = [one.get(name) for one in made]
        details = tuple("" if e is None else proven(e.get("proof")) for e in entries)
        lines.append(Line(name, name, tuple(None if e is None else e.get("bytes") for e in entries), "bytes", details))
    return tuple(lines)


def _output(entry: Mapping[str, Any]) -> str:
    kind, name = str(entry.get("kind") or ""), str(entry.get("output") or "")
    return name if kind in ("", name) else f"{kind} {name}"


def proven(proof: Mapping[str, Any] | None) -> str:
    """What a proof says, in two words."""
    if not proof or proof.get("ok") is None:
        return "not proven"
    return "proven" if proof["ok"] else "proof failed"


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {k: _plain(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(v) for v in data]
    return None if data == ABSENT else data
