"""The program `tune`: its commands, loaded only when they are called; its help; the one place that shows errors."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from nothing_tune.cli import console
from nothing_tune.cli.help import Command, Group, program_help
from nothing_tune.cli.typed import lighten
from nothing_tune.errors import Problem, TuneError, UsageError

COMMANDS = {
    "init": "Makes a recipe for a model and data of your own, from a few questions.",
    "list": "Lists the library: recipes, GPUs, methods, quantizations, scenarios, models.",
    "show-config": "Shows a recipe with all its layers merged, and where each value comes from.",
    "explain": "Explains a setting: what it does, its range, its value here and why.",
    "validate": "Checks recipes and shows everything that is wrong with them, without training.",
    "schema": "Prints a JSON schema of recipes, for completion and hover text in an editor.",
    "data": "Looks at data, converts, splits, cleans, mixes and generates it.",
    "plan": "Tells steps, memory, time and cost of a run before it starts.",
    "train": "Fine-tunes a model as a recipe says, and shows the run until it ends.",
    "resume": "Continues a run exactly where it stopped.",
    "watch": "Shows a run that goes on, or how one ended.",
    "stop": "Stops a run after its current step, with a checkpoint to continue from.",
    "runs": "Lists the runs, newest first; `runs show` tells everything about one.",
    "compare": "Shows side by side what differs between runs, and how they ended.",
    "report": "Writes all about a run into one HTML file.",
    "chat": "Talks to the model that a run has trained, or to an exported one.",
    "serve": "Serves a run's model as an OpenAI-compatible endpoint.",
    "eval": "Measures what a run has learned, beside its base model.",
    "export": "Makes what others can load: adapter, merged model, GGUF; and proves that it is what was trained.",
    "doctor": "Looks at this machine, or at a run, and says what is wrong and what to do.",
}
"""Command -> its help, in the order of the flow. The command itself is `command` in the module of that name."""

REPORT = "https://github.com/nothing-tune/nothing-tune/issues"


class Program(Group):
    """`tune` itself: knows its commands by name and imports a command's module when it is called."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """All commands, in the order of the flow."""
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        """The command of a name; None when there is none."""
        return build(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        """The command that the arguments start with; `UsageError` with near names when there is none."""
        name = args[0]
        if name not in COMMANDS and not ctx.resilient_parsing:
            near = _data_command(name) or get_close_matches(name, COMMANDS, n=2, cutoff=0.5)
            what = "option" if name.startswith("-") else "command"
            hint = f"did you mean {' or '.join(near)}?" if near else "tune --help lists the commands"
            raise UsageError(f"no such {what}: {name}", hint=hint)
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Writes the help page of `tune`."""
        formatter.write(program_help(self, ctx, COMMANDS))


def _data_command(name: str) -> list[str]:
    """`data inspect` for `inspect`: the command of `tune data` that is called so, or nearly, and more so than any of `tune`."""
    from nothing_tune.cli.data import SUBCOMMANDS

    near = get_close_matches(name, [*SUBCOMMANDS, *COMMANDS], n=1, cutoff=0.75)
    return [f"tune data {word}" for word in near if word in SUBCOMMANDS]


def build(name: str) -> Any:
    """The command `name` as typer runs it; imports its module."""
    module = importlib.import_module(f"nothing_tune.cli.{name.replace('-', '_')}")
    subcommands = getattr(module, "SUBCOMMANDS", {})
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    if not subcommands:
        app.command(name, cls=getattr(module, "COMMAND_CLASS", Command), help=COMMANDS[name])(module.command)
        built = typer.main.get_command(app)
    else:
        app.callback(cls=Group, invoke_without_command=True, help=COMMANDS[name])(module.command)
        for word, (function, sentence, _, _) in subcommands.items():
            app.command(word, cls=Command, help=sentence)(function)
        built = typer.main.get_command(app)
        for word, (_, _, examples, exits) in subcommands.items():
            child: Any = built.commands[word]  # type: ignore[attr-defined]
            child.examples, child.exits = examples, exits
    described: Any = built
    described.name, described.examples, described.exits = name, module.EXAMPLES, module.EXITS
    lighten(built)
    return built


def _version(value: bool) -> None:
    if value:
        from nothing_tune import __version__

        console.out(f"nothing-tune {__version__}")
        raise typer.Exit


def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        console.out(context.get_help())


def program() -> Any:
    """The whole command line as one typer command."""
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback(
        cls=Program,
        invoke_without_command=True,
        help="Fine-tunes language models from YAML recipes.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )(_options)
    built = typer.main.get_command(app)
    lighten(built)
    return built


def run(argv: Sequence[str], name: str = "tune") -> int:
    """Runs one command line and returns its exit code; errors of any kind leave as exceptions."""
    try:
        code = program().main(args=list(argv), prog_name=name, standalone_mode=False)
    except typer.TyperException as error:
        raise _usage(error, name) from None
    sys.stdout.flush()
    return code if isinstance(code, int) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line, shows what goes wrong, and returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    name = "nothing-tune" if Path(sys.argv[0]).name == "nothing-tune" else "tune"
    try:
        code, error = console.outcome(lambda: run(argv, name))
        if error is None:
            return code or 0
        _show(error, "--json" in argv)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as bug:
        if os.environ.get("TUNE_TRACEBACK"):
            raise
        sys.stdout.flush()
        said = str(bug).splitlines() or [""]
        console.show_problems(
            [
                Problem(
                    f"this is a bug in nothing-tune: {type(bug).__name__}: {said[0]}",
                    hint=f"please report it at {REPORT}; TUNE_TRACEBACK=1 shows where it happened",
                )
            ]
        )
        return 1


def _show(error: TuneError, as_json: bool) -> None:
    sys.stdout.flush()
    if as_json:
        console.out_json({"errors": [p.to_json() for p in error.problems], "exit_code": error.exit_code})
    else:
        console.show_problems(error.problems)
    if os.environ.get("TUNE_TRACEBACK"):
        import traceback

        traceback.print_exception(error)


def _usage(error: typer.TyperException, name: str) -> UsageError:
    """What typer says about a command line, in the form of all our errors."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else name
    what = error.format_message().strip().replace("\n", " ").rstrip(".")
    what = what[:1].lower() + what[1:]
    near = getattr(error, "possibilities", None)
    if near:
        what = what.split(" Did you mean")[0].split(" (Possible")[0].rstrip(".")
        nearest = get_close_matches(what.rsplit(" ", 1)[-1], near, n=1, cutoff=0.0)
        return UsageError(what, hint=f"did you mean {nearest[0]}? `{path} --help` shows all options")
    return UsageError(what, hint=f"`{path} --help` shows how it is used")
