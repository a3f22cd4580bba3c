"""The page of `tune plan`: steps, memory, time and cost, data and advice, calm and aligned."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from nothing_tune.cli import console
from nothing_tune.cli.console import Ink, plural
from nothing_tune.cli.view import header, plan_facts
from nothing_tune.plan.advice import Advice
from nothing_tune.plan.cost import Cost
from nothing_tune.plan.forecast import CANNOT_TELL, DOES_NOT_FIT, FITS, Forecast, Memory
from nothing_tune.plan.maths import Every, Maths
from nothing_tune.plan.memory import Estimate
from nothing_tune.plan.memory.notes import gib

TERMS = {
    "weights": "weights",
    "adapters": "adapters",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations",
    "logits": "logits and loss",
    "context": "CUDA context",
    "fragmentation": "fragmentation",
}
"""Terms of an estimate -> what the page calls them, in its order."""
PRICES = 5
"""Prices shown of one GPU."""
SEVERITIES = ("error", "warning", "advice")


def lines(forecast: Forecast, paint: Ink) -> list[str]:
    """The whole page."""
    sections = [
        _head(forecast, paint),
        _steps(forecast, paint),
        _memory(forecast, paint),
        _cost(forecast, paint),
        _advice(forecast, paint),
    ]
    out: list[str] = []
    for section in sections:
        if section:
            out += [*([""] if out else []), *section]
    return out


def facts(forecast: Forecast, paint: Ink) -> dict[str, str]:
    """The page in a few words, for the heading of a run that starts: steps, memory, time, and the lowest price."""
    out = {}
    if forecast.maths:
        out["steps"] = _total(forecast.maths)
    if forecast.memory and forecast.memory.usable:
        out["memory"] = verdict(forecast, paint)
    if forecast.hours:
        out["time"] = _span(forecast.hours)
        paid = [c for c in forecast.costs if c.usd_per_hour]
        out["cost"] = f"{paid[0].usd:.2f} $ at {paid[0].provider}" if paid else ""
    return out


def warnings(forecast: Forecast, paint: Ink) -> list[str]:
    """What must be said before a run starts: the changes that would make it fit, and advice that is a warning."""
    out = []
    if forecast.verdict == DOES_NOT_FIT and forecast.memory:
        out += _changes(forecast.memory, paint)
    for one in _untold(forecast):
        if one.severity != "advice":
            out += ["", *_finding(_advised(one), (console.width() or console.PIPE_WIDTH) - 4, paint)]
    return out


def verdict(forecast: Forecast, paint: Ink) -> str:
    """One line: whether it fits, and what was not told."""
    gpu = str(forecast.plan.gpu.get("name"))
    if forecast.errors:
        return f"{paint.error('cannot train')}: {forecast.errors[0]}"
    memory = forecast.memory
    if memory is None or forecast.verdict == CANNOT_TELL:
        why = forecast.untold or f"the memory of {gpu} is unknown"
        return f"{paint.warn('cannot tell')} whether it fits {gpu}: {why}"
    room = memory.usable or 0
    needs = f"{gib(memory.longest.peak)} at its peak, of {gib(room)}{_assumed(forecast)}"
    if forecast.verdict == FITS:
        sure = "" if memory.longest.high <= room else f", but up to {gib(memory.longest.high)} are possible"
        return f"{paint.ok('fits')} {gpu}: {needs}{sure}"
    return f"{paint.error('does not fit')} {gpu}: {needs}"


def _assumed(forecast: Forecast) -> str:
    """What the verdict holds for, where the length of the rows is not known."""
    if _known(forecast) or forecast.memory is None:
        return ""
    return f", with rows of {forecast.memory.longest.length:,} tokens"


def _title(name: str, about: str, paint: Ink) -> str:
    return f"{paint.bold(name)}  {paint.dim(about)}" if about else paint.bold(name)


def _head(forecast: Forecast, paint: Ink) -> list[str]:
    plan = forecast.plan
    facts = {name: console.near(text) for name, text in plan_facts(plan.to_json()).items()}
    if forecast.shape:
        share = ""
        if forecast.trainable:
            share = f", {_count(forecast.trainable)} of them trained"
            if forecast.trainable < forecast.shape.parameters:
                share = (
                    f"; {_count(forecast.trainable)} trained, {percent(forecast.trainable / forecast.shape.parameters)}"
                )
        facts["model"] += f", {_count(forecast.shape.parameters)} parameters{share}"
    facts.pop("tracker", None)
    facts.pop("batch", None)
    return [f"{paint.bold(plan.name)}  {verdict(forecast, paint)}", *header(facts, paint)]


def _steps(forecast: Forecast, paint: Ink) -> list[str]:
    maths, rows = forecast.maths, forecast.rows
    if maths is None:
        micro, accumulation = (
            int(forecast.plan.training.get(k) or d)
            for k, d in (("per_device_train_batch_size", 8), ("gradient_accumulation_steps", 1))
        )
        world = forecast.plan.world_size
        text = _product(micro, accumulation, world)
        about = "the data is not on this machine: --rows N says how many rows there are"
        return [_title("steps", about, paint), *header({"batch": text}, paint)]
    facts = {
        "rows": _rows(maths, forecast),
        "batch": _product(maths.micro, maths.accumulation, maths.world),
        "steps": _total(maths),
        "warmup": _warmup(maths),
        "evaluated": _every(maths.evaluations, rows.eval),
        "saved": _every(
            maths.saves, None, "" if forecast.plan.checkpoint.get("best") is False else ", and each new best"
        ),
        "tokens": _tokens(maths, forecast),
        "left out": f"{plural(maths.dropped, 'row')} at the end of each epoch" if maths.dropped else "",
    }
    return [_title("steps", maths.note, paint), *header(facts, paint)]


def _rows(maths: Maths, forecast: Forecast) -> str:
    text = plural(maths.rows, "row")
    if maths.sequences != maths.rows:
        text += f" in {plural(maths.sequences, 'sequence')}"
    if forecast.rows.eval:
        text += f"; {forecast.rows.eval:,} more are evaluated"
    return text


def _product(micro: int, accumulation: int, world: int) -> str:
    factors = [f"{micro}", f"{accumulation}", *([f"{world} processes"] if world > 1 else [])]
    return f"{' x '.join(factors)} = {micro * accumulation * world} a step"


def _total(maths: Maths) -> str:
    epochs = f"{maths.epochs:.3g} epoch{'' if maths.epochs == 1 else 's'}"
    last = f"; the last step of an epoch has {maths.last}" if 0 < maths.last < maths.global_batch else ""
    return f"{maths.per_epoch:,} an epoch, {maths.total:,} in {epochs}{last}"


def _warmup(maths: Maths) -> str:
    if not maths.warmup:
        return "none"
    if maths.warmup >= maths.total:
        return f"{plural(maths.warmup, 'step')}, and the run ends before"
    return f"{maths.warmup:,}, {percent(maths.warmup / maths.total)} of all"


def _every(every: Every | None, rows: int | None, also: str = "") -> str:
    if every is None:
        return f"never by steps{also}" if also else "never"
    times = "once" if every.count == 1 else f"{every.count:,} times"
    if every.share == 1.0:
        return f"at the end of each epoch, {times}{also}"
    share = f" ({every.share:.1f} epochs)" if every.share >= 2 else ""
    if 0.001 <= every.share < 2:
        share = f" ({percent(every.share)} of an epoch)"
    return f"every {plural(every.steps, 'step')}{share}, {times}{also}"


def _tokens(maths: Maths, forecast: Forecast) -> str:
    if maths.tokens is None or maths.tokens_a_step is None:
        return ""
    rows = forecast.rows
    learned = f"; {percent(rows.supervised / rows.tokens)} of them learned" if rows.supervised and rows.tokens else ""
    return f"{_count(maths.tokens)} in all, about {maths.tokens_a_step:,.0f} a step, without padding{learned}"


def _memory(forecast: Forecast, paint: Ink) -> list[str]:
    memory = forecast.memory
    if memory is None:
        return [_title("memory", "", paint), f"  unknown: {forecast.untold}"]
    shown = [memory.longest, *([memory.typical] if memory.typical else [])]
    how = "by simulation" if memory.longest.method == "simulation" else "by arithmetic"
    out = [_title("memory", f"peak of a step, {how}; {_band(memory.longest)}", paint)]
    names = ["longest batch", "usual batch"][: len(shown)] if _known(forecast) else ["full batch"]
    cells = [["", *names], ["", *(f"{e.rows} x {e.length:,} tokens" for e in shown)]]
    for term, text in TERMS.items():
        if any(e.terms.get(term) for e in shown):
            text = "libraries" if term == "context" and forecast.plan.gpu.get("kind", "cuda") != "cuda" else text
            cells.append([text, *(gib(e.terms.get(term, 0)) for e in shown)])
    cells.append(["peak", *(gib(e.peak) for e in shown)])
    if memory.usable:
        cells.append([_of(forecast), gib(memory.usable)])
        free = [memory.usable - e.peak for e in shown]
        cells.append(["free", *(gib(f) if f >= 0 else f"{gib(-f)} too much" for f in free)])
    wide = [max(len(row[i]) for row in cells if i < len(row)) for i in range(len(shown) + 1)]
    for row in cells:
        text = "  ".join([row[0].ljust(wide[0]), *(c.rjust(wide[i]) for i, c in enumerate(row[1:], 1))])
        strong = row[0] == "peak"
        out.append("  " + (paint.bold(text) if strong else paint.dim(text) if not row[0] else text))
    columns = (console.width() or console.PIPE_WIDTH) - 2
    out += [""] if memory.longest.notes else []
    for note in memory.longest.notes:
        out += [f"  {paint.dim(line)}" for line in textwrap.wrap(note, columns)]
    if memory.holds == 0:
        out += ["", f"  {paint.warn('does not fit')} with rows of a single token either"]
    elif memory.holds is not None and memory.holds < memory.longest.length:
        out += [
            "",
            f"  {paint.warn('holds')} for rows of up to {memory.holds:,} tokens only" + _beyond(forecast, memory.holds),
        ]
    return [*out, *_changes(memory, paint)]


def _known(forecast: Forecast) -> bool:
    return forecast.rows.longest is not None


def _of(forecast: Forecast) -> str:
    gpu = forecast.plan.gpu
    return f"usable on {gpu.get('name')}" if gpu.get("kind", "cuda") == "cuda" else "free on this machine"


def _beyond(forecast: Forecast, holds: int) -> str:
    """How many rows are longer than that."""
    lengths = forecast.rows.lengths
    rows = sum(n for _, _, n in lengths)
    if not rows:
        return ""
    longer = sum(
        n if low > holds else round(n * max(high - 1 - holds, 0) / max(high - low, 1)) for low, high, n in lengths
    )
    return f"; {percent(longer / rows)} of the rows are longer" if longer else ""


def _band(estimate: Estimate) -> str:
    return f"between {gib(estimate.low)} and {gib(estimate.high)}"


def _changes(memory: Memory, paint: Ink) -> list[str]:
    fits = memory.verdict == FITS
    if not memory.changes:
        return ["", f"  {nothing_fits(memory.least)}; tune plan --fits shows other GPUs"] if memory.least else []
    out = ["", f"  {paint.dim('would use the GPU better' if fits else 'would fit')}"]
    for change in memory.changes:
        out.append(f"    {paint.key(' '.join(change.words))}")
        out.append(f"      {paint.dim(f'{gib(change.estimate.peak)}; {change.why}')}")
    return out


def nothing_fits(least: int) -> str:
    """What is said where no change helps."""
    return f"no change of settings makes it fit: {gib(least)} at the least"


def _cost(forecast: Forecast, paint: Ink) -> list[str]:
    speed, pace = forecast.speed, forecast.pace
    if forecast.memory and forecast.memory.least:
        return []  # it cannot run there
    if forecast.hours is None:
        why = "the speed of this machine is measured while it trains"
        if forecast.maths is None:
            why = "needs the number of rows: --rows N"
        elif forecast.plan.gpu.get("kind", "cuda") == "cuda":
            why = "the speed of this GPU or of this model is not known"
        return [_title("time and cost", "", paint), f"  unknown: {why}"]
    facts = {"time": _span(forecast.hours)}
    if pace:
        how = f"measured: run {pace.run} was like it"
        facts["speed"] = f"{_seconds(pace.step_s)} a step"
    else:
        assert speed is not None
        measured = "measured" if speed.measured else "assumed"
        how = f"efficiency {percent(speed.efficiency)}, {measured}: {speed.source}"
        facts["speed"] = f"{speed.tokens_per_s:,.0f} tokens/s, padding included, {_seconds(speed.step_s)} a step"
        facts["but"] = speed.note
    out = [_title("time and cost", how, paint), *header(facts, paint)]
    for cost in forecast.costs[:PRICES]:
        out.append(_price(cost, paint))
    if len(forecast.costs) > PRICES:
        out.append(paint.dim(f"  {plural(len(forecast.costs) - PRICES, 'dearer price')}: --json"))
    return out


def _price(cost: Cost, paint: Ink) -> str:
    """`modal on-demand   2.95 $  (2.10 to 4.60)   0.80 $/h, 2026-05-07`."""
    name = cost.provider if cost.tier in ("", cost.provider) else f"{cost.provider} {cost.tier}"
    gpus = f" x {cost.gpus} GPUs" if cost.gpus > 1 else ""
    hourly = f"{cost.usd_per_hour:.2f} $/h{gpus}" if cost.usd_per_hour else "the GPU is yours"
    when = (
        f"as of {cost.as_of}"
        if cost.as_of
        else "of unknown date"
        if cost.usd_per_hour and cost.provider != "own"
        else ""
    )
    old = "may have changed since" if cost.stale else ""
    about = ", ".join(filter(None, [hourly, when, old]))
    return f"  {name:<20}{cost.usd:>9,.2f} $  {f'({cost.low:,.2f} to {cost.high:,.2f})':<18}  {paint.dim(about)}"


def _span(found: tuple[float, float, float]) -> str:
    return f"{hours(found[0])}, between {hours(found[1])} and {hours(found[2])}"


def hours(value: float) -> str:
    """`12 days`, `4.2 h`, `38 min`, `50 s`."""
    if value >= 72:
        return f"{value / 24:,.0f} days"
    if value >= 10:
        return f"{value:,.0f} h"
    if value >= 1:
        return f"{value:.1f} h"
    return f"{value * 60:.0f} min" if value * 60 >= 1 else f"{max(value * 3600, 1):.0f} s"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def _advice(forecast: Forecast, paint: Ink) -> list[str]:
    found = [*map(_seen, forecast.rows.findings), *map(_advised, _untold(forecast))]
    if not found and not forecast.accepted:
        return []
    out, columns = [paint.bold("advice")], (console.width() or console.PIPE_WIDTH) - 4
    for severity in SEVERITIES:
        for one in found:
            if one["severity"] == severity:
                out += _finding(one, columns, paint)
    for accepted, reason in forecast.accepted:
        out.append(f"  {paint.dim('accepted:')} {accepted.what}")
        out += [f"    {paint.dim(line)}" for line in textwrap.wrap(reason, columns)]
    return out


def _untold(forecast: Forecast) -> list[Advice]:
    """The advice without what the changes to the memory say already."""
    words = [set(c.words) for c in forecast.memory.changes] if forecast.memory else []
    return [a for a in forecast.advice if not a.changes or not any(set(a.changes) <= w for w in words)]


def _seen(finding: Mapping[str, Any]) -> dict[str, Any]:
    """What was found in the data, as `_finding` takes it."""
    what, hint = finding["what"], finding.get("hint") or ""
    return {"severity": finding["severity"], "what": what, "why": hint, "words": "", "rows": finding.get("rows") or ()}


def _advised(one: Advice) -> dict[str, Any]:
    """Advice, as `_finding` takes it."""
    return {"severity": one.severity, "what": one.what, "why": one.why, "words": " ".join(one.changes), "rows": ()}


def _finding(one: Mapping[str, Any], columns: int, paint: Ink) -> list[str]:
    tint = {"error": paint.error, "warning": paint.warn, "advice": paint.dim}[str(one["severity"])]
    out = []
    for n, line in enumerate(textwrap.wrap(f"{one['severity']}: {console.printable(str(one['what']))}", columns + 2)):
        word = f"{one['severity']}:"
        out.append("  " + (line.replace(word, tint(word), 1) if n == 0 else f"  {line}"))
    if one["why"]:
        out += [f"    {paint.dim(line)}" for line in textwrap.wrap(str(one["why"]), columns)]
    if one["words"]:
        out.append(f"    {paint.key(console.printable(str(one['words'])))}")
    if one["rows"]:
        out.append(f"    {paint.dim(', '.join(map(str, list(one['rows'])[:3])))}")
    return out


def percent(share: float) -> str:
    """`24 %`; below 10 % with a digit."""
    return f"{share * 100:.0f} %" if share >= 0.0995 or not share else f"{share * 100:.1f} %"


def _count(number: float) -> str:
    """`3.21 B`, `48.6 M`, `912`."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"
