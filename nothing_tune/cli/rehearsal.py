"""`tune train RECIPE --rehearse`: the whole recipe end to end on this machine, its model made small; one line for each thing proved."""

from __future__ import annotations

import contextlib
import json as jsonlib
import os
import shlex
import shutil
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nothing_tune.cli import console, notices
from nothing_tune.errors import Problem, RunError, StorageError, TuneError, UsageError

if TYPE_CHECKING:
    from nothing_tune.plan import Plan
    from nothing_tune.recipe.model import Recipe

REPLACED = ("model.use_kernels", "model.attn_implementation", "peft.init_lora_weights")
"""Keys whose packages a rehearsal does without."""
KEPT_FOR = (TuneError.exit_code, RunError.exit_code, 70, 71)
"""Exit codes after which the folder is kept: the log in it says more than the error."""
MARKS = {"proved": "ok", "left out": "-", "failed": "fail"}
COLUMN = 21
INTERRUPTED = 130
NANO = "--with models/nano"


def rehearse(recipe: Recipe, plan: Plan, again: str, json: bool, inspect: str = "") -> None:
    """Rehearses `recipe` and shows what was proved; leaves with 0, or with the exit code of what failed.

    Args:
        recipe: What is rehearsed.
        plan: The same, compiled for the GPU that is meant.
        again: The command that trains it, for the last line.
        json: Print one JSON document instead of the page.
        inspect: The command that shows its rows, for hints; empty where there is none.
    """
    page = _Page(plan, json)
    try:
        _, error = console.outcome(lambda: _rehearsed(recipe, plan, page, inspect))
    except KeyboardInterrupt:
        page.clear()
        console.note("stopped; nothing was kept")
        raise typer.Exit(INTERRUPTED) from None
    page.clear()
    problems = [_placed(p, recipe) for p in error.problems] if error else []
    if json:
        console.out_json(page.document(recipe, again, problems, error.exit_code if error else 0))
    else:
        page.close(again, error is None)
        sys.stdout.flush()
        console.show_problems(notices.near(p) for p in problems)
        if page.kept:
            console.note(f"kept for a look: {page.kept}")
    if error is not None:
        raise typer.Exit(error.exit_code)


def command_line(
    recipe: str | None,
    gpu: str | None,
    scenario: str | None,
    with_: Sequence[str] | None,
    overrides: Sequence[str],
    unset: Sequence[str] | None,
    composed: Sequence[str | None] | None = None,
    do: str = "train",
) -> str:
    """The command, as it was typed, that trains what was rehearsed; with `do` = `data inspect` the one that shows its rows.

    Args:
        recipe: What is trained; of no matter with `composed`.
        overrides: Those that were typed.
        composed: `--model`, `--data` and `--method` where they were typed instead of a recipe.
    """
    model, data, method = composed or (None, None, None)
    looks = do != "train"
    words = ["tune", *do.split(), *([data if looks else None] if composed else [recipe])]
    own = (("--model", model), *(() if looks else (("--data", data), ("--method", method))))
    for name, value in (*own, ("--gpu", None if looks and composed else gpu), ("--scenario", scenario)):
        words += [name, value] if value else []
    words += [word for layer in with_ or () for word in ("--with", layer)]
    words += [f"~{key}" for key in unset or ()] if looks else [w for key in unset or () for w in ("--unset", key)]
    return shlex.join([word for word in words if word] + [*overrides])


def _rehearsed(recipe: Recipe, plan: Plan, page: _Page, inspect: str = "") -> None:
    """Runs the job in a temporary folder and tells `page` of its events; raises what it found."""
    from nothing_tune.cli.jobs import job
    from nothing_tune.run.architecture import config_of

    sample = _sample_needed(recipe, plan)
    config, _ = config_of(plan)
    try:
        folder = Path(tempfile.mkdtemp(prefix="tune-rehearsal-"))
    except OSError as why:
        raise StorageError(
            f"cannot write to {tempfile.gettempdir()}: {why.strerror}", hint="free some space, or set TMPDIR"
        ) from why
    page.open(sample)
    error: TuneError | None = None
    running: Any = None
    try:
        with _ended_from_outside(), job(["rehearse"], "the rehearsal") as running:
            request = {
                "plan": plan.to_json(), "config": config, "folder": str(folder), "sample": sample, "inspect": inspect,
            }  # fmt: skip
            running.send(jsonlib.loads(jsonlib.dumps(request, default=str)))
            _, error = console.outcome(lambda: page.follow(running))
            if error is not None:
                raise error
    finally:
        if running is not None:  # its children are in its group
            with contextlib.suppress(OSError):
                os.killpg(running.process.pid, signal.SIGKILL)
        if error is not None and error.exit_code in KEPT_FOR and (folder / "engine.log").is_file():
            page.kept = str(folder)
        else:
            _remove(folder)


@contextlib.contextmanager
def _ended_from_outside() -> Iterator[None]:
    """While it lasts, SIGTERM leaves as an exception does, so that nothing stays behind."""

    def end(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread: a notebook, a test
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _remove(folder: Path) -> None:
    """Removes `folder`, again where a process that is just ending still wrote to it."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _sample_needed(recipe: Recipe, plan: Plan) -> bool:
    """Whether the recipe's sample must stand for its data; `UsageError` with what else is missing."""
    from nothing_tune.data import files
    from nothing_tune.run import missing

    lacking = [p for p in missing(recipe, plan) if p.key not in REPLACED]
    data = [p for p in lacking if p.key.startswith("data")]
    sample = (plan.data.get("sample") or {}).get("train")
    usable = bool(data and sample and files.resolve(str(sample)))
    left = [p for p in lacking if not (usable and p in data)]
    if left:
        raise UsageError(*(replace(p, hint=p.hint.replace(NANO, f"--rehearse {NANO}")) for p in left))
    return usable


def _placed(problem: Problem, recipe: Recipe) -> Problem:
    """`problem` with the place in the recipe where its key was set."""
    from nothing_tune.recipe.model import origin_of

    origin = origin_of(recipe.origins, problem.key) if problem.key and not problem.place else None
    return problem if origin is None else replace(problem, place=origin.place, layer=str(origin))


class _Page:
    """The page while it grows, and what of it a program gets."""

    def __init__(self, plan: Plan, json: bool) -> None:
        self.plan, self.json = plan, json
        self.paint = console.ink()
        self.live = console.is_terminal() and not json
        self.began = time.monotonic()
        self.stages: list[dict[str, Any]] = []
        self.replaced: list[str] = []
        self.report: dict[str, Any] = {}
        self.sample = False
        self.current = ""
        self.kept = ""

    def open(self, sample: bool) -> None:
        """The first lines."""
        self.sample = sample
        if self.json:
            return
        gpu = str(self.plan.gpu.get("name") or "a GPU")
        self._line(
            f"{self.paint.bold(self.plan.name)}  {self.paint.dim(f'rehearsal for {gpu}, on the CPU of this machine')}"
        )
        if sample:
            self._line(self.paint.warn("the data is not here: the recipe's sample stands for it"))
        self._line("")
        self._draw("starting")

    def follow(self, running: Any) -> None:
        """Shows the job's events until its report."""
        while (event := running.read())["type"] != "report":
            kind = event["type"]
            if kind == "stage" and event.get("state") == "begins":
                self.current = str(event.get("stage"))
                self._draw(self.current)
            elif kind == "stage":
                self.stages.append({k: v for k, v in event.items() if k != "type"})
                self._stage(event)
            elif kind == "progress":
                self._draw(f"{event.get('what')}  {console.plural(int(event.get('rows') or 0), 'row')}")
            elif kind == "sample":
                self.sample = True
                self._told("", str(event.get("what")), self.paint.warn)
            elif kind == "note":
                self.replaced.append(str(event.get("what")))
                self._told("replaced", str(event.get("what")), self.paint.dim)
        self.report = event

    def close(self, again: str, proved: bool) -> None:
        """The last lines: what was not proved, and what comes next."""
        if not self.stages and not proved:
            return
        seconds = time.monotonic() - self.began
        if self.report.get("warnings"):
            self._line("")
        for warning in self.report.get("warnings") or ():
            for line in notices.lines("warning:", warning, "", console.width() or console.PIPE_WIDTH, self.paint):
                self._line(line)
        self._line("")
        if not proved:
            return
        self._line(f"{self.paint.ok('proved')}         the recipe runs from end to end, in {seconds:.0f} s")
        for number, text in enumerate(self.report.get("could_not") or ()):
            head = "" if number else "cannot prove"
            self._line(f"{self.paint.dim(head.ljust(15))}{text}")
        self._line(f"{self.paint.dim('next'.ljust(15))}{self.paint.key(again)}")

    def document(self, recipe: Recipe, again: str, problems: Sequence[Problem], code: int) -> dict[str, Any]:
        """What a program gets."""
        return {
            "rehearsal": recipe.name,
            "proved": code == 0,
            "exit_code": code,
            "sample": self.sample,
            "stages": self.stages,
            "replaced": self.replaced,
            "warnings": list(self.report.get("warnings") or []),
            "could_not": list(self.report.get("could_not") or []),
            "seconds": round(time.monotonic() - self.began, 1),
            "kept": self.kept or None,
            "next": again if code == 0 else None,
            "errors": [p.to_json() for p in problems],
        }

    def clear(self) -> None:
        """Takes the line that is drawn anew away."""
        if self.live:
            sys.stdout.write("\r\x1b[2K")
            sys.stdout.flush()

    def _stage(self, event: Mapping[str, Any]) -> None:
        state, seconds = str(event.get("state")), event.get("seconds")
        mark, tint = (
            MARKS.get(state, state),
            {"proved": self.paint.ok, "failed": self.paint.error}.get(state, self.paint.dim),
        )
        took = f"{seconds:.0f} s" if isinstance(seconds, int | float) and seconds >= 0.5 else ""
        name = f"{event.get('stage')!s:<10}"
        self._told(f"{tint(f'{mark:<4}')} {name} {self.paint.dim(f'{took:>5}')}", str(event.get("what")))

    def _told(self, head: str, text: str, tint: Any = str) -> None:
        """A line of the page: `head` in its column, `text` wrapped beside it."""
        if self.json:
            return
        columns = (console.width() or console.PIPE_WIDTH) - COLUMN - 2
        found = textwrap.wrap(notices.clean(text), max(columns, 30), break_on_hyphens=False) or [""]
        pad = " " * max(COLUMN - console.visible(head), 0)
        for number, line in enumerate(found):
            self._line(f"{head}{pad}  {tint(line)}" if not number else f"{' ' * COLUMN}  {tint(line)}")
        self._draw(self.current)

    def _line(self, text: str) -> None:
        self.clear()
        if not self.json:
            console.out(text.rstrip())
            sys.stdout.flush()

    def _draw(self, what: str) -> None:
        if self.live and what:
            text = f"{what}…  {console.clock(time.monotonic() - self.began)}"
            sys.stdout.write(
                f"\r\x1b[2K{self.paint.dim(console.cut(console.printable(text), (console.width() or 80) - 1))}"
            )
            sys.stdout.flush()
