"""Follows a run to its end: a calm live view on a terminal, one plain line per logging step elsewhere.

It reads only the run directory (events.jsonl, status.json, result.json), so a run that another terminal or another machine
started looks the same. `train`, `resume` and `watch` share it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from subprocess import Popen, TimeoutExpired
from types import FrameType
from typing import TYPE_CHECKING, Any

from nothing_tune.artifacts import Run
from nothing_tune.cli import console, notices
from nothing_tune.cli.view import (
    REFUSED,
    TRAINING,
    View,
    bar,
    closing,
    figures,
    header,
    phase_text,
    plain_line,
    plan_facts,
    standing,
)
from nothing_tune.errors import Problem, RunError, TuneError

if TYPE_CHECKING:
    from nothing_tune.plan.forecast import Forecast

POLL_S = 0.2
"""Seconds between two looks at the run directory, on a terminal and while a run is being stopped."""
PLAIN_POLL_S = 0.5
"""The same where plain lines are printed: a look takes a core from a training on the CPU."""
SILENT_S = 5.0
"""Seconds without an engine process and without a result after which the engine counts as dead."""
RELEASE_S = 15.0
"""Longest wait, in seconds, for an engine that has written its result to end."""
TELL_S = 10.0
"""Longest time, in seconds, for which the view does not leave while an engine that is to stop has not taken the run yet."""
LOG_LINES = 12
"""Lines of engine.log that are shown after an unexpected failure."""
LOST = 5


class _Screen:
    """Where lines go, and, on a terminal, the region below them that is drawn anew; use as a context manager."""

    def __init__(self) -> None:
        self.live: Any = None
        self.paint = console.ink()

    def __enter__(self) -> _Screen:
        if console.is_terminal():
            from rich.console import Console
            from rich.live import Live

            screen = Console(file=sys.stdout, highlight=False, markup=False)
            self.live = Live(
                console=screen, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self.live.__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        if self.live:
            self.live.__exit__(*details)
            self.live = None

    def line(self, text: str) -> None:
        """Writes a line that stays, above the live region."""
        if self.live:
            from rich.text import Text

            self.live.console.print(Text.from_ansi(text), soft_wrap=True)
        else:
            console.out(text)
            sys.stdout.flush()

    def draw(self, lines: list[str]) -> None:
        """Draws the live region; nothing where the output is no terminal."""
        if self.live:
            from rich.text import Text

            columns = self.live.console.width
            self.live.update(Text.from_ansi("\n".join(console.cut_coloured(x, columns) for x in lines)), refresh=True)


def called(run: Run) -> str:
    """What names a run in a command: its id, or its path where it does not lie in the usual folder."""
    from nothing_tune.artifacts import runs_root
    from nothing_tune.recipe.library import shown

    return run.id if run.path.parent == runs_root() else shown(run.path)


def show_header(run: Run, found: Forecast | None = None) -> None:
    """Writes what the run is: recipe, id, model, method, data, GPU, precision with its reason, batch; and of its forecast what
    was `found`."""
    from nothing_tune.cli.plan import page

    paint = console.ink()
    plan = run.plan()
    facts = {name: console.near(text) for name, text in plan_facts(plan).items()}
    if found:
        facts |= page.facts(found, paint)
    console.out(f"{paint.bold(str(plan.get('name')))}  {paint.dim(run.id)}", *header(facts, paint))
    console.out(*(page.warnings(found, paint) if found else ()), "")
    sys.stdout.flush()


def follow(
    run: Run,
    *,
    process: Popen[bytes] | None = None,
    interrupt: Callable[[], Any] | None = None,
    alive: Callable[[], bool] | None = None,
    quiet: bool = False,
    presses: list[int] | None = None,
    lingers: bool = False,
) -> int:
    """Shows `run` until it ends, and returns the exit code of its result.

    Args:
        process: The engine, when this program started it.
        interrupt: Called on the first Ctrl-C to stop the run; None only detaches.
        alive: Whether an engine holds the run on this machine.
        quiet: Shows nothing; for `--json`.
        presses: What `caught` gave, where the caller catches Ctrl-C since before the engine was started.
        lingers: Whether the engine has something to do after the run is done.
    """
    view = View()
    offset = _catch_up(run, view)
    if process is not None:
        view.phase, view.eta_s, view.tokens_per_s = "starting", None, None
    with caught() if presses is None else contextlib.nullcontext(presses) as pressed:
        code = _loop(run, view, offset, process, interrupt, alive, quiet, pressed)
    if code is not None:
        return code
    if process is not None and not lingers:
        with contextlib.suppress(TimeoutExpired):  # so that the next command finds the run free
            process.wait(RELEASE_S)
    result = run.result() or {}
    if not quiet:
        finish(run, view, result)
    return int(result.get("exit_code", LOST))


def _loop(
    run: Run,
    view: View,
    offset: int,
    process: Popen[bytes] | None,
    interrupt: Callable[[], Any] | None,
    alive: Callable[[], bool] | None,
    quiet: bool,
    presses: list[int],
) -> int | None:
    """Reads and draws until there is a result (None) or the view ends before the run does (its exit code)."""
    began = seen_alive = phase_began = time.monotonic()
    handled, told, leaves_at = 0, True, float("inf")
    shown_phase = ""
    patience = 0.0 if process is None and run.state() == "lost" else SILENT_S
    screen = _Screen()
    with contextlib.nullcontext() if quiet else screen:
        if process is None and view.step and not quiet and not screen.live and not (run.path / "result.json").is_file():
            screen.line(standing(view))
            shown_phase = view.phase
        while True:
            ended = (run.path / "result.json").is_file()
            for event, behind in run.events(offset):
                offset = behind
                view.apply(event)
                if view.total is None:
                    view.glance(_status(run))
                if not quiet:
                    _say(screen, view, event)
            view.glance(_status(run))
            now = time.monotonic()
            if view.phase != shown_phase:
                shown_phase, phase_began = view.phase, now
                if not quiet and not screen.live and view.step == 0 and view.phase not in TRAINING and not ended:
                    screen.line(phase_text(view.phase))
            if ended:
                return None
            if len(presses) > handled:
                if interrupt is None:
                    _leave(screen, run, quiet, "the run goes on")
                    return 0
                if not handled:
                    told = False
                    if not quiet:
                        how = screen.paint.dim("  Ctrl-C again leaves at once")
                        screen.line(screen.paint.warn("stopping at the end of this step, saving…") + how)
                handled = len(presses)
                if handled > 1:
                    leaves_at = min(leaves_at, now + TELL_S)
            if not told and interrupt is not None:
                told = interrupt() is not False  # an engine that has not taken the run yet is told at the next look
            if handled > 1 and (told or now >= leaves_at):
                where = "may still be stopping" if told else "could not be told to stop"
                _leave(screen, run, quiet, f"left; the run {where}")
                return 130
            if _engine_is_there(run, process, alive):
                seen_alive = now
            elif now - seen_alive >= patience and now - began >= patience:
                if not quiet:
                    screen.__exit__(None, None, None)
                    _dead(run, view)
                return LOST
            if screen.live and not quiet:
                screen.draw(_region(view, screen, now - phase_began, bool(handled)))
            time.sleep(POLL_S if screen.live or handled else PLAIN_POLL_S)


def _region(view: View, screen: _Screen, since: float, stopping: bool) -> list[str]:
    columns = screen.live.console.width if screen.live else console.PIPE_WIDTH
    paint = screen.paint
    phase = phase_text(view.phase)
    word = paint.warn("stopping") if stopping else phase
    if view.total is None or (view.phase not in TRAINING and view.loss is None):
        return [f"  {word}…  {paint.dim(console.clock(since))}"]
    busy = "" if view.phase in TRAINING and not stopping else f"  {paint.dim('·')} {word}"
    pairs = [f"{paint.dim(name)} {text}" for name, text in figures(view, paint)]
    rows: list[str] = []
    row = "  "
    for pair in pairs:
        if console.visible(row) + console.visible(pair) + 3 > columns and row.strip():
            rows, row = [*rows, row], "  "
        row += pair + "   "
    return [bar(view, columns - console.visible(busy), paint) + busy, *rows, row.rstrip()]


def _say(screen: _Screen, view: View, event: dict[str, Any]) -> None:
    """The lines that stay for one event: warnings, faults and notes everywhere, figures only where nothing is drawn."""
    for kind, what, hint in view.take_notes():
        head = "warning:" if kind == "warning" else ""
        for line in notices.lines(head, what, hint, console.width() or console.PIPE_WIDTH, screen.paint):
            screen.line(line)
    if screen.live:
        return
    if event.get("type") == "log" and (event.get("metrics") or {}).get("loss") is not None:
        screen.line(plain_line(view))
    elif event.get("type") == "eval" and view.eval_loss is not None:
        screen.line(f"step {view.step}/{view.total or '?'}  eval loss {console.number(view.eval_loss)}")


def _catch_up(run: Run, view: View) -> int:
    """Folds what has happened already; returns the offset behind it."""
    offset = 0
    for event, behind in run.events():
        offset = behind
        view.apply(event)
    status = _status(run)
    view.glance(status)
    if view.phase == "starting":
        view.phase = str(status.get("state") or view.phase)
    view.take_notes()
    return offset


def _status(run: Run) -> dict[str, Any]:
    """status.json; empty while it is missing or damaged, which the view survives."""
    return console.outcome(run.status)[0] or {}


def finish(run: Run, view: View, result: dict[str, Any]) -> None:
    """Writes the closing lines of a run that has a result, in a panel on a terminal, and what went wrong."""
    from nothing_tune.recipe.library import shown

    state = str(result.get("state") or "failed")
    path = shown(run.path)
    sys.stdout.flush()
    error = result.get("error")
    if error and (state == "failed" or result.get("exit_code") == REFUSED):
        console.out("")
        sys.stdout.flush()
        problems = [notices.near(from_json(p)) for p in error.get("problems") or []]
        console.show_problems(problems)
        unexpected = int(result.get("exit_code") or 0) in (TuneError.exit_code, RunError.exit_code)
        if (error.get("traceback") and unexpected) or not problems:
            _tail(run)
    if state != "done":
        view.step = max(view.step, run.saved_step())
    lines = closing(called(run), path, state, result, view, console.ink(), saved=has_checkpoint(run))
    columns = console.width()
    if columns is None or max(map(console.visible, lines)) + 4 > columns:
        console.out("", *lines)
        return
    from rich.box import ROUNDED
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    body = Text.from_ansi("\n".join(lines))
    Console(file=sys.stdout, highlight=False, markup=False).print(
        Panel(body, box=ROUNDED, border_style="dim", expand=False, padding=(0, 1))
    )


def has_checkpoint(run: Run) -> bool:
    """Whether the run has a checkpoint that was completed."""
    return next(run.checkpoints.glob("checkpoint-*/COMMIT.json"), None) is not None


def from_json(data: dict[str, Any]) -> Problem:
    """A `Problem` from what `Problem.to_json` gave."""
    from nothing_tune.errors import Place

    place = data.get("place")
    known = {k: data[k] for k in ("what", "key", "layer", "hint", "severity") if data.get(k) is not None}
    return Problem(**{"what": "unknown", **known}, place=Place(**place) if place else None)


def _engine_is_there(run: Run, process: Popen[bytes] | None, alive: Callable[[], bool] | None) -> bool:
    if process is not None and process.poll() is None:
        return True
    if alive is not None and alive():
        return True
    host = run.status().get("host")
    if process is None and host and host != socket.gethostname():
        return run.state() != "lost"
    return False


def _dead(run: Run, view: View) -> None:
    goes_on = "continues at the newest checkpoint" if has_checkpoint(run) else "starts it again: it has no checkpoint"
    step = max(view.step, run.saved_step())
    what = f"the engine of run {run.id} ended without a word, at step {step}"
    console.show_problems([Problem(what, hint=f"tune resume {called(run)} {goes_on}")])
    _tail(run)


def _leave(screen: _Screen, run: Run, quiet: bool, why: str) -> None:
    if not quiet:
        screen.line(f"{why}; look again with: {screen.paint.key(f'tune watch {called(run)}')}")


def _tail(run: Run) -> None:
    """The path of engine.log and its last lines, to stderr."""
    from nothing_tune.recipe.library import shown

    paint = console.ink(sys.stderr)
    path = run.path / "engine.log"
    lines: list[str] = []
    with contextlib.suppress(OSError), open(path, "rb") as handle:
        handle.seek(max(os.path.getsize(path) - 16384, 0))
        lines = handle.read().decode("utf-8", "replace").splitlines()[-LOG_LINES:]
    sys.stderr.write(f"{paint.dim('log:')} {shown(path)}\n")
    sys.stderr.write("".join(f"  {paint.dim(console.printable(line))}\n" for line in lines))


@contextlib.contextmanager
def caught() -> Iterator[list[int]]:
    """Gathers Ctrl-C presses in a list instead of raising; SIGTERM ends the view, not the run."""
    presses: list[int] = []

    def press(signum: int, frame: FrameType | None) -> None:
        presses.append(signum)

    def end(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    try:
        before = {
            signal.SIGINT: signal.signal(signal.SIGINT, press),
            signal.SIGTERM: signal.signal(signal.SIGTERM, end),
        }
    except ValueError:  # not the main thread: a test, a notebook
        yield presses
        return
    try:
        yield presses
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
