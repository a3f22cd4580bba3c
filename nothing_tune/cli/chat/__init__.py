"""`tune chat`: talks to what a run has trained, or to an exported model. The engine does the talking, as a job.

conversation   messages, settings, files
commands       what /words do
screen         how it looks
"""

from __future__ import annotations

import json as jsonlib
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nothing_tune.cli import console, options
from nothing_tune.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from nothing_tune.cli.chat.conversation import Voice
    from nothing_tune.cli.jobs import Job
    from nothing_tune.outputs.subjects import Subject

EXAMPLES = (
    ("tune chat latest", "the newest run; Ctrl-D leaves, /help lists the commands"),
    ('tune chat latest --prompt "Who are you?"', "one reply, and nothing else"),
    ("tune chat latest --beside base", "the run and its base model, side by side"),
    ("tune chat latest --checkpoint best", "the best checkpoint, also of a run that was stopped"),
    ("tune chat model-q4_k_m.gguf", "a GGUF file, through llama.cpp"),
)
EXITS = (0, 2, 4, 5, 71, 74, 130)
LIVELY = 0.7
"""Temperature of a conversation; a single answer is greedy, so that it can be repeated."""
BASE = "base"


def command(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN_ID|DIR|GGUF",
            help="A run's id, the start of one, its path, or `latest`; a folder with a model or an adapter; a GGUF file.",
            autocompletion=options.complete_runs,
            show_default=False,
        ),
    ],
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="TEXT", help="Print the reply to TEXT, and nothing else.")
    ] = None,
    base: Annotated[
        bool, typer.Option("--base", help="Talk to the base model, without the adapter, to compare.")
    ] = False,
    beside: Annotated[
        str | None,
        typer.Option(
            "--beside",
            metavar="NAME",
            help="Have another answer too: base, a run, a folder or a GGUF file; with the same seed.",
        ),
    ] = None,
    checkpoint: options.Checkpoint = None,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT|@FILE", help="A system message to start with.")
    ] = None,
    tools: Annotated[
        str | None,
        typer.Option("--tools", metavar="FILE", help="Functions that the model may call, in OpenAI's JSON."),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Longest reply, in tokens.")
    ] = 256,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            metavar="X",
            min=0.0,
            help="0 always takes the likeliest token, higher is livelier [default: 0 with --prompt, else 0.7].",
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            "--top-p", metavar="X", min=1e-6, max=1.0, help="Sample from the likeliest tokens that make up X."
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k", metavar="N", min=0, help="Sample from the N likeliest tokens [default: as the model says]."
        ),
    ] = None,
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            "--repetition-penalty",
            metavar="X",
            min=0.01,
            help="Above 1 avoids what was said [default: as the model says].",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="The same answers every time.")] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", metavar="TEXT", help="End an answer where it says TEXT; may be given again."),
    ] = None,
    runs_dir: options.RunsDir = None,
    json: Annotated[bool, typer.Option("--json", help="Print each answer as a line of JSON, errors too.")] = False,
) -> None:
    """Starts the chat job, asks `prompt` or what the person types, and ends the job."""
    from nothing_tune.artifacts import runs_root
    from nothing_tune.cli.chat import commands, conversation, screen
    from nothing_tune.outputs import subjects

    screen.check_text(prompt)
    root = runs_root(runs_dir)
    subject = subjects.find(what, root, checkpoint, base)
    other = None if beside in (None, BASE) else subjects.find(str(beside), root)
    terminal = not json and prompt is None and console.is_terminal() and sys.stdin.isatty()
    if temperature is None:
        temperature = 0.0 if prompt is not None else LIVELY
    settings = commands.settings_of({**locals(), "top_p": top_p, "stop": stop or None})
    start = conversation.read_text(system) if system else ""
    functions = conversation.read_tools(tools) if tools else []
    if terminal:
        _greet(subject, other, beside)
    with ExitStack() as stack:
        voices, ready = _voices(stack, subject, other, base, beside)
        if json:
            console.out(jsonlib.dumps({**ready, **subject.to_json(), "name": subject.name, "step": subject.step}))
        talk = conversation.Conversation(voices, settings, start)
        talk.tools = functions
        if prompt is not None:
            screen.one(talk, prompt, json)
        elif not terminal:
            screen.lines(talk, json)
        else:
            _tell_ready(ready)
            screen.converse(talk)


def _voices(
    stack: ExitStack, subject: Subject, other: Subject | None, base: bool, beside: str | None
) -> tuple[list[Voice], dict[str, Any]]:
    """Those who answer, loaded, and what the first one's job says of itself."""
    from nothing_tune.cli.chat.conversation import Voice

    job = stack.enter_context(_job(subject, base))
    ready = _wait(job)
    of = subject.path.name if subject.kind == "gguf" else subject.name
    first = Voice(BASE if base else "model", job, can_leave_off=bool(ready.get("can_leave_off")), of=of)
    if beside is None:
        return [first], ready
    if other is not None:
        second = stack.enter_context(_job(other, False))
        _wait(second)
        first.own_name = BASE if base else subject.name
        return [first, Voice(other.name if other.name != first.name else f"{other.name} (2)", second)], ready
    if base:
        raise UsageError("--base and --beside base are the same model twice", hint="leave one of them out")
    if first.can_leave_off:
        return [first, Voice(BASE, job, base=True)], ready
    second = stack.enter_context(_job(subject, True))
    _wait(second)
    return [first, Voice(BASE, second)], ready


def _job(subject: Subject, base: bool) -> Any:
    """The chat job of a subject; a run keeps its log."""
    from nothing_tune.cli import jobs
    from nothing_tune.launchers import local

    words = ["chat", str(subject.path), *(["--base"] if base else [])]
    if subject.kind != "run":
        return jobs.job(words, "the chat")
    handed_over: Path = subject.path / "adapter"
    if not base and subject.weights is not None and subject.weights != handed_over:
        words += ["--weights", str(subject.weights)]
    hint = "chat.log in the run directory has the libraries' words"
    return jobs.Job(local.job(words, subject.path / "chat.log"), "the chat", hint)


def _wait(job: Job) -> dict[str, Any]:
    """What a job says of itself once its model is loaded."""
    while (event := job.read())["type"] != "ready":
        pass
    return event


def _greet(subject: Subject, other: Subject | None, beside: str | None) -> None:
    """Says at once who will answer."""
    paint = console.ink()
    for one in (subject, *([other] if other else [])):
        step = f", step {one.step:,}" if one.step is not None else ""
        console.out(f"{paint.bold(console.printable(one.name))}{paint.dim(f'{step}: {console.printable(one.words)}')}")
    if beside == BASE:
        console.out(paint.dim("beside its base model"))
    sys.stdout.write(paint.dim("loading…"))
    sys.stdout.flush()


def _tell_ready(ready: dict[str, Any]) -> None:
    paint = console.ink()
    facts = [str(ready.get("device") or ""), str(ready.get("dtype") or "")]
    if ready.get("context"):
        facts.append(f"context of {ready['context']:,} tokens")
    told = ", ".join(f for f in facts if f)
    sys.stdout.write("\r\x1b[K")
    console.out(paint.dim(f"{told}; /help lists the commands, Ctrl-D leaves"), "")
