"""Options that several commands share, the words `[RECIPE] [KEY=VALUE]...`, and what the shell completes for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from nothing_tune.errors import UsageError


def complete_library(kind: str) -> Callable[[str], list[str]]:
    """Completes names of the library of one kind."""

    def complete(incomplete: str) -> list[str]:
        from nothing_tune.recipe.library import names

        return [name for name in names(kind) if name.startswith(incomplete)]

    return complete


def complete_words(incomplete: str) -> list[str]:
    """Recipes of the library, and YAML files and folders below the current one."""
    return [*complete_library("recipes")(incomplete), *_files(incomplete, (".yaml", ".yml"))]


def complete_layers(incomplete: str) -> list[str]:
    """Layers that `--with` takes: those of the library, and YAML files."""
    from nothing_tune.recipe.library import LAYER_KINDS, names

    shipped = [f"{kind}/{name}" for kind in LAYER_KINDS for name in names(kind)]
    return [*(n for n in shipped if n.startswith(incomplete)), *_files(incomplete, (".yaml", ".yml"))]


def complete_runs(incomplete: str) -> list[str]:
    """Ids of the newest runs, and `latest`."""
    from nothing_tune.artifacts import run_ids, runs_root

    ids = [*reversed(run_ids(runs_root())), "latest"]
    return [i for i in ids if i.startswith(incomplete)][:50]


def complete_data(incomplete: str) -> list[str]:
    """Data files and folders below the current one."""
    return _files(incomplete, (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz", ".zst"))


def _files(incomplete: str, endings: tuple[str, ...]) -> list[str]:
    folder, _, start = incomplete.rpartition("/")
    base = folder or ("/" if incomplete.startswith("/") else ".")
    found = []
    try:
        with os.scandir(base) as entries:
            for entry in entries:
                if entry.name.startswith(start) and not entry.name.startswith("."):
                    path = f"{folder}/{entry.name}" if "/" in incomplete else entry.name
                    if entry.is_dir():
                        found.append(f"{path}/")
                    elif entry.name.endswith(endings):
                        found.append(path)
    except OSError:
        return []
    return sorted(found)


Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE] [KEY=VALUE]...",
        help="A recipe: a YAML file or a name of the library. Then values that override it: training.learning_rate=1e-4; "
        "~KEY removes a value.",
        autocompletion=complete_words,
        show_default=False,
    ),
]
Gpu = Annotated[
    str | None,
    typer.Option(
        "--gpu",
        metavar="NAME",
        help="The GPU to train on [default: the one found here].",
        autocompletion=complete_library("gpus"),
    ),
]
Scenario = Annotated[
    str | None,
    typer.Option(
        "--scenario", metavar="NAME", help="A scenario, such as debug.", autocompletion=complete_library("scenarios")
    ),
]
With = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="FILE",
        help="A layer on top of the recipe: a YAML file or a layer of the library; may be given again.",
        autocompletion=complete_layers,
    ),
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="Without a recipe: the base model, a hub id or a folder."),
]
Data = Annotated[
    str | None,
    typer.Option("--data", metavar="FILE", help="Without a recipe: the training data, a file or a hub id."),
]
Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="Without a recipe: how to train, see `tune list methods` [default: qlora].",
        autocompletion=complete_library("methods"),
    ),
]
Unset = Annotated[
    list[str] | None, typer.Option("--unset", metavar="KEY", help="Remove a value, as ~KEY does; may be given again.")
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="STEP",
        help="Of a run: best, last, or a step [default: what it handed over, else the last].",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, errors too.")]
RunsDir = Annotated[
    str | None,
    typer.Option("--runs-dir", metavar="DIR", help="Folder of all runs [default: $TUNE_RUNS_DIR, else ./runs]."),
]
Deadline = Annotated[
    str | None,
    typer.Option(
        "--deadline",
        metavar="TIME",
        help="Save and stop in time, with exit code 75, when this much has passed since the start: 23h50m, 90m, 45s "
        "(checkpoint.deadline).",
    ),
]
AllowVersionDrift = Annotated[
    bool,
    typer.Option(
        "--allow-version-drift",
        help="Go on although a library has another version than the run was started with; the result may differ.",
    ),
]
RunId = Annotated[
    str,
    typer.Argument(
        metavar="RUN_ID",
        help="A run's id, the start of one, its path, or `latest`.",
        autocompletion=complete_runs,
        show_default=False,
    ),
]


def allow_version_drift() -> None:
    """Tells the engine that this process starts that library versions may differ from the run's."""
    os.environ["TUNE_ALLOW_VERSION_DRIFT"] = "1"


def split_words(words: Sequence[str] | None) -> tuple[str | None, list[str]]:
    """`(recipe, overrides)` of the words of a command line. `UsageError` when they hold two recipes."""
    names = [w for w in words or () if not is_override(w)]
    if len(names) > 1:
        raise UsageError(
            f"two recipes are given: {names[0]} and {names[1]}", hint="an override is written KEY=VALUE, without spaces"
        )
    return (names[0] if names else None), [w for w in words or () if is_override(w)]


def recipe_or_composed(
    words: Sequence[str] | None, model: str | None, data: str | None, method: str | None, command: str
) -> tuple[str, list[str]]:
    """`(recipe, overrides)` that a command line means: a recipe that it names, or one composed for `--model` and `--data`.

    Raises:
        UsageError: Neither is given, or both; `command` (`train`) is how the hint begins.
    """
    recipe, overrides = split_words(words)
    if not (model or data or method):
        if recipe is None:
            raise UsageError(
                "which recipe? none is named",
                hint=f"tune {command} quickstart; or tune {command} --model NAME --data FILE; tune list shows the recipes",
            )
        _refuse_data(recipe, command)
        return recipe, overrides
    if recipe is not None:
        raise UsageError(
            f"a recipe ({recipe}) and --model, --data or --method are given",
            hint=f"with a recipe write: tune {command} {recipe} model.name_or_path=NAME data.train=FILE",
        )
    if not model or not data:
        raise UsageError(
            f"--{'data' if model else 'model'} is missing", hint=f"tune {command} --model ORG/NAME --data rows.jsonl"
        )
    from nothing_tune.run import compose

    layer, composed = compose(model, data, method or "qlora")
    return layer, [*composed, *overrides]


def _refuse_data(name: str, command: str) -> None:
    """A data file in the place of a recipe, which many will type."""
    from nothing_tune.data.files import SUFFIXES, suffix

    if Path(name).is_file() and suffix(name) in SUFFIXES:
        raise UsageError(
            f"{name} is data, not a recipe",
            hint=f"tune {command} --model NAME --data {name}; tune init --data {name} writes a recipe for it",
        )


def is_override(word: str) -> bool:
    """Whether a word is `KEY=VALUE` or `~KEY`, not a recipe (a file whose name holds `=` is a recipe)."""
    if word.startswith("~") and not word.startswith("~/"):
        return True
    return "=" in word and not Path(word).is_file()


def load(
    name: str | Path | None,
    *,
    gpu: str | None = None,
    scenario: str | None = None,
    with_: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    unset: Sequence[str] | None = None,
) -> Any:
    """The recipe that a command line means; without `--gpu` the GPU found on this machine is used."""
    from nothing_tune.recipe import load_recipe

    machine = None
    if gpu is None:
        from nothing_tune.recipe.machine import this_machine

        machine = this_machine()
    return load_recipe(
        name,
        gpu=gpu,
        scenario=scenario,
        with_=tuple(with_ or ()),
        overrides=tuple(overrides),
        unset=tuple(unset or ()),
        machine=machine,
    )


def command_words(
    name: str | Path | None,
    *,
    gpu: str | None = None,
    scenario: str | None = None,
    with_: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
) -> str:
    """The same words as one would type them, to name a variant of a recipe in a message."""
    parts = [str(name or "base/qlora")]
    parts += ["--gpu", gpu] if gpu else []
    parts += ["--scenario", scenario] if scenario else []
    for layer in with_ or ():
        parts += ["--with", layer]
    return " ".join([*parts, *overrides])
