"""What one diagnosis says, and the words that several of them share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nothing_tune.recipe import library
from nothing_tune.run.doctor.record import Record

FAIL, WARN, ADVICE = "fail", "warn", "advice"
SEVERITIES = (FAIL, WARN, ADVICE)
"""`fail`: the run ended, or will, without its result. `warn`: something of it is worse than it need be. `advice`: worth a try."""
PLACES = 3
LOG_SHOWN = 3
Cures = tuple[tuple[str, str], ...]
"""`(command or setting, what it does)`, the best first."""


@dataclass(frozen=True)
class Cause:
    """One thing that is wrong with a run.

    Attributes:
        rule: Its name, kebab-case.
        severity: One of `SEVERITIES`.
        what: What happened, one sentence without a full stop.
        evidence: The lines and numbers of this run that say so.
        why: Why it happens, most likely.
        cures: `(command or setting, what it does)`, the best first.
        source: Whose rule it is.
    """

    rule: str
    severity: str
    what: str
    evidence: tuple[str, ...] = ()
    why: str = ""
    cures: Cures = ()
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        """The cause as plain data; each cure as `{command, why}`."""
        return {**asdict(self), "cures": [{"command": c, "why": w} for c, w in self.cures]}


STUDIO, GPT, MARCO, CALLS, OURS = (
    "PEFT Studio, troubleshooting",
    "Nothing-GPT, tuning guide",
    "Marco, training parameters",
    "Nemotron function calling, training guide",
    "nothing-tune, docs/faults.md",
)
"""Sources of the rules."""


def resume(record: Record) -> str:
    """The command that continues the run."""
    return f"tune resume {record.name}"


def again(record: Record, *settings: str, start: str = "", restart: bool = False) -> str:
    """The command that trains with other settings: a fork where there is a checkpoint to take along, else a new run.

    Args:
        start: Step of the checkpoint, or `best`.
        restart: Take only the weights along.
    """
    if record.saved and not _other_weights(settings):
        options = [*([f"--from {start}"] if start else []), *(["--restart"] if restart else [])]
        return " ".join([f"tune runs fork {record.name}", *settings, *options])
    return " ".join([f"tune train {library.shown(record.run.path / 'recipe.yaml')}", *settings])


def _other_weights(settings: Iterable[str]) -> bool:
    """Whether a checkpoint's weights would not fit these settings."""
    return any(
        s.startswith(("peft.", "quantization", "model.")) and not s.startswith("peft.lora_dropout") for s in settings
    )


def places(rows: Any) -> str:
    """`rows.jsonl:3, rows.jsonl:17` for the rows that an event names; their numbers where it has no more; empty for none."""
    if not isinstance(rows, list):
        return ""
    named = [str(p) for row in rows if isinstance(row, dict) for p in row.get("places") or []]
    named = named or [f"row {row.get('row') if isinstance(row, dict) else row}" for row in rows]
    distinct = list(dict.fromkeys(named))
    more = f" and {len(distinct) - PLACES} more" if len(distinct) > PLACES else ""
    return f"{', '.join(distinct[:PLACES])}{more}"


def number(value: Any, digits: int = 3) -> str:
    """A loss or norm: `1.234`, `2.1e+04`; `not finite` for None."""
    if not isinstance(value, int | float) or value - value != 0:
        return "not finite"
    return f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:.1e}"


def losses(record: Record, count: int = 5) -> str:
    """`last losses 1.234, 1.220 (steps 90 to 110)`; empty without any."""
    last = record.logs[-count:]
    if not last:
        return ""
    values = ", ".join(number(log.loss) for log in last)
    where = f"step {last[0].step}" if len(last) == 1 else f"steps {last[0].step} to {last[-1].step}"
    return f"last losses {values} ({where})"


def norms(record: Record, count: int = 5) -> str:
    """`last gradient norms 0.41, 0.39`; empty where none were logged."""
    last = [log for log in record.logs if log.grad_norm is not None or log.lost][-count:]
    return f"last gradient norms {', '.join(number(log.grad_norm, 2) for log in last)}" if last else ""


def said(*parts: str) -> tuple[str, ...]:
    """The parts that are not empty."""
    return tuple(p for p in parts if p)


def plural(count: int, word: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def age(seconds: float) -> str:
    """`41 s`, `3 min`, `2 h`, `5 d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(int(seconds), 0)} s"


def rate(record: Record) -> float | None:
    """The plan's learning rate; None where it is not a number."""
    value = record.training.get("learning_rate")
    return float(value) if isinstance(value, int | float) else None


def halved(value: float | None) -> str:
    """`training.learning_rate=0.0001` for 2e-4; a usual value where the rate is not known."""
    return f"training.learning_rate={(value or 2e-4) / 2:g}"


def of_kind(events: Sequence[dict[str, Any]], field: str, *words: str) -> list[str]:
    """Texts of `field` that hold any of `words`, in order, each once."""
    found = [str(e.get(field) or "") for e in events]
    return list(dict.fromkeys(text for text in found if any(w in text for w in words)))


def where(record: Record) -> str:
    """`while training, at step 40 of 120; checkpoint-40 is the newest`."""
    words = {
        "imports": "importing the libraries", "data": "reading the data", "model": "loading the model",
        "trainer": "preparing the training", "train": "training", "handover": "saving what it hands over",
    }  # fmt: skip
    doing = words.get(record.phase, record.phase or "starting")
    at = f", at step {record.step}{f' of {record.total}' if record.total else ''}" if record.step else ""
    whole = [s for s in record.saved if record.faults.get(s) is None]
    saved = f"; checkpoint-{whole[-1]} is the newest" if whole else "; there is no checkpoint yet"
    return f"while {doing}{at}{saved}"


def goes_on(record: Record) -> str:
    """Where a resume would go on, as the end of a command's comment."""
    whole = [s for s in record.saved if record.faults.get(s) is None]
    return f"continues at step {whole[-1]}" if whole else "starts again: there is no checkpoint yet"


def peak(record: Record) -> str:
    """`memory up to 3.1 GiB so far`; empty where that was not logged."""
    known = [log.memory_gib for log in record.logs if log.memory_gib is not None]
    return f"memory up to {max(known):.1f} GiB so far" if known else ""


def log_lines(record: Record) -> tuple[str, ...]:
    """The last lines of engine.log that say something."""
    noise = re.compile(r"^\s*(warnings\.warn|File \"|\^+|~*\^)|FutureWarning|kernels-community|it/s\]|%\|")
    lines = [line.strip() for line in record.tail if not noise.search(line)]
    return tuple(f"engine.log: {line[:200]}" for line in lines[-LOG_SHOWN:])


def command_of(hint: str) -> str:
    """The command that a hint names, cut out of it; the hint itself where it names none."""
    found = re.search(r"(?:tune|pip|hf|export|wandb) [^;,]*?(?=$|;|,| continues| makes| goes| starts| and | or )", hint)
    return found[0].strip() if found else hint


def distinct(cures: Iterable[tuple[str, str]]) -> Cures:
    """Cures with different commands; a comment that only repeats its command is left out."""
    seen: dict[str, tuple[str, str]] = {}
    for command, why in cures:
        if command:
            seen.setdefault(command, (command, "" if why == command else why))
    return tuple(seen.values())
