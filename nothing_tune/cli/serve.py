"""`tune serve`: an OpenAI-compatible endpoint for a run or a model, by a server that exists already, watched until it ends."""

from __future__ import annotations

import contextlib
import json as jsonlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nothing_tune.cli import console, options
from nothing_tune.errors import LaunchError, RunError, StorageError, UsageError

if TYPE_CHECKING:
    from nothing_tune.outputs.subjects import Subject
    from nothing_tune.run.serve import Server

EXAMPLES = (
    ("tune serve latest", "the newest run on http://127.0.0.1:8000/v1"),
    ("tune serve model-q4_k_m.gguf --port 9000", "a GGUF file, by llama.cpp"),
    ("tune serve latest --dry-run", "which server, and its command"),
)
EXITS = (0, 2, 4, 5, 74, 130)
POLL_S = 0.25
"""Seconds between two looks whether the server answers."""
END_S = 10.0
"""Longest wait, in seconds, for a server that was told to end; then it and its children are killed."""
TAIL = 12
"""Lines of the log that are shown when the server dies."""


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
    server: Annotated[
        str,
        typer.Option("--server", metavar="NAME", help="auto, transformers, vllm or llama.cpp."),
    ] = "auto",
    host: Annotated[
        str, typer.Option("--host", metavar="HOST", help="Where it listens; 0.0.0.0 for everyone who can reach it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", min=1, max=65535, help="The port.")] = 8000,
    model_name: Annotated[
        str | None, typer.Option("--model-name", metavar="NAME", help="What clients call it [default: the run's id].")
    ] = None,
    checkpoint: options.Checkpoint = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the command, and start nothing.")] = False,
    runs_dir: options.RunsDir = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON when it answers; errors as JSON as well.")
    ] = False,
) -> None:
    """Chooses a server, prepares what it loads, starts it, and stays until it ends."""
    from nothing_tune.artifacts import runs_root
    from nothing_tune.discovery import find_gpu
    from nothing_tune.outputs import subjects
    from nothing_tune.run import serve

    subject = subjects.find(what, runs_root(runs_dir), checkpoint)
    gpu = find_gpu() is not None
    chosen = serve.choose(subject, server, gpu)
    name = serve.model_name(subject, model_name)
    if not dry_run:
        _refuse_taken(host, port)
    if not json:
        paint = console.ink()
        step = f", step {subject.step:,}" if subject.step is not None else ""
        console.out(
            f"{paint.bold(console.printable(subject.name))}{paint.dim(f'{step}: {console.printable(subject.words)}')}"
        )
        sys.stdout.flush()
    with _folder() as folder, _ended_by_signals():
        if subject.kind == "gguf":
            made = serve.llama_cpp(subject.path, name, host, port, gpu)
        else:
            light = dry_run and chosen == "transformers"  # its command names no file of the adapter
            laid = serve.planned(subject) if light else _lay_out(subject, folder, name, quiet=json)
            made = serve.plan_of(chosen, laid, folder, name, host, port, _gpu_facts() if gpu else {})
        if dry_run:
            _show_command(made, json)
            return
        _serve(made, _log(subject), json)


def _gpu_facts() -> dict[str, Any]:
    """Facts of this machine's GPU, as a recipe's `gpu` section."""
    from nothing_tune.outputs import vllm
    from nothing_tune.recipe.machine import this_machine

    found = this_machine()
    return {**vllm.gpu(str(found["name"])), **found["facts"]}


def _refuse_taken(host: str, port: int) -> None:
    """`UsageError` where something listens on the port already, or the host is none of this machine's."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        taken = "in use" in str(error.strerror)
        raise UsageError(
            f"port {port} of {host} is taken" if taken else f"cannot listen on {host}, port {port}: {error.strerror}",
            hint=f"--port {port + 1 if port < 65535 else port - 1} is another one"
            if taken
            else "name another --host or --port",
        ) from error


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder for links and small files, removed at the end."""
    try:
        made = Path(tempfile.mkdtemp(prefix="tune-serve-"))
    except OSError as error:
        raise StorageError(
            f"cannot write to {tempfile.gettempdir()}: {error.strerror}", hint="free some space, or set TMPDIR"
        ) from error
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _log(subject: Subject) -> Path:
    """Where the server's words go: into the run, else into a temporary file that stays."""
    if subject.kind == "run":
        return subject.path / "serve.log"
    handle, path = tempfile.mkstemp(prefix="tune-serve-", suffix=".log")
    os.close(handle)
    return Path(path)


def _lay_out(subject: Subject, folder: Path, name: str, quiet: bool) -> dict[str, Any]:
    """What the engine laid out in `folder`."""
    from nothing_tune.cli import jobs

    if not quiet:
        console.note("preparing the model's folder…")
    with jobs.job(["serve"], "preparing the model's folder") as job:
        job.send({**subject.to_json(), "folder": str(folder), "name": name})
        while (event := job.read())["type"] != "laid out":
            pass
    return event


def _show_command(made: Server, as_json: bool) -> None:
    if as_json:
        facts = {
            "server": made.name,
            "command": list(made.command),
            "env": made.env,
            "url": made.url,
            "model": made.model,
        }
        console.out(jsonlib.dumps({"type": "dry run", **facts}))
        return
    words = " ".join([*(f"{k}={shlex.quote(v)}" for k, v in made.env.items()), *map(shlex.quote, made.command)])
    console.out(*_rows(made), "", words)
    if made.folder:
        console.out("", console.ink().dim(f"{made.folder} is made when it starts, and lasts as long as it serves"))


def _rows(made: Server, log: Path | None = None) -> list[str]:
    paint = console.ink()
    said = "what clients may call it: any name will do" if made.name == "llama.cpp" else "what requests must name"
    named = f"{made.model}{paint.dim(f'  {said}')}"
    rows = [("server", made.name), ("url", made.url), ("model", named)]
    rows += [("log", str(log))] if log else []
    rows += [("note", note) for note in made.notes]
    return [f"  {paint.dim(label.ljust(8))}{text}" for label, text in rows]


def _serve(made: Server, log: Path, as_json: bool) -> None:
    """Starts the server, says when it answers, and stays until it ends or Ctrl-C ends it."""
    process = _start(made, log)
    ready = False
    try:
        if not as_json:
            console.note(f"{made.name} is loading the model…")
        _wait_healthy(process, made, log)
        ready = True
        if as_json:
            facts = {"url": made.url, "model": made.model, "server": made.name, "pid": process.pid, "log": str(log)}
            console.out(jsonlib.dumps({"type": "serving", **facts}))
        else:
            console.out(*_rows(made, log), "", *_how_to_ask(made), "", console.ink().dim("Ctrl-C ends it"))
        sys.stdout.flush()
        code = process.wait()
    except KeyboardInterrupt:
        if not as_json:
            console.note("ended" if ready else "ended before it answered")
        raise typer.Exit(0 if ready else 130) from None
    finally:
        _end(process)
    raise _died(made, code, log)


def _start(made: Server, log: Path) -> subprocess.Popen[bytes]:
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    except OSError as error:
        hint = "free some space or mend the permissions"
        raise StorageError(f"cannot write {log}: {error.strerror}", hint=hint) from error
    try:
        return subprocess.Popen(
            made.command, cwd=made.folder, env={**os.environ, **made.env, "PYTHONUNBUFFERED": "1"}, stdin=subprocess.DEVNULL,
            stdout=handle, stderr=handle, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        hint = "--dry-run shows the command"
        raise LaunchError(f"cannot start {made.command[0]}: {error.strerror}", hint=hint) from error
    finally:
        os.close(handle)


def _wait_healthy(process: subprocess.Popen[bytes], made: Server, log: Path) -> None:
    """Returns when the server answers; raises when it ends before."""
    import urllib.request

    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    )  # this machine is asked, whatever proxy there is
    while True:
        if (code := process.poll()) is not None:
            raise _died(made, code, log)
        with contextlib.suppress(OSError), opener.open(made.health, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(POLL_S)


def _died(made: Server, code: int, log: Path) -> RunError:
    """The error for a server that ended by itself, with the last lines of its log."""
    with contextlib.suppress(OSError):
        lines = [line.rstrip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
        for line in lines[-TAIL:]:
            console.note(f"  {console.printable(line)}")
    how = f"by signal {-code}" if code < 0 else f"with code {code}"
    return RunError(f"{made.name} ended {how}", hint=f"{log} has all it said")


def _how_to_ask(made: Server) -> list[str]:
    """A curl line and a snippet for Python's openai client."""
    body = jsonlib.dumps({"model": made.model, "messages": [{"role": "user", "content": "Hello"}]})
    return [
        f"curl {made.url}/chat/completions -H 'Content-Type: application/json' \\",
        f"  -d {shlex.quote(body)}",
        "",
        "from openai import OpenAI",
        f'client = OpenAI(base_url="{made.url}", api_key="none")',
        f'said = client.chat.completions.create(model="{made.model}", messages=[{{"role": "user", "content": "Hello"}}])',
        "print(said.choices[0].message.content)",
    ]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the server and all it has started; harmless when they have ended."""
    for what in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, what)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """While it lasts, SIGTERM and SIGHUP end this program as Ctrl-C does, so that the server never stays behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    before = {kind: signal.signal(kind, end) for kind in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
