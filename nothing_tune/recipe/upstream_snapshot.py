"""Writes `upstream.json` and `upstream_docs.json` anew from the installed versions: `python -m nothing_tune.recipe.upstream_snapshot`."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

from nothing_tune.recipe.upstream import DOCS, SNAPSHOT
from nothing_tune.recipe.upstream_source import Row, peft_classes, read_all


def main() -> None:
    """Writes both files beside this one."""
    everything = read_all()
    snapshot = {
        "versions": {name: version(name) for name in ("trl", "transformers", "peft")},
        "peft_types": sorted(peft_classes()),
        "options": {kind: {name: stored(row) for name, row in rows.items()} for kind, rows in everything.items()},
    }
    docs = {kind: {name: row[4] for name, row in rows.items() if row[4]} for kind, rows in everything.items()}
    SNAPSHOT.write_text(_lines(snapshot) + "\n", encoding="utf-8")
    DOCS.write_text(_lines(docs) + "\n", encoding="utf-8")


def stored(row: Row) -> list[Any]:
    """A row as it stands in upstream.json: `[types, choices, default]`, and `{fields, required}` where there is any."""
    types, choices, default, extra, _ = row
    return [types, choices, default, extra] if extra else [types, choices, default]


def _lines(data: Any, depth: int = 0) -> str:
    """JSON with one option a line, so that a change upstream is a readable diff."""
    if not isinstance(data, dict) or depth == 3:
        return json.dumps(data, ensure_ascii=False)
    inner = ",\n".join(f"{' ' * (depth + 1)}{json.dumps(k)}: {_lines(v, depth + 1)}" for k, v in data.items())
    return f"{{\n{inner}\n{' ' * depth}}}"


if __name__ == "__main__":
    main()
