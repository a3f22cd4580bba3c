"""`tune chat`: talks to what a run has trained. The engine does the talking, as a job; this file only shows it."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated, Any

import typer

from nothing_tune.cli import console, options
from nothing_tune.cli.jobs import Job
from nothing_tune.errors import UsageError

EXAMPLES = (
    ("tune chat latest", "the newest run; Ctrl-D leaves"),
    ('tune chat latest --prompt "Who are you?"', "one reply, and nothing else"),
    ('tune chat latest --prompt "Who are you?" --base', "what the base model says to it"),
)
EXITS = (0, 2, 4, 5, 71, 130)
MARK = "\u203a"
LIVELY = 0.7
"""Temperature of a conversation; a single answer is greedy, so that it can be repeated."""


def command(
    run_id: options.RunId,
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="TEXT", help="Print the reply to TEXT, and nothing else.")
    ] = None,
    base: Annotated[
        bool, typer.Option("--base", help="Talk to the base model, without the adapter, to compare.")
    ] = False,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="A system message to start with.")
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
    runs_dir: options.RunsDir = None,
) -> None:
    """Starts the chat job, asks `prompt` or what the person types, and ends the job."""
    from nothing_tune.artifacts import find_run, runs_root
    from nothing_tune.launchers import local

    run = find_run(run_id, runs_root(runs_dir))
    if not base and not run.adapter.is_dir():
        raise UsageError(
            f"run {run.id} has nothing to talk to yet: it is {run.state()}",
            hint=f"tune resume {run.id} goes on; --base talks to the base model",
        )
    if temperature is None:
        temperature = 0.0 if prompt is not None else LIVELY
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    process = local.job(["chat", str(run.path), *(["--base"] if base else [])], run.path / "chat.log")
    with Job(process, "the chat", "chat.log in the run directory has the libraries' words") as job:
        talk = Conversation(job, [{"role": "system", "content": system}] if system else [], settings)
        if prompt is None and console.is_terminal() and sys.stdin.isatty():
            console.note(f"loading {'the base model of ' if base else ''}{run.id}…")
        talk.wait_ready()
        if prompt is not None:
            console.out(console.printable(talk.ask(prompt)).rstrip())
        else:
            _converse(talk, "base" if base else "model")


class Conversation:
    """A chat job and the messages so far. `ask` raises the error that the job reports."""

    def __init__(self, job: Job, messages: list[dict[str, str]], settings: dict[str, Any]) -> None:
        self.job = job
        self.messages = messages
        self.settings = settings

    def wait_ready(self) -> None:
        """Returns when the model is loaded."""
        while self.job.read()["type"] != "ready":
            pass

    def ask(self, text: str, on_token: Any = None) -> str:
        """The reply to `text`; `on_token` gets each piece as it comes."""
        self.messages.append({"role": "user", "content": text})
        self.job.send({"messages": self.messages, **self.settings})
        while True:
            event = self.job.read()
            if event["type"] == "token" and on_token:
                on_token(str(event.get("text") or ""))
            elif event["type"] == "done":
                reply = str(event.get("text") or "")
                self.messages.append({"role": "assistant", "content": reply})
                return reply


def _converse(talk: Conversation, who: str) -> None:
    """Asks and answers until the input ends. On a terminal with prompts; otherwise each input line gets one reply line."""
    terminal = console.is_terminal() and sys.stdin.isatty()
    paint = console.ink()
    if terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  arrow keys and history at the prompt
    while True:
        text = _question(terminal, paint)
        if text is None:
            return
        if not text.strip():
            continue
        if not terminal:
            console.out(console.printable(talk.ask(text)).rstrip())
            sys.stdout.flush()
            continue
        sys.stdout.write(f"{paint.key(f'{who} {MARK}')} ")

        def write(piece: str) -> None:
            sys.stdout.write(console.printable(piece))
            sys.stdout.flush()

        sys.stdout.flush()
        talk.ask(text, write)
        sys.stdout.write("\n\n")


def _question(terminal: bool, paint: console.Ink) -> str | None:
    """The next line of the person; None at its end."""
    if not terminal:
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None
    # readline counts what stands between \x01 and \x02 as no columns
    head = f"\x01\x1b[1m\x02you {MARK}\x01\x1b[0m\x02 " if paint.on else f"you {MARK} "
    try:
        return input(head)
    except EOFError:
        sys.stdout.write("\n")
        return None
