"""Where a value comes from, in one line, in full, and as JSON."""

from __future__ import annotations

from typing import Any

from nothing_tune.cli import console, yaml_text


def origin_text(variant: Any, key: str, *, shadows: bool = True) -> str:
    """`gpus/l4:12, was 4 (base/qlora:41)`, `gpus/l4:12, as in base/qlora:41`, or `derived: l4 computes in bfloat16`.

    Args:
        variant: Has `recipe` and `plan`.
        key: Dotted key of a leaf of the plan's values.
        shadows: Say what the value shadowed, the layer next below only.
    """
    origin = variant.recipe.origins.get(key)
    reason = str(variant.plan.why.get(key) or "")
    if reason.startswith(("derived:", "managed:")) or origin is None:
        return reason
    text = _short(origin)
    if isinstance(origin.value, str) and "${" in origin.value and origin.value != _value(variant, key):
        text += f", from {origin.value}"
    if shadows and origin.shadowed:
        below = origin.shadowed[-1]
        same = type(below.value) is type(origin.value) and below.value == origin.value
        was = f"was {console.cut(yaml_text.text(below.value), 24)} ({_short(below)})"
        text += f", as in {_short(below)}" if same else f", {was}"
    return text


def full(variant: Any, key: str, value: Any) -> list[str]:
    """All about one value: the value, which layer or rule set it, and every layer that it shadowed, newest first."""
    paint = console.ink()
    origin = variant.recipe.origins.get(key)
    reason = str(variant.plan.why.get(key) or "")
    lines = [
        f"{paint.key(key)}: {paint.string(yaml_text.text(value)) if isinstance(value, str) else yaml_text.text(value)}"
    ]
    derived = reason.startswith(("derived:", "managed:")) or origin is None
    if derived:
        word, _, rule = reason.partition(": ")
        lines.append(f"  {paint.dim(f'{word}:')} {rule}" if rule else f"  {paint.dim('set by:')} {reason or 'unknown'}")
    elif origin:
        lines.append(f"  {paint.dim('set by:')} {origin}")
        if isinstance(origin.value, str) and "${" in origin.value and origin.value != value:
            lines.append(f"  {paint.dim('as:')} {origin.value}")
        if origin.place:
            lines.append(f"  {paint.dim('where:')} {origin.place}")
    below = [*([origin] if derived and origin else []), *reversed(origin.shadowed if origin else ())]
    if below:
        lines.append(f"  {paint.dim('shadows:')}")
        values = [console.cut(yaml_text.text(o.value), 40) for o in below]
        left = max(map(len, values))
        for shown, each in zip(values, below, strict=True):
            place = paint.dim(f"  {each.place}") if each.place else ""
            lines.append(f"    {shown.ljust(left)}  {each}{place}")
    return lines


def origin_json(variant: Any, key: str) -> dict[str, Any]:
    """`{why, layer, n, of, place, written, shadowed}`; only `why` for a derived value that no layer wrote."""
    origin = variant.recipe.origins.get(key)
    reason = str(variant.plan.why.get(key) or "")
    data: dict[str, Any] = {"why": reason or (str(origin) if origin else "")}
    if reason.startswith(("derived:", "managed:")):
        data["rule"] = reason.partition(": ")[2]
    if origin:
        data |= _origin(origin)
        data["shadowed"] = [_origin(o) for o in reversed(origin.shadowed)]
    return data


def _origin(origin: Any) -> dict[str, Any]:
    place = origin.place
    where = {"file": place.file, "line": place.line, "column": place.column} if place else None
    return {"layer": origin.layer, "n": origin.n, "of": origin.of, "place": where, "written": origin.value}


def _short(origin: Any) -> str:
    return f"{origin.layer}:{origin.place.line}" if origin.place else str(origin.layer)


def _value(variant: Any, key: str) -> Any:
    from nothing_tune.recipe.model import lookup

    return lookup(variant.plan.values, key)
