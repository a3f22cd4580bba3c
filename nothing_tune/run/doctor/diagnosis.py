"""The diagnosis of a run: what happened, in one line, and each cause that its records show, the gravest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nothing_tune.artifacts import FINAL_STATES, Run
from nothing_tune.run.doctor import cause
from nothing_tune.run.doctor.cause import FAIL, SEVERITIES, WARN, Cause
from nothing_tune.run.doctor.causes import ENDINGS
from nothing_tune.run.doctor.curves import CURVES
from nothing_tune.run.doctor.finding import guarded
from nothing_tune.run.doctor.numbers import finite, level
from nothing_tune.run.doctor.pace import PACE
from nothing_tune.run.doctor.record import Record, read

__all__ = ["Cause", "Diagnosis", "diagnose"]

MASKED = {
    "diverged": {"spikes", "loss-flat", "loss-rises", "evaluation-rises", "fp16-overflow"},
    "no-gradient": {"loss-flat", "plateau", "gap"},
    "loss-rises": {"evaluation-rises", "plateau", "gap"},
    "loss-flat": {"plateau", "evaluation-rises"},
    "overfitting": {"gap", "plateau"},
    "evaluation-rises": {"gap", "plateau"},
    "no-progress": {"ended-from-outside"},
    "crash-loop": {"hung-before"},
}
"""Rule -> rules that say less about the same numbers, and are left out beside it."""


@dataclass(frozen=True)
class Diagnosis:
    """What is known of a run's health.

    Attributes:
        run: Its id.
        state: As `tune runs` shows it, or `damaged`.
        summary: How it stands, in one line with its key numbers.
        causes: The gravest first; empty for a run that is well.
        facts: The key numbers as plain data: step, total_steps, losses, best, speed, memory, attempts, held.
    """

    run: str
    state: str
    summary: str
    causes: tuple[Cause, ...]
    facts: dict[str, Any]

    @property
    def well(self) -> bool:
        """Whether there is nothing to mend; advice does not count."""
        return not any(c.severity in (FAIL, WARN) for c in self.causes)

    @property
    def failed(self) -> bool:
        """Whether the run ended, or stands, without its result."""
        return any(c.severity == FAIL for c in self.causes)

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as plain data."""
        causes = [c.to_json() for c in self.causes]
        return {
            "run": self.run,
            "state": self.state,
            "well": self.well,
            "summary": self.summary,
            "causes": causes,
            "facts": self.facts,
        }


def diagnose(run: Run, name: str = "") -> Diagnosis:
    """Reads what a run recorded and says how it is and why; `name` is what names it in commands. Changes nothing, never raises
    for what is damaged."""
    record = read(run, name)
    found: list[Cause] = []
    for rule in (*ENDINGS, *CURVES, *PACE):
        found += _of(rule.__name__, lambda rule=rule: rule(record))
    rules = {c.rule for c in found}
    hidden = set().union(*(MASKED.get(rule, set()) for rule in rules)) if rules else set()
    kept = [c for c in found if c.rule not in hidden]
    kept.sort(key=lambda c: SEVERITIES.index(c.severity))
    return Diagnosis(run.id, record.state, summary(record), tuple(kept), facts(record))


def _of(name: str, call: Any) -> list[Cause]:
    """The cause that one rule finds; a rule that fails on what it reads says so and stops no other."""
    out: list[Cause] = []

    def look() -> None:
        found = call()
        if found is not None:
            out.append(found)

    for trouble in guarded("run", name, look):
        out.append(Cause("doctor", WARN, f"the rule {name.replace('_', '-')} failed: {trouble.what}", (), "", ()))
    return out


def facts(r: Record) -> dict[str, Any]:
    """The key numbers of a run."""
    known = [log for log in r.logs if log.loss is not None]
    speeds = [log.tokens_per_s for log in r.logs[1:] if log.tokens_per_s]
    memory = [log.memory_gib for log in r.logs if log.memory_gib is not None]
    best = r.best
    return {
        "step": r.step,
        "total_steps": r.total,
        "phase": r.phase or None,
        "exit_code": r.code,
        "attempts": len(r.attempts) or None,
        "first_loss": known[0].loss if known else None,
        "last_loss": known[-1].loss if known else None,
        "last_eval_loss": r.evaluations[-1].loss if r.evaluations else None,
        "best_eval_loss": best.loss if best else None,
        "best_step": best.step if best else None,
        "tokens_per_s": level(speeds) if speeds else None,
        "memory_gib": max(memory, default=None),
        "newest_checkpoint": r.saved[-1] if r.saved else None,
        "held_by": dict(r.held) if r.held else None,
    }


def summary(r: Record) -> str:
    """`done: 120 of 120 steps, loss 6.597 -> 0.697, evaluation 0.685, best at step 120, 3,412 tokens/s, 0.7 GiB`."""
    f = facts(r)
    total = f" of {r.total}" if r.total else ""
    parts = [f"{r.step}{total} steps"] if r.step or r.total else []
    if finite(f["first_loss"]):
        parts.append(f"loss {cause.number(f['first_loss'])} -> {cause.number(f['last_loss'])}")
    if finite(f["last_eval_loss"]):
        at = f", best {cause.number(f['best_eval_loss'])} at step {f['best_step']}" if f["best_step"] else ""
        parts.append(f"evaluation {cause.number(f['last_eval_loss'])}{at}")
    parts += [f"{f['tokens_per_s']:,.0f} tokens/s"] if f["tokens_per_s"] else []
    parts += [f"{f['memory_gib']:.1f} GiB"] if f["memory_gib"] else []
    if r.held and r.held.get("pid"):
        does = "is still ending" if r.state in FINAL_STATES else "works on it"
        parts.append(f"process {r.held['pid']} on {r.held.get('host', 'this host')} {does}")
    return f"{r.state}: {', '.join(parts)}" if parts else r.state
