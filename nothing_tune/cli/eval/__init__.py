"""`tune eval`: measures a run, beside its base model, on rows and tasks. The engine measures, as a job; this file asks and shows."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from nothing_tune.cli import console, notices, options
from nothing_tune.errors import UsageError

EXAMPLES = (
    ("tune eval latest", "the rows that the run held out, beside its base model"),
    ("tune eval latest --data test.jsonl --group-by level", "rows of yours, by the values of a column"),
    ("tune eval latest --checkpoint 200 --no-generate", "a checkpoint, and its loss alone"),
    ("tune eval latest --tasks hellaswag --tasks mine.yaml --rows 200", "tasks of the lm-evaluation-harness"),
    (
        "tune eval latest --judge pairwise --endpoint http://localhost:8000/v1 --judge-model ORG/NAME",
        "another model compares the answers",
    ),
)
EXITS = (0, 2, 4, 5, 71, 74, 77, 130)
KEY = "OPENAI_API_KEY"
DRAW_S = 0.1
"""Seconds between two drawings of the progress line."""
BAR = 24
INTERRUPTED = 130


def complete_judges(incomplete: str) -> list[str]:
    """Judges of the library and YAML files."""
    return [*options.complete_library("judges")(incomplete), *options._files(incomplete, (".yaml", ".yml"))]


def command(
    run_id: options.RunId,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="SOURCE",
            help="Rows to measure on: a file, a folder, a pattern, a hub id; may be given again "
            "[default: the rows that the run held out].",
            autocompletion=options.complete_data,
        ),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks",
            metavar="NAME",
            help="A task of the lm-evaluation-harness, or a YAML file of one; may be given again.",
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option("--rows", metavar="N", min=1, help="Measure on N rows, drawn by chance [default: on all]."),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", metavar="best|last|N", help="A checkpoint [default: what the run handed over]."),
    ] = None,
    base: Annotated[bool, typer.Option("--base/--no-base", help="Measure the base model on the same rows.")] = True,
    generate: Annotated[
        bool, typer.Option("--generate/--no-generate", help="Generate answers and measure them, too.")
    ] = True,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens", metavar="N", min=1, help="Longest answer, in tokens [default: as the references are]."
        ),
    ] = None,
    seen: Annotated[
        bool, typer.Option("--seen", help="Measure on rows that the run was trained on all the same.")
    ] = False,
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge",
            metavar="NAME",
            help="Have another model judge the answers: pairwise, score, or a YAML file of your own.",
            autocompletion=complete_judges,
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint", metavar="URL", help="Address of the judge, OpenAI-compatible: http://localhost:8000/v1."
        ),
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option("--judge-model", metavar="NAME", help="The judge's model, as its endpoint calls it.")
    ] = None,
    judge_key_env: Annotated[
        str, typer.Option("--judge-key-env", metavar="NAME", help="Environment variable with the judge's key.")
    ] = KEY,
    concurrency: Annotated[
        int, typer.Option("--concurrency", metavar="N", min=1, help="Questions that the judge gets at once.")
    ] = 8,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="base|RUN",
            help="Whose answers the judge compares with [default: base].",
            autocompletion=options.complete_runs,
        ),
    ] = None,
    group_by: Annotated[
        str | None, typer.Option("--group-by", metavar="COLUMN", help="Figures for each value of a column of the rows.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", help="What the evaluation is called [default: made of the data's name]."
        ),
    ] = None,
    runs_dir: options.RunsDir = None,
    json: options.Json = False,
) -> None:
    """Asks the engine to measure, shows what it found, and says where that lies."""
    from nothing_tune.artifacts import find_run, runs_root
    from nothing_tune.cli.eval import page
    from nothing_tune.outputs import evaluation as record

    root = runs_root(runs_dir)
    run = find_run(run_id, root)
    if name is not None:
        record.check_name(name)
    where = _judge(judge, endpoint, judge_model, judge_key_env, concurrency, against)
    request: dict[str, Any] = {
        "run": str(run.path), "which": checkpoint or "handed-over", "data": [_absolute(d) for d in data or ()] or None,
        "tasks": _tasks(tasks), "rows": rows, "base": base, "generate": generate, "max_new_tokens": max_new_tokens,
        "seen": seen, "group_by": group_by or "", "name": name,
        "against": against if against in (None, "base") else str(find_run(against, root).path), **where,
    }  # fmt: skip
    report = _measured(request, json)
    found = record.Evaluation.from_json(report["evaluation"])
    if json:
        console.out_json({"path": report["path"], **report["evaluation"]})
    else:
        console.out(*page.lines(found, str(report["path"]), console.width() or console.PIPE_WIDTH, console.ink()))


def _judge(
    judge: str | None, endpoint: str | None, model: str | None, key: str, concurrency: int, against: str | None
) -> dict[str, Any]:
    """The part of the request that concerns a judge. `UsageError` where half of it is given."""
    from nothing_tune.recipe.judges import find_judge

    if judge is None:
        extra = [o for o, v in (("--endpoint", endpoint), ("--judge-model", model), ("--against", against)) if v]
        if extra:
            raise UsageError(f"{extra[0]} is given without --judge", hint="add --judge pairwise or --judge score")
        return {"judge": None, "endpoint": None}
    found = find_judge(judge)
    lacking = [o for o, v in (("--endpoint", endpoint), ("--judge-model", model)) if not v]
    if lacking:
        raise UsageError(
            f"--judge needs {' and '.join(lacking)}",
            hint="--endpoint http://localhost:8000/v1 --judge-model NAME; docs/evaluation.md has the usual servers",
        )
    assert endpoint is not None
    if not endpoint.startswith(("http://", "https://")):
        raise UsageError(
            f"{endpoint} is no address", hint="an address begins with http:// or https:// and usually ends in /v1"
        )
    asked = {"base_url": endpoint.rstrip("/"), "model": model, "api_key_env": key, "concurrency": concurrency}
    return {"judge": found.to_json(), "endpoint": asked}


def _absolute(name: str) -> str:
    """A file's name as the engine finds it, wherever it runs; a hub id stays."""
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name


def _tasks(names: Sequence[str] | None) -> list[str]:
    """Names of tasks, also where several stand in one word with commas."""
    found = [part for name in names or () for part in name.split(",") if part]
    return [_absolute(n) if n.endswith((".yaml", ".yml")) else n for n in found]


def _measured(request: Mapping[str, Any], quiet: bool) -> dict[str, Any]:
    """The event `report` of the job; draws its progress on a terminal. Raises what the job reports as error."""

    def call() -> dict[str, Any]:
        from nothing_tune.cli.jobs import job

        line = _Line(quiet)
        with job(["evaluate"], "the evaluation") as running:
            running.send(request)
            try:
                while (event := running.read())["type"] != "report":
                    line.tell(event)
            finally:
                line.clear()
        return event

    try:
        found, error = console.outcome(call)
    except KeyboardInterrupt:
        console.note(
            "stopped; nothing was written" + (", but the judge's verdicts are kept" if request["judge"] else "")
        )
        raise typer.Exit(INTERRUPTED) from None
    if error is not None:
        raise error if quiet else type(error)(*map(notices.near, error.problems)) from error
    assert found is not None
    return found


class _Line:
    """One line that is drawn anew on a terminal; notes and warnings go to stderr."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.on = console.is_terminal() and not quiet
        self.drawn = 0.0
        self.stage = ""
        if self.on:
            self._write(f"  {console.ink().dim('starting the engine…')}")

    def tell(self, event: Mapping[str, Any]) -> None:
        """Shows an event of the job."""
        if event["type"] == "progress":
            self._progress(event)
        elif event["type"] in ("note", "warning", "cost"):
            if self.on:
                self._write("")
            said = _cost(event) if event["type"] == "cost" else str(event.get("what") or "")
            if said and not self.quiet:
                hint = f"; {event['hint']}" if event.get("hint") else ""
                mark = "warning: " if event["type"] == "warning" else ""
                console.note(f"{mark}{console.printable(console.near(said))}{hint}")

    def clear(self) -> None:
        """Takes the line away."""
        if self.on:
            self._write("")
            self.on = False

    def _progress(self, event: Mapping[str, Any]) -> None:
        now, stage = time.monotonic(), str(event.get("stage") or "")
        if not self.on or (stage == self.stage and now - self.drawn < DRAW_S):
            return
        self.drawn, self.stage = now, stage
        paint, done, total = console.ink(), int(event.get("done") or 0), int(event.get("total") or 0)
        text = f"  {console.printable(stage)}  "
        if total:
            full = int(min(done / total, 1.0) * BAR)
            text += f"{paint.key('━' * full)}{paint.dim('─' * (BAR - full))}  "
            text += paint.dim(f"{done:,} of {total:,} {event.get('unit') or 'rows'}")
        elif done:
            text += paint.dim(f"{done:,} {event.get('unit') or 'rows'}")
        self._write(text)

    def _write(self, text: str) -> None:
        sys.stdout.write(f"\r\x1b[2K{console.cut_coloured(text, (console.width() or 80) - 1)}")
        sys.stdout.flush()


def _cost(event: Mapping[str, Any]) -> str:
    """What a judge costs, in tokens."""
    if event.get("when") == "before":
        count, kept = int(event.get("questions") or 0), int(event.get("kept") or 0)
        before = f"; {kept:,} are answered already" if kept else ""
        return (
            f"the judge is asked {console.plural(count, 'question')}: about {int(event.get('tokens_in') or 0):,} tokens in, "
            f"at most {int(event.get('tokens_out') or 0):,} out{before}"
        )
    return (
        f"the judge read {int(event.get('tokens_in') or 0):,} tokens and wrote {int(event.get('tokens_out') or 0):,} "
        f"for {console.plural(int(event.get('asked') or 0), 'question')}"
    )
