"""The parts of a report that say what came of a run: plan and measured, evaluations with samples, exports with their proofs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from nothing_tune.outputs import evaluation as evaluations
from nothing_tune.outputs import html as h
from nothing_tune.outputs.evaluation import Evaluation, Metric
from nothing_tune.outputs.lines import interval, proved

SAMPLES = 6
"""Samples of one evaluation that are shown."""
LONGEST = 2_000
"""Characters of one text of a sample that are shown."""


def evaluated(found: Sequence[Mapping[str, Any]]) -> str:
    """Every evaluation: metrics with intervals beside the base's, groups, samples."""
    out = []
    for raw in found:
        with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):
            out.append(_evaluation(Evaluation.from_json(raw)))
    return "\n".join(out)


def _evaluation(one: Evaluation) -> str:
    rows = one.rows.get("count")
    words = [h.plural(rows, "row") if rows else "", f"step {one.step:,}", h.moment(one.time)]
    sources = ", ".join(str(s) for s in one.data.get("sources") or [])
    about = " · ".join(w for w in (*words, sources) if w)
    seen = one.rows.get("seen")
    warning = f'<p class="warn">{h.plural(seen, "row")} of these were trained on.</p>' if seen else ""
    parts = [
        f"<h3>{h.text(one.name)} {h.quiet(about)}</h3>", warning, _metrics(one.metrics, one.base, one.difference, one.base_name),
    ]  # fmt: skip
    for kind, groups in one.groups.items():
        parts.append(_groups(kind, groups))
    parts += [_sample(s) for s in one.samples[:SAMPLES]]
    return "\n".join(part for part in parts if part)


def _metrics(
    metrics: Mapping[str, Metric], base: Mapping[str, Metric] | None, difference: Mapping[str, Metric] | None, name: str
) -> str:
    order = {metric: place for place, metric in enumerate(evaluations.METRICS)}
    rows = []
    for metric in sorted({*metrics, *(base or {})}, key=lambda m: (order.get(m, len(order)), m)):
        apart = (difference or {}).get(metric)
        rows.append(
            (
                h.text(evaluations.fact(metric).label), _value(metric, metrics.get(metric)),
                *((_value(metric, (base or {}).get(metric)), _difference(metric, apart)) if base else ()),
            )
        )  # fmt: skip
    heads = ("", "run", *((name or "base", "difference") if base else ()))
    return h.table(heads, rows)


def _value(name: str, one: Metric | None) -> str:
    if one is None:
        return h.quiet("-")
    return f"{h.text(evaluations.shown(name, one.value))} {h.quiet(interval(name, one))}".strip()


def _difference(name: str, one: Metric | None) -> str:
    if one is None or one.value is None:
        return h.quiet("-")
    better = evaluations.better(name, one)
    kind = "" if better is None else "good" if better else "bad"
    verdict = evaluations.verdict(name, one)
    said = h.text(evaluations.shown(name, one.value, signed=True))
    return f'<span class="{kind}">{said}</span> {h.quiet(verdict)}'.strip()


def _groups(kind: str, groups: Sequence[evaluations.Group]) -> str:
    names = [m for m in ("loss", "exact_match", "call_match") if any(m in g.metrics for g in groups)]
    names = names or list(dict.fromkeys(m for g in groups for m in g.metrics))[:2]
    rows = [(h.text(g.name), h.count(g.rows), *(_value(m, g.metrics.get(m)) for m in names)) for g in groups]
    return h.table((kind, "rows", *(evaluations.fact(m).label for m in names)), rows, right=(1,))


def _sample(one: Mapping[str, Any]) -> str:
    kinds = {"best": "among the best", "worst": "among the worst", "random": "drawn by chance"}
    loss = one.get("loss")
    words = [
        kinds.get(str(one.get("why")), str(one.get("why") or "")),
        f"loss {loss:.3f}" if isinstance(loss, int | float) else "",
    ]
    parts = [f'<p class="who">{h.text(" · ".join(w for w in words if w))}</p>']
    for name, label in (
        ("prompt", "prompt"), ("reference", "reference"), ("answer", "answer"), ("base_answer", "answer of the base"),
    ):  # fmt: skip
        if one.get(name):
            text = str(one[name])
            cut = text[:LONGEST] + (" …" if len(text) > LONGEST else "")
            parts.append(f'<p class="who">{label}</p><p class="said">{h.text(cut)}</p>')
    return f'<div class="sample">{"".join(parts)}</div>'


def exported(found: Sequence[Mapping[str, Any]], serving: Mapping[str, str]) -> str:
    """Every output with its size and what was proved of it, then the texts that say how they are served."""
    out = [_export(one) for one in found]
    if any((one.get("proof") or {}).get("checks") for one in found):
        out.insert(0, f"<p>{h.quiet(KL)}</p>")
    out += [f"<h3>{h.text(name)}</h3><pre>{h.text(text[:6000])}</pre>" for name, text in serving.items()]
    return "\n".join(out)


def _export(one: Mapping[str, Any]) -> str:
    """An output: its folder, name, size and proof in a line, then its checks."""
    proof: Mapping[str, Any] = one.get("proof") or {}
    word = proved(proof)
    kind = {"proved": "good", "proof failed": "bad"}.get(word, "quiet")
    folder, name = str(one.get("folder") or ""), str(one.get("output") or "")
    where = folder if folder.rpartition("/")[2] == name else f"{folder} {name}".strip()
    title = f'<h3>{h.text(where)} {h.quiet(h.size(one.get("bytes")))} <span class="{kind}">{h.text(word)}</span></h3>'
    checks = sorted(proof.get("checks") or [], key=lambda c: c.get("ok") is not False)
    return f"{title}\n{h.table(('check', 'measured', 'set against'), [_check(c) for c in checks], right=(1,))}"


KL = "KL says how far answers lie from those of the run or of the base, in nats a token: 0 is the same."
AGAINST = {
    "answers": "at most {}", "conversion": "at most {}", "merged-weights": "at most {}", "quantised-base": "usual: {}",
    "top-token": "at least {}", "differs-from-base": "what the training changed: {}", "stops": "of {} that the run ends",
}  # fmt: skip
"""What the limit of a check is, by the check's name."""
SHARES = ("top-token",)
"""Checks that measure a share."""


def _check(one: Mapping[str, Any]) -> tuple[str, str, str]:
    """Its words, what was measured, and what that is set against."""
    name, ok = str(one.get("name") or ""), one.get("ok")
    mark = '<span class="bad">failed:</span> ' if ok is False else h.quiet("not looked at: ") if ok is None else ""
    said = h.text(one.get("what") or name)
    value, against = measured(one)
    return f"{mark}{said}", h.text(value), h.quiet(against)


def measured(one: Mapping[str, Any]) -> tuple[str, str]:
    """`(measured, set against)` of a check of a proof, in words; empty where there is none."""
    name = str(one.get("name") or "")
    value, limit = (_short(one.get(key), name) for key in ("value", "limit"))
    return value, AGAINST.get(name, "limit {}").format(limit) if value and limit else ""


def _short(value: Any, name: str) -> str:
    """A number as people read it; empty for what is none."""
    if value is None or isinstance(value, bool):
        return ""
    if name in SHARES and isinstance(value, int | float):
        return f"{100 * value:.4g} %"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def planned(one: Mapping[str, Any]) -> str:
    """What a record says of the plan beside what was measured."""
    rows = []
    for row in one.get("plan_against_measured") or []:
        planned, low, high, measured = (
            _of_unit(row.get(k), row.get("unit")) for k in ("planned", "low", "high", "measured")
        )
        span = h.quiet(f"{low} to {high}") if "-" not in (low, high) else ""
        ratio = ""
        if row.get("planned") and row.get("measured") is not None:
            ratio = h.quiet(f"{row['measured'] / row['planned']:.2f} x")
        rows.append((h.text(row.get("what")), planned, span, measured, ratio))
    memory = any(
        r.get("what") == "peak memory" and r.get("measured") is not None for r in one.get("plan_against_measured") or []
    )
    note = ""
    if memory and str((one.get("machine") or {}).get("device") or "").startswith("cpu"):
        note = '<p class="quiet">On a CPU the memory measured is that of the whole process, libraries included.</p>'
    return h.table(("", "planned", "between", "measured", ""), rows, right=(1, 3, 4)) + note


def _of_unit(value: float | None, unit: Any) -> str:
    if value is None:
        return "-"
    if unit == "s":
        return h.duration(value)
    if unit == "bytes":
        return h.size(value)
    return f"${value:,.2f}" if unit == "usd" else h.count(value) + (" tokens/s" if unit == "tokens/s" else "")
