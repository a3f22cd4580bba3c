"""`tune doctor`: what is wrong with this machine, or with a run, and what to do about it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nothing_tune.cli import console, notices, options
from nothing_tune.cli.console import Ink
from nothing_tune.errors import UsageError
from nothing_tune.recipe import library

if TYPE_CHECKING:
    from nothing_tune.run.doctor import Cause, Diagnosis, Finding

EXAMPLES = (
    ("tune doctor", "this machine: libraries, GPU, disks, network, keys"),
    ("tune doctor --quick", "without importing the libraries: under a second"),
    ("tune doctor --for nothing-gpt", "and what a recipe needs here"),
    ("tune doctor latest", "what happened to the newest run, why, and what to do"),
    ("tune doctor latest --json", "for a program"),
)
EXITS = (0, 2, 5)
ILL = 5
"""Exit code where something fails: a check of this machine, or the run that was looked at."""
STATUS_COLUMNS = 6


def command(
    run_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN_ID]",
            help="A run: its id, the start of one, its path, or `latest` [default: this machine]; a recipe means --for.",
            autocompletion=options.complete_runs,
            show_default=False,
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out what takes seconds: importing the libraries.")
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="RECIPE",
            help="Look at what this recipe needs here, too.",
            autocompletion=options.complete_words,
        ),
    ] = None,
    runs_dir: options.RunsDir = None,
    json: options.Json = False,
) -> None:
    """Shows the checks of this machine, or the diagnosis of a run; ends with 5 where something fails."""
    if run_id is not None and recipe is None and _is_recipe(run_id, runs_dir):
        run_id, recipe = None, run_id
    failed = _run(run_id, runs_dir, json) if run_id is not None else _machine(quick, recipe, runs_dir, json)
    if failed:
        sys.stdout.flush()
        raise typer.Exit(ILL)


def _is_recipe(name: str, runs_dir: str | None) -> bool:
    """Whether a word names a recipe and no run."""
    from nothing_tune.artifacts import find_run, runs_root
    from nothing_tune.cli.data.inspect import is_recipe

    return is_recipe(name) and console.outcome(lambda: find_run(name, runs_root(runs_dir)))[1] is not None


def _machine(quick: bool, recipe: str | None, runs_dir: str | None, json: bool) -> bool:
    """Looks at this machine and shows it; whether something fails."""
    import os

    from nothing_tune.run.doctor import environment

    if runs_dir is not None:
        os.environ["TUNE_RUNS_DIR"] = runs_dir  # for this process: the folder that is looked at
    found = environment.examine()
    found += _needs(recipe) if recipe else []
    if json:
        found += [] if quick else environment.probed()
        first = environment.first(found)
        counts = {s: sum(f.status == s for f in found) for s in ("ok", "warn", "fail", "skip")}
        data = {"ok": not counts["fail"], "counts": counts, "first": first.to_json() if first else None}
        console.out_json({**data, "findings": [f.to_json() for f in found]})
        return bool(counts["fail"])
    paint, columns = console.ink(), console.width() or console.PIPE_WIDTH
    console.out(*page(found, columns, paint))
    if not quick:
        sys.stdout.flush()
        if console.is_terminal(sys.stderr):
            console.note("  trying the libraries, some ten seconds …")
        tried = environment.probed()
        console.out(*page(tried, columns, paint))
        found += tried
    console.out(*verdict(found, environment.first(found), quick, columns, paint))
    return any(f.status == "fail" for f in found)


def _needs(name: str) -> list[Finding]:
    """What a recipe lacks here; one that cannot be read is a finding, too."""
    from nothing_tune.plan import make_plan
    from nothing_tune.run.doctor import needs
    from nothing_tune.run.doctor.finding import guarded

    def read() -> tuple[Any, Any]:
        recipe = options.load(name)
        return recipe, make_plan(recipe)

    made, error = console.outcome(read)
    if error is not None:
        return list(needs.refused(name, error))
    assert made is not None
    return guarded(needs.NEEDS, "needs", lambda: needs.needs(*made))


def page(found: list[Finding], columns: int, paint: Ink) -> list[str]:
    """The findings below their headings: status, name, what was found, and the cure on a line of its own."""
    if not found:
        return []
    left = max(max(len(f.name) for f in found), 11)
    lines, group = [], ""
    for finding in found:
        if finding.group != group:
            group = finding.group
            lines.append(paint.bold(group))
        lines += _finding(finding, left, columns, paint)
    return [*lines, ""]


def _finding(finding: Finding, left: int, columns: int, paint: Ink) -> list[str]:
    tint = {"ok": paint.ok, "warn": paint.warn, "fail": paint.error, "skip": paint.dim}[finding.status]
    head = f"  {tint(finding.status.ljust(STATUS_COLUMNS))}{finding.name.ljust(left)}  "
    indent = " " * (2 + STATUS_COLUMNS + left + 2)
    room = max(columns - len(indent), 30)
    said = notices.wrapped(finding.what, room, "") or [""]
    lines = [f"{head}{paint.dim(said[0]) if finding.status == 'skip' else said[0]}".rstrip()]
    lines += [f"{indent}{paint.dim(line) if finding.status == 'skip' else line}" for line in said[1:]]
    for part in finding.cure.split("; ") if finding.cure else ():
        lines += [f"{indent}{paint.key(line)}" for line in _whole(part, room)]
    return lines


def _whole(text: str, room: int) -> list[str]:
    """A cure for copying: on one line where that fits or where it is one command, else wrapped; its paths stay whole."""
    import textwrap

    text = console.printable(text)
    command = text.split(" ", 1)[0] in ("pip", "export", "tune", "docker", "unset", "ulimit", "python", "ps")
    if len(text) <= room or (command and ": " not in text and ", or " not in text):
        return [text]
    return textwrap.wrap(text, room, break_on_hyphens=False, break_long_words=False)


def verdict(found: list[Finding], first: Finding | None, quick: bool, columns: int, paint: Ink) -> list[str]:
    """The last lines: how many of each, and what to mend first."""
    counts = {s: sum(f.status == s for f in found) for s in ("fail", "warn", "ok")}
    tints = {"fail": paint.error, "warn": paint.warn, "ok": paint.ok}
    said = ", ".join(tints[s](f"{n} {s}") for s, n in counts.items() if n)
    untried = paint.dim("; the libraries were not tried (--quick)") if quick else ""
    if first is None:
        return [f"{said}: nothing to mend{untried}"]
    lines = [f"{said}{untried}"]
    cure = console.printable((first.cure or first.what).split("; ")[0])
    return [*lines, f"first: {paint.bold(first.name)}: {paint.key(cure)}"]


def _run(run_id: str, runs_dir: str | None, json: bool) -> bool:
    """Diagnoses a run and shows it; whether it failed."""
    from nothing_tune.artifacts import find_run, runs_root
    from nothing_tune.cli.live import called
    from nothing_tune.run.doctor import diagnose

    run, error = console.outcome(lambda: find_run(run_id, runs_root(runs_dir)))
    if run is None:
        assert error is not None
        raise _no_run(run_id) or error
    found = diagnose(run, called(run))
    if json:
        console.out_json(found.to_json())
    else:
        console.out(*diagnosis(found, console.width() or console.PIPE_WIDTH, console.ink()))
    return found.failed


def _no_run(name: str) -> UsageError | None:
    """What is said of a path that is there and is no run; None where there is no such path."""
    from pathlib import Path

    from nothing_tune.data import files

    path = Path(name).expanduser()
    if not path.exists():
        return None
    what = f"{name} is a {'folder' if path.is_dir() else 'file'} and no run"
    above = next((p for p in path.absolute().parents if (p / "plan.json").is_file()), None)
    if above is not None:
        return UsageError(what, hint=f"it belongs to a run: tune doctor {library.shown(above)}")
    if path.is_file() and files.suffix(path) in files.SUFFIXES:
        return UsageError(what, hint=f"tune data inspect {name} looks at data; tune runs lists the runs")
    return UsageError(what, hint="tune runs lists the runs; tune doctor --for RECIPE looks at what a recipe needs")


def diagnosis(found: Diagnosis, columns: int, paint: Ink) -> list[str]:
    """The page of a run: how it stands, then each cause with what was seen, why, and what to do. One line for one that is well."""
    state, colon, rest = found.summary.partition(":")
    word = "well" if not found.causes else ""
    tint = paint.error if found.failed else paint.ok if found.well else paint.warn
    head = f"{paint.ok(word)}  " if word else ""
    lines = [f"{head}{paint.bold(found.run)}  {tint(state)}{colon}{console.printable(rest)}"]
    for cause in found.causes:
        lines += ["", *_cause(cause, columns, paint)]
    return lines


def _cause(cause: Cause, columns: int, paint: Ink) -> list[str]:
    tint = {"fail": paint.error, "warn": paint.warn}.get(cause.severity, paint.dim)
    room = columns - 10
    first, *more = notices.wrapped(cause.what, columns - 8, "") or [""]
    lines = [f"{tint(cause.severity.ljust(6))}  {paint.bold(first)}", *(f"        {paint.bold(line)}" for line in more)]
    seen = [line for text in cause.evidence for line in notices.wrapped(text, room)]
    lines += _labelled("seen", seen, paint)
    lines += _labelled("why", notices.wrapped(cause.why, room, "") if cause.why else [], paint)
    cures = []
    for command, does in cause.cures:
        cures.append(paint.key(notices.clean(command)))
        cures += [f"  {paint.dim(line)}" for line in notices.wrapped(does, room - 2, "")] if does else []
    lines += _labelled("do", cures, paint)
    return [*lines, *_labelled("from", [paint.dim(cause.source)] if cause.source else [], paint)]


def _labelled(label: str, lines: list[str], paint: Ink) -> list[str]:
    return [f"  {paint.dim((label if n == 0 else '').ljust(6))}{line}" for n, line in enumerate(lines)]
