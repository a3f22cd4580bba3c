"""What differs between runs, and how they went: records beside each other, and what of them may be compared. Pure, but for `gathered`.

A loss is a mean over tokens: it is compared where rows and tokenizer are the same, which the fingerprints of the checkpoints tell.
Evaluations are compared where they are of the same name and the same rows. What may not be compared stands there all the same, but
nothing is called the best of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nothing_tune.artifacts import Run
from nothing_tune.errors import TuneError
from nothing_tune.outputs import record
from nothing_tune.outputs.evaluated import Compared, evaluated
from nothing_tune.outputs.lines import UNKNOWN, Line, best_of, proved
from nothing_tune.plan import drift, kwargs

Record = Mapping[str, Any]
PASSED_OVER = (
    "name",
    "description",
    "training.run_name",
    "model.facts",
    "model.facts.",
    "gpu.",
    "layers",
    "replace",
    "advice.",
    "data.sample",
    "data.sample.",
)
"""Keys (or their beginnings) of values that say nothing of how a run was trained; the GPU's name is compared all the same."""
TOP = "recipe"
"""Section of the keys that stand in none."""


@dataclass(frozen=True)
class Comparison:
    """Runs beside each other.

    Attributes:
        runs: `{id, path, name, state, problem}` of each.
        recipe: Section -> its keys with one value a run, in the order of recipes; `UNKNOWN` for a run without one.
        data: Rows, fingerprints, tokenizers.
        same_rows: `train` and `eval`: whether these rows are known to be the same in all runs that have any.
        went: State, steps, time, losses.
        evaluated: Evaluations beside each other.
        exports: What was exported, and whether it was proved.
        notes: What may not be compared, and why.
    """

    runs: tuple[dict[str, Any], ...]
    recipe: dict[str, tuple[Line, ...]]
    data: tuple[Line, ...]
    same_rows: dict[str, bool]
    went: tuple[Line, ...]
    evaluated: tuple[Compared, ...]
    exports: tuple[Line, ...]
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """As plain data; a setting that is not known is null."""
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
    data, same_rows, comparable, notes = _data(records)
    same, more = evaluated(records)
    return Comparison(
        runs=tuple({k: r.get(k) for k in ("id", "path", "name", "state", "problem", "created")} for r in records),
        recipe=_recipe(records, everything),
        data=data,
        same_rows=same_rows,
        went=_went(records, comparable),
        evaluated=same,
        exports=_exports(records),
        notes=(*notes, *more),
    )


def _recipe(records: Sequence[Record], everything: bool) -> dict[str, tuple[Line, ...]]:
    """Keys by section. A setting that a newer version added counts with the value at which it changes nothing."""
    flats = [_flat(r) for r in records]
    keys = dict.fromkeys(key for flat in flats if flat is not None for key in flat)
    out: dict[str, list[Line]] = {}
    for key in keys:
        if key != "gpu.name" and _passed_over(key):
            continue
        values = tuple(UNKNOWN if f is None else f.get(key, drift.USUAL.get(key)) for f in flats)
        told = [v for v, flat in zip(values, flats, strict=True) if flat is not None]
        if key == "data.format":  # a run states what was seen
            told = [v for v in told if v != "auto"] or ["auto"]
        if everything or any(v != told[0] for v in told):
            section, _, name = key.partition(".")
            out.setdefault(section if name else TOP, []).append(Line(key, name or key, values, "value"))
    return {section: tuple(lines) for section, lines in out.items()}


def _flat(one: Record) -> dict[str, Any] | None:
    """The leaves of a run's resolved recipe; None without one."""
    values = (one.get("recipe") or {}).get("values")
    if not values:
        return None
    flat = drift.flat(values)
    flat.setdefault("data.truncation", kwargs.truncation({"training": values.get("training") or {}})[0])
    return flat


def _passed_over(key: str) -> bool:
    return key in PASSED_OVER or key.startswith(tuple(k for k in PASSED_OVER if k.endswith(".")))


def _data(records: Sequence[Record]) -> tuple[tuple[Line, ...], dict[str, bool], list[bool], list[str]]:
    """`(lines, which rows are the same, of which runs eval losses may be compared, notes)`."""
    known = [r.get("data") or {} for r in records]
    lines = []
    alike: dict[str, bool] = {}
    marks: dict[str, list[str | None]] = {}
    for role, count, mark, label in (
        ("train", "rows", "train_tokens", "training rows"),
        ("eval", "eval_rows", "eval_tokens", "evaluation rows"),
    ):
        marks[role] = _marks(records, role, mark)
        classes = _classes([m if _count(r, role) else None for m, r in zip(marks[role], records, strict=True)])
        there = [c for c, r in zip(classes, records, strict=True) if _count(r, role)]
        alike[role] = len(there) > 1 and len(set(there)) == 1 and there[0] is not None
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
    elif not alike["eval"] and sum(1 for r in records if _count(r, "eval")) > 1:
        unknown = any(m is None for m, r in zip(marks["eval"], records, strict=True) if _count(r, "eval"))
        notes.append(
            "it is not known of all runs which rows they were evaluated on: their eval losses are not compared"
            if unknown
            else "the evaluation rows differ: eval losses of other rows are not compared"
        )
    fair = alike["eval"] and not _differ(tokenizers)
    comparable = [bool(fair and _count(r, "eval")) for r in records]
    return tuple(one for one in lines if _told(one)), alike, comparable, notes


def _marks(records: Sequence[Record], role: str, name: str) -> list[str | None]:
    """What tells the rows of each run apart: the digest of their tokens; where a run that had rows has none, the digests of the
    files for all of them, with all that chooses rows of them."""
    digests = [(r.get("fingerprints") or {}).get(name) for r in records]
    if all(d for d, r in zip(digests, records, strict=True) if _count(r, role)):
        return [str(d) if d else None for d in digests]
    return [_files(r, role) for r in records]


def _count(one: Record, role: str) -> Any:
    return (one.get("data") or {}).get("rows" if role == "train" else "eval_rows")


def _files(one: Record, role: str) -> str | None:
    data = one.get("data") or {}
    marks = [s.get("sha256") for s in data.get("sources") or [] if s.get("role") == role]
    if role == "eval" and not marks and data.get("held_out"):
        marks = [s.get("sha256") for s in data.get("sources") or [] if s.get("role") == "train"]
    if not marks or not all(marks):
        return None
    flat = _flat(one) or {}
    chosen = {
        k: v
        for k, v in flat.items()
        if k.startswith("data.") and not k.startswith(("data.sample", "data.format", *drift.BY_CONTENT))
    }
    return repr(
        (marks, data.get("held_out"), _count(one, role), sorted(chosen.items()), flat.get("training.max_length"))
    )


def _classes(values: Sequence[Any]) -> list[int | None]:
    """The number of each value among the different ones, from 0; None for None."""
    order = list(dict.fromkeys(v for v in values if v is not None))
    return [None if v is None else order.index(v) for v in values]


def _which(one: int | None, classes: Sequence[int | None]) -> str:
    """Which of the different ones it is; empty where all are the same, or it is not known."""
    if one is None:
        return ""
    return f"set {one + 1}" if len({c for c in classes if c is not None}) > 1 else ""


def _differ(values: Iterable[Any]) -> bool:
    return len({v for v in values if v is not None}) > 1


def _went(records: Sequence[Record], comparable: Sequence[bool]) -> tuple[Line, ...]:
    def each(name: str) -> list[Mapping[str, Any]]:
        return [r.get(name) or {} for r in records]

    def fair(values: Sequence[float | None]) -> list[float | None]:
        return [v if ok else None for v, ok in zip(values, comparable, strict=True)]

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
        Line("eval_loss", "last eval loss", final, "loss", (), best_of(fair(final), True)),
        Line("best", label, at, "loss", where, best_of(fair(at), lower) if len(label) > 4 else ()),
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


def _exports(records: Sequence[Record]) -> tuple[Line, ...]:
    """One line an output: bytes, and `proved`, `not proved` or `proof failed`."""
    made: list[dict[str, Mapping[str, Any]]] = [{_output(e): e for e in r.get("exports") or []} for r in records]
    lines = []
    for name in dict.fromkeys(key for one in made for key in one):
        entries = [one.get(name) for one in made]
        details = tuple("" if e is None else proved(e.get("proof")) for e in entries)
        lines.append(Line(name, name, tuple(None if e is None else e.get("bytes") for e in entries), "bytes", details))
    return tuple(lines)


def _output(entry: Mapping[str, Any]) -> str:
    kind, name = str(entry.get("kind") or ""), str(entry.get("output") or "")
    return name if kind in ("", name) else f"{kind} {name}"


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {k: _plain(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(v) for v in data]
    return None if isinstance(data, str) and data == UNKNOWN else data
