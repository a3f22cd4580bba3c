"""`tune list`: what the library holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from nothing_tune.cli import console, options
from nothing_tune.errors import UsageError

KINDS = {
    "recipes": "what people run: tune train NAME",
    "gpus": "--gpu NAME",
    "methods": "layers: [methods/NAME], or train --method NAME",
    "quantization": "layers: [quantization/NAME]",
    "scenarios": "--scenario NAME",
    "models": "--with models/NAME",
    "providers": "where GPUs are rented, and for how much; launch.usd_per_hour is your own price",
}
EXAMPLES = (
    ("tune list", "all kinds"),
    ("tune list gpus", "the GPUs, their facts, and which one is here"),
    ("tune list providers", "what an hour of a GPU costs, where, and when that was read"),
    ("tune list recipes --json", "for a program"),
)
EXITS = (0, 2)


def command(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]",
            help=f"One of {', '.join(KINDS)} [default: all].",
            autocompletion=lambda incomplete: [k for k in KINDS if k.startswith(incomplete)],
            show_default=False,
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Shows one kind as a table, or all of them."""
    from nothing_tune.recipe.library import names

    if kind is not None and kind not in KINDS:
        from difflib import get_close_matches

        near = get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"one of: {', '.join(KINDS)}"
        raise UsageError(f"there is no kind {kind!r} of things to list", hint=hint)
    if json:
        rows = {k: _rows(k) for k in ([kind] if kind else KINDS)}
        console.out_json(rows[kind] if kind else rows)
    elif kind == "gpus":
        console.out(*_gpus(_rows("gpus")))
    elif kind == "providers":
        console.out(*_providers(_rows("providers")))
    elif kind:
        console.out(*_described(kind, _rows(kind)))
    else:
        paint = console.ink()
        console.out(*_described("recipes", _rows("recipes")), "")
        for other in list(KINDS)[1:]:
            console.out(f"{paint.bold(other)}  {paint.dim(KINDS[other])}", *_wrapped(names(other)), "")


def _rows(kind: str) -> list[dict[str, Any]]:
    """`{name, description}` of each; for GPUs their facts and whether it is the one found here, for providers what they ask."""
    if kind == "providers":
        return _asked()
    from nothing_tune.recipe.library import LAYER_KINDS, library_root, names
    from nothing_tune.recipe.reader import read_file

    here = ""
    if kind == "gpus":
        from nothing_tune.recipe.machine import this_machine

        here = str(this_machine()["name"])
    folder = library_root() / kind if kind in LAYER_KINDS else library_root()
    rows = []
    for name in names(kind):
        path = folder / f"{name}.yaml"
        values = read_file(path)[0]
        row: dict[str, Any] = {"name": name, "description": _sentence(values, path)}
        if kind == "gpus":
            row |= {"found": name == here, "facts": values.get("gpu") or {}}
        rows.append(row)
    return rows


def _sentence(values: dict[str, Any], path: Path) -> str:
    """The description, else the first comment line that is no modeline."""
    if values.get("description"):
        return " ".join(str(values["description"]).split())
    with open(path, encoding="utf-8") as handle:
        for line in handle:
            text = line.strip().lstrip("#").strip()
            if line.startswith("#") and text and not text.startswith("yaml-language-server"):
                return text
            if line.strip() and not line.startswith("#"):
                break
    return ""


def _described(kind: str, rows: list[dict[str, Any]]) -> list[str]:
    return console.table([kind, ""], [(r["name"], r["description"]) for r in rows], paint=_first_cyan())


def _gpus(rows: list[dict[str, Any]]) -> list[str]:
    cells = []
    for row in rows:
        facts = row["facts"]
        cells.append(
            (
                row["name"],
                _figure(facts.get("memory_gb"), "GB"),
                {True: "yes", False: "no"}.get(facts.get("bf16"), "-"),
                str(facts.get("compute_capability") or "-"),
                _figure(facts.get("tflops_bf16") or facts.get("tflops_fp16"), ""),
                _figure(facts.get("memory_bandwidth_gbs"), "GB/s"),
                "found here" if row["found"] else "",
            )
        )
    heads = ["gpus", "memory", "bf16", "cc", "TFLOPS", "bandwidth", ""]
    return console.table(heads, cells, right=(1, 3, 4, 5), paint=_first_cyan())


def _asked() -> list[dict[str, Any]]:
    from dataclasses import asdict

    from nothing_tune.recipe.providers import providers

    return [{"name": one.name, "description": one.good_for, **asdict(one)} for one in providers()]


def _providers(rows: list[dict[str, Any]]) -> list[str]:
    """What each asks, by GPU; then what speaks for each, and what to mind."""
    asked = [(row["name"], price) for row in rows for price in row["prices"] if price["usd_per_hour"]]
    asked.sort(key=lambda pair: (pair[1]["gpu"], pair[1]["usd_per_hour"]))
    cells = []
    for name, price in asked:
        note = "; ".join(n for n in (f"{price['least']} at least" if price["least"] > 1 else "", price["note"]) if n)
        cells.append((price["gpu"], name, price["tier"], f"${price['usd_per_hour']:.2f}", price["as_of"] or "-", note))
    out = console.table(["gpu", "provider", "tier", "an hour", "as of", ""], cells, right=(3,), paint=_first_cyan())
    paint = console.ink()
    for row in rows:
        spread = ""
        if row["low"] is not None:
            spread = f"  ${row['low']:.2f} to ${row['high']:.2f} an hour by {row['range_source']}, undated"
        out += ["", f"{paint.bold(row['title'])}{paint.dim(spread)}"]
        out += [f"  {row['good_for']}", f"  {paint.dim('mind: ' + row['mind'])}"]
    return out


def _first_cyan() -> Callable[[int, str, str], str]:
    paint = console.ink()

    def tint(column: int, cell: str, padded: str) -> str:
        if column == 0:
            return paint.key(padded)
        return paint.ok(padded) if cell == "found here" else padded

    return tint


def _figure(value: Any, unit: str) -> str:
    return f"{value:g} {unit}".strip() if isinstance(value, int | float) else "-"


def _wrapped(words: list[str]) -> list[str]:
    import textwrap

    paint = console.ink()
    text = textwrap.wrap("  ".join(words), (console.width() or console.PIPE_WIDTH) - 2, break_on_hyphens=False)
    return [f"  {paint.key(line)}" for line in text]
