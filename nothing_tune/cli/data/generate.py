"""`tune data generate`: a generator answers prompts, another model is trained on the answers. The engine asks, as a job."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import suppress
from subprocess import TimeoutExpired
from typing import Annotated, Any

import typer

from nothing_tune.cli import console, options
from nothing_tune.cli.console import Ink, plural
from nothing_tune.cli.data.drawing import bar, columns, count, one_line, pad, wide
from nothing_tune.errors import Problem, UsageError

HELP = "Has a generator answer the prompts of a recipe, and writes the rows that another model is trained on."
EXAMPLES = (
    (
        "tune data generate marco generate.prompts=samples/marco.prompts.jsonl --dry-run",
        "what would be asked of whom, its tokens and its cost; of the sample of prompts that ships",
    ),
    ("tune data generate marco --limit 20", "twenty answers, to read before the rest is paid for"),
    ("tune data generate marco", "all of them; the same command goes on where it was stopped"),
    (
        "tune data generate marco generate.generator.kind=openai generate.generator.base_url=http://localhost:11434/v1 "
        "generate.generator.model=qwen2.5:3b",
        "with a server that runs here: vLLM, Ollama, llama.cpp",
    ),
)
EXITS = (0, 2, 4, 5, 71, 74, 77, 130)
DRAW_S = 0.1
"""Seconds between two drawings of the progress line."""
PLAIN_S = 10.0
"""Seconds between two lines of progress where nothing can be drawn."""
BAR = 24
"""Columns of the progress bar; a third of them where the terminal is narrow."""
PHASES = {
    "reading": "reading the prompts",
    "filtering": "looking at the answers that are there",
    "loading": "loading the generator",
    "asking": "asking",
    "writing": "writing the rows",
}
REASONS = {
    "empty": "no text",
    "unfinished": "cut by max_new_tokens",
    "short": "too short",
    "long": "too long",
    "artefact": "leftovers of a template, or loops",
    "refusal": "refusals",
    "language": "another language",
    "opening": "openings that repeat",
    "near_duplicate": "near duplicates",
}
"""What a report counts in `rejected` -> what the page says."""
LEAST_RATED = 3
"""Answers from which a rate is told."""


def generate(
    words: options.Words = None,
    gpu: options.Gpu = None,
    scenario: options.Scenario = None,
    with_: options.With = None,
    unset: options.Unset = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", metavar="N", min=0, help="Ask at most N prompts this time; 0 only writes what is there."
        ),
    ] = None,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Ask again, too, what the endpoint refused for good; passing faults always."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be asked, and ask nothing.")] = False,
    json: options.Json = False,
) -> None:
    """Reads the recipe, has the engine ask, shows how it goes, and what came of it."""
    from nothing_tune.cli.jobs import job
    from nothing_tune.plan.generation import generation
    from nothing_tune.run import no_prompts

    name, overrides = options.split_words(words)
    if name is None:
        raise UsageError("which recipe? none is named", hint="tune data generate marco; its section generate says all")
    recipe = options.load(name, gpu=gpu, scenario=scenario, with_=with_, overrides=overrides, unset=unset)
    wanted = generation(recipe)
    if lacking := no_prompts(recipe):
        raise UsageError(*lacking)
    if not json:
        console.show_problems(p for p in recipe.advice if p.key.startswith("generate"))
    request = {
        "generation": wanted.to_json(),
        "limit": limit,
        "retry_failed": retry_failed,
        "dry_run": dry_run,
        "command": "tune data generate " + " ".join(words or ()),
    }
    view = Progress(quiet=json or dry_run)
    with job(["generate"], "the generation") as running:
        running.send(request)
        with interrupts(running.process, view):
            try:
                event = running.read()
                while event["type"] not in ("report", "estimate"):
                    view.event(event, json)
                    event = running.read()
            finally:
                view.clear()
            if event["type"] == "report":
                with suppress(TimeoutExpired):  # it has only to end: what it made is whole
                    running.process.wait(5)
    if json:
        console.out_json(event.get("report") or {k: v for k, v in event.items() if k != "type"})
    elif event["type"] == "estimate":
        console.out(*estimate_lines(event, wanted.name, console.ink()))
    else:
        console.out(*report_lines(event["report"], wanted.name, columns(), console.ink()))


class interrupts:  # noqa: N801 - reads as a word of the `with` line
    """Passes Ctrl-C on to the job, which stops in order; a second one ends it at once."""

    def __init__(self, process: Any, view: Progress) -> None:
        self.process = process
        self.view = view
        self.presses = 0
        self.before: Any = None

    def __enter__(self) -> None:
        """Catches Ctrl-C from now on."""
        with suppress(ValueError):  # not the main thread: a test
            self.before = signal.signal(signal.SIGINT, self._press)

    def __exit__(self, *details: object) -> None:
        """Gives Ctrl-C back."""
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)

    def _press(self, number: int, frame: Any) -> None:
        self.presses += 1
        if self.presses > 1:
            raise KeyboardInterrupt
        self.view.stopping = True
        with suppress(OSError):
            self.process.send_signal(signal.SIGINT)


class Progress:
    """A line that is drawn anew on a terminal, and a plain line now and then elsewhere; nothing where it is quiet."""

    def __init__(self, quiet: bool = False) -> None:
        self.on = console.is_terminal() and not quiet
        self.quiet = quiet
        self.stopping = False
        self.phase = "reading"
        self.said = 0.0
        self.drawn = 0.0

    def event(self, event: dict[str, Any], json: bool = False) -> None:
        """Shows one event of the job."""
        if event["type"] == "note" and not json:
            self.clear()
            note = Problem(str(event.get("what")), hint=str(event.get("hint") or ""), severity="advice")
            sys.stdout.flush()
            console.show_problems([note])
        elif event["type"] == "phase":
            self.phase, kept = str(event.get("phase")), int(event.get("kept") or 0)
            if kept and not self.quiet:
                self.clear()
                console.note(
                    f"{plural(kept, 'answer')} {'is' if kept == 1 else 'are'} there already and not asked for again"
                )
            if self.on:
                self._write(f"  {console.ink().dim(PHASES.get(self.phase, self.phase) + '…')}")
        elif event["type"] == "progress":
            self.progress(event)

    def progress(self, event: dict[str, Any]) -> None:
        """Draws or writes how far it is."""
        now = time.monotonic()
        if self.quiet:
            return
        if self.on:
            if now - self.drawn >= DRAW_S:
                self.drawn = now
                self._write(progress_text(event, console.width() or 80, console.ink(), self.stopping))
        elif now - self.said >= PLAIN_S or event["asked"] >= event["total"]:
            self.said = now
            console.out(plain_text(event))
            sys.stdout.flush()

    def clear(self) -> None:
        """Takes the line away."""
        if self.on:
            self._write("")

    def _write(self, text: str) -> None:
        sys.stdout.write(f"\r\x1b[2K{console.cut_coloured(text, (console.width() or 80) - 1)}")
        sys.stdout.flush()


def figures(event: dict[str, Any]) -> list[str]:
    """`1,204 of 3,000 asked`, `2.1/s`, `410,000 tokens`, `$0.12`, `0:12:01 left`: what is known of it."""
    asked, total, seconds = int(event["asked"]), int(event["total"]), float(event["seconds"])
    out = [f"{count(asked)} of {count(total)} asked"]
    rate = asked / seconds if asked >= LEAST_RATED and seconds > 0 else None
    if rate:
        out.append(f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min")
    tokens = int(event["tokens_in"]) + int(event["tokens_out"])
    if tokens:
        out.append(plural(tokens, "token"))
    if event.get("cost_usd") is not None:
        out.append(dollars(event["cost_usd"]))
    if event["rejected"]:
        out.append(f"{count(event['rejected'])} rejected")
    if event["failed"]:
        out.append(f"{count(event['failed'])} failed")
    if rate and total > asked:
        out.append(f"{console.clock((total - asked) / rate)} left")
    return out


def progress_text(event: dict[str, Any], room: int, paint: Ink, stopping: bool = False) -> str:
    """The line on a terminal: `━━━━╸────  1,204 of 3,000 asked · 2.1/s · ...`."""
    share = min(event["asked"] / event["total"], 1.0) if event["total"] else 0.0
    text = " · ".join(figures(event))
    length = BAR if room - len(text) - 6 >= BAR else BAR // 3
    full = int(share * length)
    head = f"  {paint.key('━' * full)}{paint.dim('─' * (length - full))}  "
    if stopping:
        return f"{head}{paint.warn('stopping')}{paint.dim(', waiting for answers on their way; Ctrl-C again leaves at once')}"
    return head + paint.dim(text)


def plain_text(event: dict[str, Any]) -> str:
    """The line elsewhere."""
    return ", ".join(figures(event))


def dollars(amount: float | None) -> str:
    """`$0.0042`, `$1.20`; `unknown` where no price is."""
    if amount is None:
        return "unknown"
    return f"${amount:.2f}" if amount >= 0.1 or amount == 0 else f"${amount:.4f}"


def estimate_lines(event: dict[str, Any], name: str, paint: Ink) -> list[str]:
    """What a dry run says: per group what would be asked, then tokens and cost."""
    by = str(event.get("group_by") or "group")
    cells = []
    for group, found in event["groups"].items():
        lacking = found["lacking"]
        cells.append(
            (
                group or "all",
                count(found["prompts"]),
                count(found["authentic"]),
                count(found["taken"]),
                count(found["asked"]),
                "-" if found["target"] is None else count(found["target"]),
                f"{count(lacking)} short" if lacking else "",
            )
        )
    heads = [by, "prompts", "authentic", "taken", "to ask", "target", ""]
    about = "about" if event["measured"] and event["asked"] else "at most about"
    out = [
        f"{paint.bold(name)}  {paint.dim('dry run: nothing is asked')}",
        f"  {paint.dim('generator')}  {event['generator']}",
        f"  {paint.dim('output')}     {console.near(str(event['output']))}",
        "",
        *console.table(
            heads, cells, right=(1, 2, 3, 4, 5), paint=lambda i, cell, padded: paint.warn(padded) if i == 6 else padded
        ),
        "",
        f"{plural(event['asked'], 'question')} would be asked: about {plural(event['tokens_in'], 'token')} in, "
        f"{about} {plural(event['tokens_out'], 'token')} out",
    ]
    if event["cost_usd"] is not None:
        out.append(f"cost: {about} {dollars(event['cost_usd'])}")
    elif event["asked"]:
        out.append(
            paint.dim("cost: unknown; generate.generator.usd_per_million_input_tokens and ..._output_tokens tell it")
        )
    short = [g or "all" for g, found in event["groups"].items() if found["lacking"]]
    if short:
        out.append(paint.warn(f"too few prompts for the target of {', '.join(short)}"))
    return out


def report_lines(report: dict[str, Any], name: str, room: int, paint: Ink) -> list[str]:
    """What was made, as in the composition of the source: total, authentic, generated, groups; then what was left out, and the cost."""
    total = report["total"]
    out = [
        f"{paint.bold(name)}  {plural(total, 'row')} in {console.near(report['output'])}",
        f"  {paint.dim('authentic')}  {_part(report['authentic'])}",
        f"  {paint.dim('generated')}  {_part(report['generated'])}  {paint.dim('by ' + console.printable(report['generator']))}",
    ]
    groups = report["groups"]
    if report["group_by"] and groups:
        out += ["", paint.dim(report["group_by"]), *_groups(groups, room, paint)]
    if report["rejected"]:
        rejected = sum(report["rejected"].values())
        out += ["", f"{plural(rejected, 'answer')} not taken"]
        left = max(len(REASONS.get(r, r)) for r in report["rejected"])
        for reason, number in report["rejected"].items():
            out.append(f"  {REASONS.get(reason, reason).ljust(left)}  {count(number)}")
            for example in report["examples"].get(reason, [])[:1]:
                text = one_line(f"{example['why']}: {example['answer']}", max(room - 6, 20))
                out.append(f"    {paint.dim(text)}")
    failed = report["failed"]
    if failed["rows"]:
        out += ["", paint.warn(f"{plural(failed['rows'], 'prompt')} without an answer, for a fault")]
        out += [f"  {console.near(place)}: {console.printable(why)}" for place, why in failed["examples"]]
        out.append(paint.dim("  the same command asks them again; with --retry-failed also what was refused for good"))
    lacking = [f"{g or 'all'} {count(found['lacking'])}" for g, found in groups.items() if found["lacking"]]
    if lacking:
        unasked = any(found["lacking"] and found["unasked"] for found in groups.values())
        why = "the same command goes on" if unasked else "the prompts ran out: add some, or lower the target"
        out += ["", paint.warn(f"missing to the target: {', '.join(lacking)}") + paint.dim(f"; {why}")]
    elif report["limit"] is not None and any(found["unasked"] for found in groups.values()):
        out += ["", paint.dim("more prompts wait: the same command without --limit asks them")]
    tokens, now = report["tokens"], report["this_time"]
    out += [
        "",
        f"{paint.dim('asked')}   {plural(report['asked'], 'prompt')} this time, {_tokens(now)}",
        f"{paint.dim('in all')}  {_tokens(tokens)}",
    ]
    if report["other_settings"]:
        out.append(
            paint.dim(
                f"{plural(report['other_settings'], 'answer')} to other prompts or with other settings "
                f"{'is' if report['other_settings'] == 1 else 'are'} kept and not used"
            )
        )
    return out


def _part(part: dict[str, Any]) -> str:
    return f"{count(part['rows'])} ({_percent(part['share'])})"


def _percent(share: float) -> str:
    """One place always: the parts of a whole are added up by eye."""
    return f"{share * 100:.1f} %"


def _tokens(part: dict[str, Any]) -> str:
    text = f"{plural(part['in'], 'token')} in, {count(part['out'])} out"
    return text if part["cost_usd"] is None else f"{text}, {dollars(part['cost_usd'])}"


def _groups(groups: dict[str, Any], room: int, paint: Ink) -> list[str]:
    left = min(max(wide(name) for name in groups), 24)
    right = max(len(count(found["rows"])) for found in groups.values())
    length = max(min(room - left - right - 40, 32), 8)
    most = max((found["rows"] for found in groups.values()), default=0) or 1
    out = []
    for name, found in groups.items():
        drawn = bar(found["rows"] / most, length)
        facts = f"{_percent(found['share']).rjust(7)}"
        if found["target"] is not None:
            facts += f"  of {count(found['target'])}"
        line = f"  {pad(console.printable(name), left)}  {paint.key(drawn)}{' ' * (length - len(drawn))}  "
        out.append(line + f"{count(found['rows']).rjust(right)}  {paint.dim(facts)}")
    return out
