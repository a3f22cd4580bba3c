"""The help pages: one sentence, usage, arguments, options, examples that run, exit codes. Plain text with few colours."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping
from typing import Any

import typer.core

from nothing_tune.cli.console import PIPE_WIDTH, Ink, ink, is_terminal
from nothing_tune.cli.typed import lighten_param

EXIT_CODES = {
    0: "done",
    1: "a bug in nothing-tune",
    2: "recipe or usage error",
    3: "plan impossible: it does not fit, or cannot train",
    4: "the engine could not be started",
    5: "the run failed",
    6: "the plan cannot tell",
    7: "an export's proof failed",
    65: "resume refused: data, recipe or versions changed",
    70: "diverged: the loss is no longer finite",
    71: "out of memory, after every retry",
    74: "storage: the disk is full or cannot be written",
    75: "preempted after a committed checkpoint: try again",
    77: "another process holds the run",
    130: "stopped by Ctrl-C or tune stop",
}
RUNNING = (0, 2, 3, 4, 5, 65, 70, 71, 74, 75, 77, 130)
"""Exit codes of the commands that follow a run."""
MANUAL = "https://github.com/nothing-tune/nothing-tune"
EXAMPLES = (
    ("tune train quickstart", "fine-tune the model that ships with tune"),
    ("tune show-config nothing-gpt --gpu l4 --why", "every value and its origin"),
    ("tune chat latest", "talk to the newest run's model"),
)


class Command(typer.core.TyperCommand):
    """A command of `tune`. `examples` are `(command line, comment)`; `exits` the exit codes that it can end with."""

    examples: tuple[tuple[str, str], ...] = ()
    exits: tuple[int, ...] = (0, 2)

    def get_help_option(self, ctx: Any) -> Any:
        """The option `--help`, light to load."""
        return _light(super().get_help_option(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help page."""
        formatter.write(command_help(self, ctx))


class Group(typer.core.TyperGroup):
    """A command of `tune` that has commands of its own; the rest as `Command`."""

    examples: tuple[tuple[str, str], ...] = ()
    exits: tuple[int, ...] = (0, 2)

    def get_help_option(self, ctx: Any) -> Any:
        """The option `--help`, light to load."""
        return _light(super().get_help_option(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help page."""
        formatter.write(command_help(self, ctx))


def _light(option: Any) -> Any:
    if option is not None:
        lighten_param(option)
    return option


def command_help(command: Any, ctx: Any) -> str:
    """The help page of one command."""
    paint, columns = ink(), _columns()
    rows = {kind: _records(command, ctx, kind) for kind in ("argument", "option")}
    children = [(name, child.help or "") for name, child in getattr(command, "commands", {}).items()]
    names = [name for name, _ in [*rows["argument"], *children, *rows["option"]]]
    left = min(max(map(len, names), default=0), 26)
    blocks = [
        _usage(command, ctx, paint),
        textwrap.fill(command.help or "", columns),
        _section("Arguments", rows["argument"], left, paint, columns),
        _section("Commands", children, left, paint, columns),
        _section("Options", rows["option"], left, paint, columns),
        _examples(command.examples, paint, columns),
        _section("Exit codes", [(str(code), EXIT_CODES[code]) for code in command.exits], 3, paint, columns),
    ]
    return "\n\n".join(b for b in blocks if b) + "\n"


def program_help(command: Any, ctx: Any, commands: Mapping[str, str]) -> str:
    """The help page of `tune`: its commands in the order of the flow."""
    paint, columns = ink(), _columns()
    options = _records(command, ctx, "option")
    blocks = [
        _usage(command, ctx, paint),
        command.help,
        _section("Commands", list(commands.items()), max(map(len, commands)), paint, columns),
        _section("Options", options, max(len(n) for n, _ in options), paint, columns),
        _examples(EXAMPLES, paint, columns),
        paint.dim(f"tune COMMAND --help tells more about one. {MANUAL}"),
    ]
    return "\n\n".join(blocks) + "\n"


def _records(command: Any, ctx: Any, kind: str) -> list[tuple[str, str]]:
    """`(name, text)` of a command's arguments or options."""
    out = []
    for param in command.get_params(ctx):
        if param.param_type_name != kind or getattr(param, "hidden", False):
            continue
        if kind == "argument":
            out.append((param.metavar or param.name.upper(), param.help or ""))
            continue
        name = ", ".join(sorted(param.opts, key=len))
        name += f" {param.metavar}" if param.metavar and not param.is_flag else ""
        text = param.help or ""
        if param.default is not None and not param.is_flag and not callable(param.default):
            text += f" [default: {param.default}]"
        out.append((name, text))
    return out


def _usage(command: Any, ctx: Any, paint: Ink) -> str:
    words = [name for name, _ in _records(command, ctx, "argument")]
    if hasattr(command, "commands"):
        words = ["[COMMAND]"] if command.commands else ["COMMAND"]
    return f"{paint.dim('Usage:')} {paint.bold(ctx.command_path)} {' '.join([*words, '[OPTIONS]'])}"


def _section(title: str, rows: list[tuple[str, str]], left: int, paint: Ink, columns: int) -> str:
    if not rows:
        return ""
    lines = [paint.bold(f"{title}:")]
    for name, text in rows:
        wrapped = textwrap.wrap(text, max(columns - left - 4, 24), break_on_hyphens=False) or [""]
        if len(name) > left:
            lines.append(f"  {paint.key(name)}")
            name = ""
        lines.append(f"  {paint.key(name)}{' ' * (left - len(name))}  {wrapped[0]}".rstrip())
        lines.extend(f"  {' ' * left}  {row}" for row in wrapped[1:])
    return "\n".join(lines)


def _examples(examples: tuple[tuple[str, str], ...], paint: Ink, columns: int) -> str:
    if not examples:
        return ""
    left = max(len(line) for line, _ in examples)
    lines = [paint.bold("Examples:")]
    for line, text in examples:
        note = paint.dim(f"# {text}")
        if left + max(len(t) for _, t in examples) + 6 > columns:
            lines += [f"  {note}", f"  {paint.key(line)}"]
        else:
            lines.append(f"  {paint.key(line)}{' ' * (left - len(line))}  {note}")
    return "\n".join(lines)


def _columns() -> int:
    return min(shutil.get_terminal_size((PIPE_WIDTH, 24)).columns, PIPE_WIDTH) if is_terminal() else PIPE_WIDTH
