"""The parts of a report that say what a run is worth: its evaluations with samples, and its exports with their proofs."""

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
    rows = [
        (
            h.code(f"{e.get('folder')}"), h.text(e.get("output")), h.size(e.get("bytes")), _proof(e.get("proof")),
        )
        for e in found
    ]  # fmt: skip
    out = h.table(("folder", "output", "size", "proof"), rows, right=(2,))
    for name, text in serving.items():
        out += f"<h3>{h.text(name)}</h3><pre>{h.text(text[:6000])}</pre>"
    return out


def _proof(proof: Mapping[str, Any] | None) -> str:
    word = proved(proof)
    kind = {"proved": "good", "proof failed": "bad"}.get(word, "quiet")
    lines = []
    for check in (proof or {}).get("checks") or []:
        mark = {True: "", False: "failed: ", None: "not looked at: "}[
            check.get("ok") if isinstance(check.get("ok"), bool) else None
        ]
        value, limit = check.get("value"), check.get("limit")
        measured = f", {_short(value)}" if value is not None and not isinstance(value, bool) else ""
        measured += f" (limit {_short(limit)})" if limit is not None and measured else ""
        lines.append(h.quiet(f"{mark}{check.get('what') or check.get('name')}{measured}"))
    return "<br>".join([f'<span class="{kind}">{h.text(word)}</span>', *lines])


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
