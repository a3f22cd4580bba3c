"""Help pages: complete, in the order of the flow, with examples and exit codes."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import nothing_tune.cli
from nothing_tune.cli.app import COMMANDS, build
from nothing_tune.cli.help import EXIT_CODES
from nothing_tune.errors import TuneError

PARTS = {
    "__init__",
    "app",
    "console",
    "help",
    "jobs",
    "live",
    "notices",
    "options",
    "origins",
    "rehearsal",
    "typed",
    "view",
    "yaml_text",
}
"""Modules of the box that are no commands."""

PROGRAM = """\
Usage: tune COMMAND [OPTIONS]

Fine-tunes language models from YAML recipes.

Commands:
  init         Makes a recipe for a model and data of your own, from a few questions.
  list         Lists the library: recipes, GPUs, methods, quantizations, scenarios, models.
  show-config  Shows a recipe with all its layers merged, and where each value comes from.
  explain      Explains a setting: what it does, its range, its value here and why.
  validate     Checks recipes and shows everything that is wrong with them, without training.
  schema       Prints a JSON schema of recipes, for completion and hover text in an editor.
  data         Looks at data, converts, splits, cleans, mixes and generates it.
  plan         Tells steps, memory, time and cost of a run before it starts.
  train        Fine-tunes a model as a recipe says, and shows the run until it ends.
  resume       Continues a run exactly where it stopped.
  watch        Shows a run that goes on, or how one ended.
  stop         Stops a run after its current step, with a checkpoint to continue from.
  runs         Lists the runs, newest first; `runs show` tells everything about one.
  compare      Shows side by side what differs between runs, and how they ended.
  report       Writes all about a run into one HTML file.
  chat         Talks to the model that a run has trained, or to an exported one.
  serve        Serves a run's model as an OpenAI-compatible endpoint.
  eval         Measures what a run has learned, beside its base model.
  export       Makes what others can load: adapter, merged model, GGUF; and proves that it is what
               was trained.
  doctor       Looks at this machine, or at a run, and says what is wrong and what to do.

Options:
  --version             Show the version.
  --install-completion  Install completion for the current shell.
  --show-completion     Show completion for the current shell, to copy it or customize the
                        installation.
  -h, --help            Show this message and exit.

Examples:
  tune train quickstart                        # fine-tune the model that ships with tune
  tune show-config nothing-gpt --gpu l4 --why  # every value and its origin
  tune chat latest                             # talk to the newest run's model

tune COMMAND --help tells more about one. https://github.com/nothing-tune/nothing-tune
"""

WATCH = """\
Usage: tune watch RUN_ID [OPTIONS]

Shows a run that goes on, or how one ended.

Arguments:
  RUN_ID          A run's id, the start of one, its path, or `latest`.

Options:
  --runs-dir DIR  Folder of all runs [default: $TUNE_RUNS_DIR, else ./runs].
  -h, --help      Show this message and exit.

Examples:
  tune watch latest        # the newest run; Ctrl-C leaves it alone
  tune watch runs/nightly  # a run by its path; its id or the start of one does, too

Exit codes:
  0    done
  2    recipe or usage error
  5    the run failed
  70   diverged: the loss is no longer finite
  71   out of memory, after every retry
  74   storage: the disk is full or cannot be written
  75   preempted after a committed checkpoint: try again
  130  stopped by Ctrl-C or tune stop
"""


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_program(tune: Callable[..., Any], argv: list[str]) -> None:
    assert tune(*argv) == type(tune())(0, PROGRAM, "")


def test_watch(tune: Callable[..., Any]) -> None:
    assert tune("watch", "--help").out == WATCH


def test_version(tune: Callable[..., Any]) -> None:
    assert tune("--version").out == f"nothing-tune {nothing_tune.__version__}\n"


@pytest.mark.parametrize("command", [*COMMANDS, "runs show"])
def test_every_page(tune: Callable[..., Any], command: str) -> None:
    page = tune(*command.split(), "--help")
    assert page.code == 0
    lines = page.out.splitlines()
    assert lines[0].startswith(f"Usage: tune {command} ")
    assert command == "runs show" or lines[2] == COMMANDS[command]
    assert max(map(len, lines)) <= 100
    for head in ("Options:", "Examples:", "Exit codes:"):
        assert head in lines


def test_one_file_a_command() -> None:
    folder = Path(nothing_tune.cli.__path__[0])
    files = {p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/__init__.py")}
    assert files == PARTS | {name.replace("-", "_") for name in COMMANDS}
    assert len(COMMANDS) == 20


def test_options_are_described() -> None:
    seen = 0
    for name in COMMANDS:
        command = build(name)
        for param in [*command.params, *(p for c in getattr(command, "commands", {}).values() for p in c.params)]:
            assert param.help, (name, param.name)
            seen += 1
    assert seen > 50


def test_exit_codes_are_those_of_the_errors() -> None:
    kinds = [TuneError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    assert set(EXIT_CODES) == {0, 6, *(kind.exit_code for kind in kinds if kind.__module__ == "nothing_tune.errors")}
    for name in COMMANDS:
        module = import_module(f"nothing_tune.cli.{name.replace('-', '_')}")
        assert set(module.EXITS) <= set(EXIT_CODES)
