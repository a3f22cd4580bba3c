"""The page of an export while it grows: what is ahead, each output as it is made and proved, and how it is used."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from nothing_tune.cli import console, notices
from nothing_tune.cli.jobs import Job, job
from nothing_tune.errors import Problem, ProofFailed
from nothing_tune.run.export import Outlook

INTERRUPTED = 130
DRAW_S = 0.1
"""Seconds between two drawings of the line that moves."""
NAME = 14
"""Columns of the names at the left."""
GPUS = 6
"""GPUs that are shown to serve on, the cheapest first."""
MARKS = {True: "ok", False: "no", None: "?"}


def make(found: Outlook, page: Page) -> None:
    """Has the engine make what is ahead; leaves with 7 where a proof failed.

    Raises:
        ProofFailed: An output is not what was trained.
        TuneError: What the engine reports.
    """
    _follow(_request("make", found), page)
    page.close()


def verify(folders: list[Path], json: bool) -> None:
    """Has every output in `folders` proved again.

    Raises:
        ProofFailed: One is not what was trained.
    """
    page = Page(None, json)
    for folder in folders:
        if not json:
            page.line(console.ink().dim(console.near(str(folder))))
        _follow({"do": "verify", "folder": str(folder)}, page)
    page.close()


def listing(found: Outlook, page: Page) -> None:
    """Shows what --push would upload, of what is there already."""
    _follow(_request("list", found), page)


def _request(do: str, found: Outlook) -> dict[str, Any]:
    """What the job is asked: `do` is `make` or `list`."""
    return {
        "do": do, "run": str(found.run.path), "which": found.which, "wanted": found.wanted.to_json(),
        "to": str(found.folder) if found.to else None,
    }  # fmt: skip


def _follow(request: dict[str, Any], page: Page) -> None:
    try:
        with job(["export"], "the export") as running:
            running.send(request)
            page.follow(running)
    except KeyboardInterrupt:
        page.clear()
        if request["do"] == "make":
            console.note("stopped; what is whole is kept, and the same command goes on from there")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        page.clear()


class Page:
    """The page, and what of it a program gets."""

    def __init__(self, found: Outlook | None, json: bool) -> None:
        self.found, self.json = found, json
        self.paint = console.ink()
        self.live = console.is_terminal() and not json
        self.began, self.drawn = time.monotonic(), 0.0
        self.source: dict[str, Any] = {}
        self.outputs: list[dict[str, Any]] = []
        self.warnings: list[dict[str, Any]] = []
        self.usage: list[dict[str, Any]] = []
        self.advice: dict[str, Any] = {}
        self.pushed: list[dict[str, Any]] = []

    def open(self, dry_run: bool = False) -> None:
        """What is ahead: each output and its size, and the room there is."""
        if self.json or self.found is None:
            return
        found = self.found
        said = "dry run: nothing was made" if dry_run else "export"
        self.line(f"{self.paint.bold(str(found.run.id))}  {self.paint.dim(said)}")
        which = {
            "handed-over": "what the run handed over",
            "best": "the best checkpoint",
            "last": "the last checkpoint",
        }
        self.told("weights", which.get(found.which, f"the checkpoint of step {found.which}"))
        self.told("to", console.near(str(found.folder)))
        for one in found.sizes:
            size = "size unknown" if one.bytes is None else f"about {console.size(one.bytes)}"
            is_there, left = one.output in found.there, "" if one.kept else ", on the way; removed at the end"
            self.told(one.output, f"{size}{', is there' if is_there else left}")
            if one.note:
                self.warn(one.note)
        needed = "unknown" if found.needed is None else f"at most {console.size(found.needed)}"
        self.told("disk", f"{needed} while it works; {console.size(found.free)} are free")
        self.line("")

    def follow(self, running: Job) -> None:
        """Shows the job's events until its report."""
        if self.live:
            self._draw("starting the engine…")
        self.show(iter(running.read, None))

    def show(self, events: Iterable[Any]) -> None:
        """Shows events until the report."""
        for event in events:
            kind = event["type"]
            if kind == "report":
                return
            if kind == "source":
                self.source = _without(event)
            elif kind == "progress":
                self._progress(event)
            elif kind == "stage":
                self._draw(f"{event.get('what')}…")
            elif kind == "output":
                self.outputs.append(_without(event))
                self._output(event)
            elif kind == "warning":
                self.warnings.append(_without(event))
                self.warn(str(event.get("what")), str(event.get("hint") or ""))
            elif kind == "usage":
                self.usage.append(_without(event))
            elif kind == "advice":
                self.advice = _without(event)
            elif kind in ("listing", "pushed"):
                self.pushed.append(_without(event))
                self._pushed(event, kind == "listing")

    def close(self) -> None:
        """The last lines: whether it is proved, and how it is used. Raises `ProofFailed` where it is not."""
        wrong = failures(self.outputs)
        if self.json:
            console.out_json(self.document())
            if wrong:
                raise typer.Exit(self.exit_code)
            return
        self.line("")
        if wrong:
            raise ProofFailed(*wrong)
        self.told(*{
            True: ("proved", "what was exported answers as what was trained"),
            None: ("not proved", "not everything could be compared with the run: see the lines with a question mark"),
        }[verdict(self.outputs)], tint=self.paint.ok if verdict(self.outputs) else self.paint.warn)  # fmt: skip
        if effect := next(
            (p["effect"] for p in map(_proof, self.outputs) if isinstance(p.get("effect"), int | float)), None
        ):
            self.told(
                "",
                f"KL is the distance from the run; the training itself moved the base by {_small(effect)}",
                self.paint.dim,
            )
        for use in self.usage:
            self.line(
                f"{self.paint.dim(str(use.get('name')).ljust(NAME))}{self.paint.key(console.near(str(use.get('command'))))}"
            )
        if self.advice:
            head, *rows = self.advice["rows"]
            self.line("")
            self.told("serving on", str(self.advice["note"]))
            for text in console.table(head, rows[:GPUS], right=range(1, len(head)), indent=NAME):
                self.line(f"{' ' * NAME}{text}")

    @property
    def exit_code(self) -> int:
        """7 where a proof failed."""
        return ProofFailed.exit_code if failures(self.outputs) else 0

    def document(self) -> dict[str, Any]:
        """What a program gets."""
        return {
            **({} if self.found is None else self.found.to_json()),
            "source": self.source,
            "outputs": self.outputs,
            "usage": self.usage,
            "serving": self.advice or None,
            "warnings": self.warnings,
            "pushed": self.pushed,
            "proved": verdict(self.outputs),
            "seconds": round(time.monotonic() - self.began, 1),
            "errors": [p.to_json() for p in failures(self.outputs)],
            "exit_code": self.exit_code,
        }

    def line(self, text: str) -> None:
        """One line of the page."""
        self.clear()
        if not self.json:
            console.out(text.rstrip())
            sys.stdout.flush()

    def told(self, name: str, text: str, tint: Any = str) -> None:
        """A line with its name at the left, wrapped."""
        columns = (console.width() or console.PIPE_WIDTH) - NAME - 1
        found = textwrap.wrap(
            notices.clean(text), max(columns, 30), break_on_hyphens=False, break_long_words=False
        ) or [""]
        for number, part in enumerate(found):
            head = self.paint.dim(name.ljust(NAME)) if not number else " " * NAME
            self.line(f"{head}{tint(part)}")

    def warn(self, what: str, hint: str = "") -> None:
        """A warning of the page."""
        if not self.json:
            for text in notices.lines("warning:", what, hint, console.width() or console.PIPE_WIDTH, self.paint):
                self.line(text)

    def clear(self) -> None:
        """Takes the line that is drawn anew away."""
        if self.live:
            sys.stdout.write("\r\x1b[2K")
            sys.stdout.flush()

    def _output(self, event: Mapping[str, Any]) -> None:
        proof = event.get("proof")
        ok = verdict([dict(event)])
        tint = {True: self.paint.ok, False: self.paint.error, None: self.paint.warn}[ok]
        size = console.size(int(event.get("bytes") or 0))
        took = "kept" if event.get("there") else f"{float(event.get('seconds') or 0):.0f} s"
        head = f"{tint(MARKS[ok].ljust(3))} {str(event.get('output')).ljust(NAME - 4)}{size:>10} {self.paint.dim(took.rjust(6))}"
        pad, columns = NAME + 19, (console.width() or console.PIPE_WIDTH) - NAME - 20
        found = textwrap.wrap(proof_words(proof), max(columns, 30), break_on_hyphens=False)
        for number, part in enumerate(found):
            self.line(f"{head}  {part}" if not number else f"{' ' * pad}{part}")
        for warning in _proof(event).get("warnings") or ():
            self.warn(f"{event.get('output')}: {warning.get('what')}", str(warning.get("hint") or ""))

    def _progress(self, event: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if now - self.drawn < DRAW_S:
            return
        self.drawn = now
        done, whole = float(event.get("done") or 0), float(event.get("total") or 0)
        text = f"{event.get('stage') or ''}  "
        if whole:
            full = int(min(max(done / whole, 0.0), 1.0) * 32)
            text += f"{self.paint.key('━' * full)}{self.paint.dim('─' * (32 - full))}  {100 * done / whole:.0f} %"
        self._draw(text)

    def _draw(self, text: str) -> None:
        if self.live:
            sys.stdout.write(f"\r\x1b[2K{console.cut_coloured(text, (console.width() or 80) - 1)}")
            sys.stdout.flush()

    def _pushed(self, event: Mapping[str, Any], dry: bool) -> None:
        if self.json:
            return
        word = "would go to" if dry else "uploaded to"
        files = event.get("files") or []
        whole = sum(int(f.get("size") or 0) for f in files)
        self.told("push", f"{console.plural(len(files), 'file')}, {console.size(whole)}, {word} {event.get('repo')}")
        for one in files if dry else ():
            self.line(
                f"{' ' * NAME}{console.size(int(one.get('size') or 0)):>10}  {console.printable(str(one.get('path')))}"
            )


def proof_words(proof: Any) -> str:
    """What was proved of an output, in one sentence."""
    if not isinstance(proof, dict):
        return "not proved: --no-proof"
    parts = []
    if isinstance(proof.get("kl"), int | float):
        parts.append(f"KL {_small(proof['kl'])}")
    if isinstance(proof.get("top1"), int | float):
        parts.append(f"top-1 {100 * proof['top1']:.1f} %")
    checks = proof.get("checks") or []
    passed = sum(check.get("ok") is True for check in checks)
    unknown = [check for check in checks if check.get("ok") is None and not check.get("mild")]
    parts.append(f"{passed} of {len(checks)} checks")
    if unknown:
        parts.append(f"cannot tell: {', '.join(str(check.get('name')) for check in unknown)}")
    mild = [str(check.get("name")) for check in checks if check.get("ok") is None and check.get("mild")]
    if mild:
        parts.append(f"not looked at: {', '.join(mild)}")
    return ", ".join(parts)


def failures(outputs: list[dict[str, Any]]) -> list[Problem]:
    """One problem for each check that failed, the output named."""
    found = [
        Problem(f"{one.get('output')}: {check.get('what')}")
        for one in outputs
        for check in (one.get("proof") or {}).get("checks") or []
        if check.get("ok") is False
    ]
    cure = "do not use it; docs/proof.md says what each check means; remove its folder, and tune export makes it anew"
    return [*found[:-1], *(replace(last, hint=cure) for last in found[-1:])]


def verdict(outputs: list[dict[str, Any]]) -> bool | None:
    """True when every output is proved, False when one is wrong, None when something could not be told that is not `mild`."""
    found = [one.get("proof") for one in outputs]
    if not found:
        return None
    if any(isinstance(p, dict) and p.get("ok") is False for p in found):
        return False
    whole = all(
        isinstance(p, dict) and p.get("ok") and all(c.get("ok") or c.get("mild") for c in p.get("checks") or [])
        for p in found
    )
    return True if whole else None


def _proof(output: Mapping[str, Any]) -> Mapping[str, Any]:
    found = output.get("proof")
    return found if isinstance(found, dict) else {}


def _small(value: float) -> str:
    return f"{value:.2g}"


def _without(event: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in event.items() if k != "type"}
