"""`tune schema`: the JSON schema of recipes."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from nothing_tune.cli import console

EXAMPLES = (
    ("tune schema", "print it"),
    ("tune schema --out recipe.schema.json", "write it to a file"),
    ("# yaml-language-server: $schema=recipe.schema.json", "first line of a recipe: the editor uses it"),
)
EXITS = (0, 2, 74)


def command(
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="Write the schema to a file instead of the screen.")
    ] = None,
) -> None:
    """Prints the schema, or writes it to a file."""
    from nothing_tune.recipe.schema import json_schema

    text = jsonlib.dumps(json_schema(), indent=1, ensure_ascii=False)
    if out is None:
        console.out(text)
        return
    from nothing_tune.artifacts import write_text

    write_text(Path(out), text + "\n")
    console.out(f"wrote {out}; recipes use it by the line: # yaml-language-server: $schema={out}")
