"""Answers of a run that were cut, and what would cut fewer of them."""

from __future__ import annotations

import math

from nothing_tune.artifacts import attempts
from nothing_tune.plan import Plan
from nothing_tune.run.architecture import config_of
from nothing_tune.run.doctor import cause
from nothing_tune.run.doctor.cause import ADVICE, CALLS, WARN, Cause
from nothing_tune.run.doctor.record import Record


def cut_answers(r: Record) -> Cause | None:
    """Answers that were cut at max_length: the model learns to stop short, and calls that are no JSON."""
    data = (r.events.get("start") or [{}])[-1].get("data") or {}
    cut, rows = data.get("cut"), data.get("rows")
    if not isinstance(cut, int) or not isinstance(rows, int) or not rows or cut < 0.01 * rows:
        return None
    longest = data.get("max_length") or r.training.get("max_length")
    what = f"{cut} of {cause.plural(rows, 'answer')} are cut at {longest} tokens"
    cures = (
        *_uncut(r, longest if isinstance(longest, int) else None, str(data.get("format") or "")),
        (f"tune data inspect {r.run.path / 'recipe.yaml'}", "says which, and what other lengths would cut"),
    )
    why = "a cut answer teaches to stop anywhere; a cut function call is no JSON"
    return Cause(
        "cut-answers",
        WARN if cut > 0.05 * rows else ADVICE,
        what,
        (f"{cut / rows * 100:.0f} % of the rows",),
        why,
        cures,
        CALLS,
    )


def _uncut(r: Record, limit: int | None, kind: str) -> tuple[tuple[str, str], ...]:
    """Changes after which fewer rows are cut, none of which the model could not read.

    Args:
        limit: `max_length` of the run, in tokens.
        kind: Name of the data's format.
    """
    if limit is None:
        return ()
    context, most = _context(r), _longest(r)
    wanted = 256 * math.ceil(most / 256) if most else 2 * limit
    length = min(wanted, context) if context else wanted
    out = []
    if length > limit:
        all_ = most is not None and length >= most
        out.append(
            (
                cause.again(r, f"training.max_length={length}"),
                "holds the longest row; more memory" if all_ else "longer rows, more memory",
            )
        )
    if length <= limit or (most is not None and length < most):
        reads = f"the model reads {context:,} tokens at most: " if context else ""
        out.append((cause.again(r, "data.truncation=drop"), f"{reads}leaves longer rows out"))
        if kind == "text":
            out.append((cause.again(r, "data.truncation=split"), "makes several rows of a longer one"))
    return tuple(out)


def _context(r: Record) -> int | None:
    """Longest sequence that the model was made for, in tokens, by its config.json where that is on this machine; None is unknown."""
    try:
        config, _ = config_of(Plan.from_json(dict(r.plan)), fetch=False)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    inner = (config or {}).get("text_config")
    value = (inner if isinstance(inner, dict) else config or {}).get("max_position_embeddings")
    return value if isinstance(value, int) else None


def _longest(r: Record) -> int | None:
    """Tokens of the longest training row before it was cut, by the forecast that the run was started with; None is unknown."""
    rows = (attempts.salvage(r.run.path / "forecast.json")[0] or {}).get("rows")
    lengths = rows.get("lengths") if isinstance(rows, dict) else None
    high = lengths[-1][1] if isinstance(lengths, list) and lengths and len(lengths[-1]) == 3 else None
    return int(high) - 1 if isinstance(high, int) else None
