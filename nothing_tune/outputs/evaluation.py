"""What was measured of a run on rows and tasks: `RUN/evaluations/NAME.json`, its schema, and the words for its numbers. Light.

    {"schema": 1, "name": "held-out", "run": "...", "step": 20, "data": {...}, "rows": {...},
     "metrics": {"loss": {"value": 1.2, "low": 1.1, "high": 1.3, "n": 40}, ...}, "base": {...} | null, "difference": {...} | null,
     "groups": {"turn": [{"name": "1", "rows": 40, "metrics": {...}, "base": {...}, "difference": {...}}]},
     "samples": [...], "settings": {...}, "versions": {...}, "time": 1790000000.0, "seconds": 12.3}

`difference` is run minus base on the same rows, its interval from pairs. A value that is not finite is null.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run, read_json, write_json
from nothing_tune.errors import StorageError, UsageError

SCHEMA = 1
FOLDER = "evaluations"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
"""What an evaluation may be called."""
IDENTITY = ("digest", "sources")
"""Parts of `data` that make two evaluations ones of the same rows."""


@dataclass(frozen=True)
class Fact:
    """What a metric is.

    Attributes:
        label: What pages call it.
        better: `lower` or `higher`, empty where neither is better in itself.
        form: How it is written: `number` (three places), `share` (of 0 to 1, written in per cent), `count` (one place).
        what: What it says, one clause.
    """

    label: str
    better: str
    form: str
    what: str


METRICS: dict[str, Fact] = {
    "loss": Fact("loss", "lower", "number", "mean of -log p over the tokens that are learned, in nats"),
    "perplexity": Fact("perplexity", "lower", "number", "exp(loss)"),
    "bits_per_byte": Fact(
        "bits per byte", "lower", "number", "the same in bits, by bytes of text: comparable between tokenizers"
    ),
    "exact_match": Fact("exact match", "higher", "share", "answers that say what the reference says, evened out"),
    "call_match": Fact("function calls right", "higher", "share", "all calls right: names and arguments as values"),
    "call_names": Fact("function names right", "higher", "share", "the functions called are those of the reference"),
    "call_format": Fact("calls readable", "higher", "share", "a call was expected, and one can be read"),
    "needless_calls": Fact("needless calls", "lower", "share", "no call was expected, and one was made"),
    "json_format": Fact("JSON readable", "higher", "share", "the reference is JSON, and the answer is as well"),
    "json_match": Fact("JSON right", "higher", "share", "the reference is JSON, and the answer has the same value"),
    "ended": Fact("ends by itself", "higher", "share", "the answer ends at its end of turn, not at the limit"),
    "length": Fact("length, tokens", "", "count", "tokens of the answer"),
    "length_ratio": Fact("length / reference", "", "number", "tokens of the answer by those of the reference"),
    "repetition": Fact(
        "repeated 4-grams", "lower", "share", "share of runs of four tokens that came before in the answer"
    ),
    "distinct_2": Fact("distinct 2-grams", "", "share", "different pairs of tokens by all pairs of the answer"),
    "judge_win": Fact("judge: wins", "higher", "share", "preferred in both orders"),
    "judge_loss": Fact("judge: losses", "lower", "share", "the other one preferred in both orders"),
    "judge_tie": Fact("judge: ties", "", "share", "neither, or another one in the other order"),
    "judge_score": Fact("judge: score", "higher", "number", "mean score of the judge"),
    "judge_invalid": Fact("judge: unreadable", "lower", "share", "verdicts that are not of the form asked for"),
    "judge_position": Fact("judge: first preferred", "", "share", "verdicts for the first answer; 0.5 without bias"),
}
"""The metrics, in the order of the page. Those of tasks are called `task/TASK/METRIC`, see `fact`."""


def fact(name: str) -> Fact:
    """What is known of a metric; for `task/TASK/METRIC` its words are the name itself, and `better` is told from the metric."""
    if name in METRICS:
        return METRICS[name]
    if name.startswith("task/"):
        task, _, metric = name.removeprefix("task/").rpartition("/")
        lower = any(word in metric for word in ("perplexity", "bits_per_byte", "loss", "brier", "ter", "mae", "rmse"))
        return Fact(f"{task}: {metric}", "lower" if lower else "higher", "number", f"{metric} of the task {task}")
    return Fact(name.replace("_", " "), "", "number", "")


@dataclass(frozen=True)
class Metric:
    """A measured value.

    Attributes:
        value: The value; None where it is not finite.
        low: Lower end of its interval at the level of `settings["level"]`; None where there is none.
        high: Upper end.
        n: Rows (or tokens' rows) that it was measured on.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Metric:
        """From plain data."""
        return cls(data.get("value"), data.get("low"), data.get("high"), int(data.get("n") or 0))


Metrics = dict[str, Metric]


@dataclass(frozen=True)
class Group:
    """Some of the rows, by what they have in common.

    Attributes:
        name: What they share: a file, the value of a column, a turn's number, `tool calls`.
        rows: How many they are (answers, where it is by turn).
        metrics: Those of the run.
        base: Those of the base on the same rows; None without it.
        difference: Run minus base.
    """

    name: str
    rows: int
    metrics: Metrics
    base: Metrics | None = None
    difference: Metrics | None = None


@dataclass(frozen=True)
class Evaluation:
    """What was measured of one step of a run on the same rows, with and without what was trained.

    Attributes:
        name: Its file's name without the ending.
        run: Id of the run.
        step: Optimizer step of the weights.
        data: `kind` (`held-out`: rows the run held out, `data`: rows that were named, `tasks`), `sources` (as they were named), `digest`
            (sha256 of the tokens and labels; None without rows).
        rows: `count`, `tokens`, `supervised_tokens`, `bytes` (UTF-8, of what is supervised), `generated` (rows with an answer made),
            `seen` (how many of them the run was trained on; None where that was not looked at) and `places` (the first of these, each
            a pair: row, row of the training).
        metrics: Name (see `METRICS`, `fact`) -> value with its interval.
        base: The same of the base model; None where it was left out.
        difference: Run minus base, from pairs; None without base.
        groups: Kind (`file`, `turn`, `tool calls`, `column NAME`) -> its groups.
        samples: Rows that people can read: `why` (`best`, `worst`, `random`), `place`, `prompt`, `reference`, `answer`, `base_answer`
            (None without), `loss`, `base_loss`.
        settings: All that decides: checkpoint, generation, `level` (0.95), `resamples`, `seed`, tasks, judge with its cost in tokens.
        versions: Of the libraries.
        time: When it was made, Unix seconds.
        seconds: How long it took.
        base_name: What `base` is: the base model, or the run it was judged against.
    """

    name: str
    run: str
    step: int
    data: dict[str, Any]
    rows: dict[str, Any]
    metrics: Metrics
    base: Metrics | None = None
    difference: Metrics | None = None
    groups: dict[str, list[Group]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    time: float = 0.0
    seconds: float = 0.0
    base_name: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain data, `schema` first."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """From plain data; keys of other versions are passed over. `KeyError`, `TypeError` or `AttributeError` where it is none."""
        known = {k: v for k, v in data.items() if k in cls.__dataclass_fields__}
        sets = {k: _metrics(known.get(k)) for k in ("base", "difference")}
        groups = {
            kind: [
                Group(
                    str(g["name"]),
                    int(g["rows"]),
                    _metrics(g["metrics"]) or {},
                    _metrics(g.get("base")),
                    _metrics(g.get("difference")),
                )
                for g in found
            ]
            for kind, found in (known.get("groups") or {}).items()
        }
        return cls(**{**known, "metrics": _metrics(data["metrics"]) or {}, **sets, "groups": groups})


def _metrics(data: Mapping[str, Any] | None) -> Metrics | None:
    return None if data is None else {name: Metric.from_json(one) for name, one in data.items()}


def folder(run: Run) -> Path:
    """Where the evaluations of a run lie; it need not be there."""
    return run.path / FOLDER


def read(path: Path) -> Evaluation:
    """The evaluation in a file. `UsageError` where there is none, it is damaged, or of a newer version."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise UsageError(f"there is no evaluation at {path}", hint="tune eval RUN_ID makes one")
    if int(found.get("schema") or 0) > SCHEMA:
        raise UsageError(f"{path} was written by a newer nothing-tune", hint="pip install -U nothing-tune")
    try:
        return Evaluation.from_json(found)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UsageError(f"{path} is damaged: {error}", hint="remove it and run tune eval again") from error


def all_of(run: Run) -> list[Evaluation]:
    """The evaluations of a run, oldest first; damaged files are passed over."""
    out = []
    for path in sorted(folder(run).glob("*.json")):
        try:
            out.append(read(path))
        except UsageError:
            continue
    return sorted(out, key=lambda one: one.time)


def write(run: Run, evaluation: Evaluation) -> tuple[Path, Evaluation]:
    """Writes an evaluation, whole or not at all; returns its file and itself as it is called there.

    One of the same name is replaced where it is of the same step and rows, and holds no more than this one; else this one is
    numbered (`held-out-2`), see `kept`.

    Raises:
        StorageError: The disk refuses.
    """
    where = folder(run)
    try:
        where.mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot make {where}: {error.strerror}", hint="free some space or mend the permissions"
        ) from error
    number, name = 1, evaluation.name
    while _kept(path := where / f"{name}.json", evaluation):
        number += 1
        name = f"{evaluation.name}-{number}"
    named = replace(evaluation, name=name)
    write_json(path, named.to_json())
    return path, named


def kept(run: Run, evaluation: Evaluation) -> str:
    """Why the evaluation that has this one's name already is not replaced by it, one clause; empty where it is, or there is none."""
    return _kept(folder(run) / f"{evaluation.name}.json", evaluation)


def _kept(path: Path, evaluation: Evaluation) -> str:
    """The same of a file; a damaged one may be replaced."""
    try:
        there = read(path)
    except UsageError:
        return ""
    if there.run != evaluation.run or there.step != evaluation.step:
        return f"is of step {there.step:,}"
    mine, theirs = ([one.data.get(key) for key in IDENTITY] for one in (evaluation, there))
    if mine != theirs or evaluation.settings.get("tasks") != there.settings.get("tasks"):
        return "is of other rows or tasks"
    found = [what for what, lacks in _more(there, evaluation).items() if lacks]
    return f"holds more: {', '.join(found)}" if found else ""


def _more(there: Evaluation, mine: Evaluation) -> dict[str, bool]:
    """What an evaluation may have that another of the same rows lacks, and whether it does."""

    def fewer(key: str) -> bool:
        return int(mine.rows.get(key) or 0) < int(there.rows.get(key) or 0)

    answers = fewer("answers")
    figures = {n for n in there.metrics if not n.startswith("judge_")}
    return {
        "rows": fewer("count"),
        "answers": answers,
        "the base": there.base is not None and mine.base is None,
        "groups": any(k.startswith("column ") and k not in mine.groups for k in there.groups),
        "verdicts of a judge": bool(there.settings.get("judge")) and not mine.settings.get("judge"),
        "figures": not answers and not figures <= mine.metrics.keys(),
    }


def default_name(sources: Iterable[str], tasks: Iterable[str] = ()) -> str:
    """A name made of what is measured: the last part of each source's name without its endings, or the tasks; `held-out` for neither."""
    words = [Path(s.rstrip("/")).name.split(".")[0] for s in sources] or [Path(t).stem for t in tasks]
    text = re.sub(r"[^a-z0-9._-]+", "-", "-".join(words).lower()).strip("-._")[:60]
    return text or "held-out"


def check_name(name: str) -> None:
    """`UsageError` for what cannot be an evaluation's name."""
    if not NAME.match(name):
        raise UsageError(
            f"{name!r} cannot be an evaluation's name",
            hint="use up to 64 lower-case letters, digits, dots, dashes, underscores; a letter or digit first",
        )


def better(name: str, difference: Metric | None) -> bool | None:
    """Whether the run is better than the base by a metric; None where its interval holds 0, or neither direction is better."""
    direction = fact(name).better
    if difference is None or difference.low is None or difference.high is None or not direction:
        return None
    if difference.low <= 0 <= difference.high:
        return None
    return (difference.low > 0) == (direction == "higher")


def verdict(name: str, difference: Metric | None) -> str:
    """`better`, `worse`, or `no difference that 40 rows can show`; empty where that cannot be told."""
    found = better(name, difference)
    if found is not None:
        return "better" if found else "worse"
    if difference is None or difference.low is None or not fact(name).better:
        return ""
    return f"no difference that {difference.n:,} row{'' if difference.n == 1 else 's'} can show"


def shown(name: str, value: float | None, signed: bool = False) -> str:
    """A value as pages write it: `1.234`, `42.0 %`; with `signed` as a difference (`+2.1 pp` for shares); `-` for none."""
    if value is None or value - value != 0:
        return "-"
    form, sign = fact(name).form, "+" if signed else ""
    if form == "share":
        return f"{100 * value:{sign}.1f} {'pp' if signed else '%'}"
    if form == "count":
        return f"{value:{sign},.1f}"
    return f"{value:{sign},.3f}" if abs(value) < 1000 else f"{value:{sign},.0f}"
