"""Shows the export that follows a training which the recipe asked for, as its engine writes it into the run."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

from nothing_tune.artifacts import Run
from nothing_tune.cli import console
from nothing_tune.cli.export.making import INTERRUPTED, Page
from nothing_tune.cli.jobs import error_of
from nothing_tune.errors import ProofFailed, RunError

POLL_S = 0.1


def wanted(run: Run) -> bool:
    """Whether the run's recipe asks for exports when it is done."""
    from nothing_tune.outputs import Wanted

    return bool(Wanted.of(run.plan().get("values") or {}))


def follow(run: Run, process: Popen[bytes], quiet: bool) -> tuple[int, dict[str, Any]]:
    """Shows the export until its end; `(exit code, its outcome as plain data)`. Ctrl-C ends the export, and leaves.

    Raises:
        ProofFailed: An output is not what was trained.
        TuneError: What the export reports.
    """
    page = Page(None, quiet)
    if not quiet:
        console.out("")
        page.line(console.ink().dim("exporting what was asked for"))
    try:
        page.show(_events(run, process))
    except KeyboardInterrupt:
        page.clear()
        process.send_signal(signal.SIGINT)
        console.note(f"stopped; what is whole is kept, and tune export {run.id} goes on from there")
        return INTERRUPTED, page.document()
    finally:
        page.clear()
    if quiet:
        return page.exit_code, page.document()
    page.close()
    return 0, page.document()


def _events(run: Run, process: Popen[bytes]) -> Iterator[dict[str, Any]]:
    """What the job writes into exports/events.jsonl, until its end. Raises what it reports as error."""
    path, offset = run.path / "exports" / "events.jsonl", 0
    while True:
        gone = process.poll() is not None
        if path.is_file() and (gone or not _is_older(path, run.path / "result.json")):
            with open(path, "rb") as handle:
                handle.seek(offset)
                for line in handle:
                    if not line.endswith(b"\n"):
                        break
                    offset += len(line)
                    event = json.loads(line)
                    if event.get("type") == "error":
                        raise error_of(event, "the export", "engine.log in the run directory has the libraries' words")
                    if event.get("type") == "end":
                        if event.get("exit_code") not in (0, ProofFailed.exit_code):
                            raise RunError(
                                f"the export failed with exit code {event.get('exit_code')}",
                                hint=f"engine.log of the run says why; tune export {run.id} tries again",
                            )
                        return
                    yield event
        if gone:
            raise RunError(
                "the export ended without a word", hint=f"tune export {run.id} goes on; engine.log says more"
            )
        time.sleep(POLL_S)


def _is_older(path: Path, other: Path) -> bool:
    """Whether a file was last written before another one: what is told there belongs to an earlier end of the run."""
    return other.is_file() and path.stat().st_mtime_ns < other.stat().st_mtime_ns
