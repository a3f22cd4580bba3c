"""`tune data`: looks at data, and makes it; its commands are one file each beside this one."""

from __future__ import annotations

import typer

from nothing_tune.cli import console
from nothing_tune.cli.data import convert, dedupe, generate, inspect, mix, split

EXAMPLES = (
    ("tune data inspect rows.jsonl", "what a model would learn from a file"),
    ("tune data inspect quickstart --show 3", "three rows as the model sees them"),
    (
        "tune data generate marco generate.prompts=samples/marco.prompts.jsonl --dry-run",
        "what it takes to make a recipe's rows with a generator",
    ),
    ("tune data convert alpaca.json --to rows.jsonl", "rows of any format as rows that are trained on"),
)
EXITS = (0, 2)


def command(context: typer.Context) -> None:
    """Shows the help page where no command is named."""
    if not context.invoked_subcommand:
        console.out(context.get_help().rstrip())


SUBCOMMANDS = {
    "inspect": (inspect.inspect, inspect.HELP, inspect.EXAMPLES, inspect.EXITS),
    "convert": (convert.convert, convert.HELP, convert.EXAMPLES, convert.EXITS),
    "split": (split.split, split.HELP, split.EXAMPLES, split.EXITS),
    "dedupe": (dedupe.dedupe, dedupe.HELP, dedupe.EXAMPLES, dedupe.EXITS),
    "mix": (mix.mix, mix.HELP, mix.EXAMPLES, mix.EXITS),
    "generate": (generate.generate, generate.HELP, generate.EXAMPLES, generate.EXITS),
}
"""Command -> the function, its help, its examples and its exit codes."""
