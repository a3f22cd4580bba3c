"""One step of the conversion in a process of its own: its events read, its words to the log, its end turned into an error.

llama.cpp may abort, and its words go to file descriptor 2; neither must reach the job that asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import IO, Any

import nothing_tune
from nothing_tune.errors import OutOfMemory, RunError, StorageError, TuneError

Event = dict[str, Any]
_FULL = re.compile(
    r"No space left on device|Errno 28|Errno 122|Disk quota exceeded|Errno 30|Read-only file system|Errno 27|File too large"
    r"|requested and \d+ written|iostream error"
)
_NOISE = re.compile(r"^\s*$|^\s*[\^~]+\s*$")
_KEPT = 40


def run(
    module: str,
    request: Event,
    *,
    on: Callable[[Event], None],
    source: Path | None = None,
    line: Callable[[str], None] | None = None,
    where: Path | None = None,
) -> Event:
    """Runs `work` of module `module` of this box in a process of its own, with `request` on stdin, and returns its event `done`.

    Args:
        module: One of `child.NAMES`.
        request: What it is asked, plain data.
        on: Called with every event but the last.
        source: llama.cpp's folder, put before all else on the module path.
        line: Called with every line of its log.
        where: Folder that is written to, named when the disk refuses.

    Raises:
        TuneError: What the process said went wrong, of the kind it named.
        StorageError, OutOfMemory, RunError: It ended without a word; the last lines of its log are in the error.
    """
    last: deque[str] = deque(maxlen=_KEPT)
    answer: Event = {}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "nothing_tune.engine.export.gguf.child", module],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_environment(source),
        text=True, encoding="utf-8", errors="replace", bufsize=1,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    assert process.stderr
    reader = Thread(target=_log, args=(process.stderr, last, line), daemon=True)
    reader.start()
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps({**request, "parent": os.getpid()}) + "\n")
            process.stdin.close()
        for event in _events(process.stdout):
            if event.get("type") in ("done", "error"):
                answer = event
            else:
                on(event)
        code = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join(5)
        process.stdout.close()
        process.stderr.close()
    if answer.get("type") == "done":
        return answer
    raise _failure(answer, code, list(last), where)


def partial(out: Path) -> Path:
    """Where `out` is written until it is whole: hidden, beside it; what an earlier try left there is removed."""
    path = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot write {out}: {error.strerror}", hint="free some space or mend the permissions"
        ) from error
    return path


@contextlib.contextmanager
def whole(out: Path) -> Iterator[Path]:
    """Gives the name to write to; the file becomes `out` when the block ends well and its header and length agree, else it is removed."""
    from nothing_tune.errors import UsageError
    from nothing_tune.outputs import gguf_file

    path = partial(out)
    try:
        yield path
        try:
            gguf_file.check(path)
        except UsageError as error:  # llama.cpp does not notice every write that failed
            raise StorageError(f"{out.name} was not written to its end", hint="free some space, then again") from error
        try:
            with open(path, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(path, out)
        except OSError as error:
            raise StorageError(f"cannot write {out}: {error.strerror}", hint="free some space, then again") from error
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def answer(work: Callable[[Event, Callable[..., None]], Event]) -> int:
    """The child's side: reads the request, calls `work(request, send)`, and says `done` with what it returns, or what went wrong."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(**fields: Any) -> None:
        print(json.dumps(fields), file=out, flush=True)

    request = json.loads(sys.stdin.readline())
    _end_with(int(request["parent"]))
    try:
        found = work(request, send)
    except TuneError as error:
        first = error.problems[0]
        send(type="error", kind=type(error).__name__, what=first.what, hint=first.hint)
        return 1
    except OSError as error:
        if _FULL.search(str(error)):
            reason = error.strerror or "it is full"
            send(type="error", kind="StorageError", what=f"the disk refused to write: {reason}", hint=SPACE)
            return 1
        raise
    except MemoryError:
        send(type="error", kind="OutOfMemory", what="out of memory", hint=MEMORY)
        return 1
    send(type="done", **found)
    return 0


SPACE = "free some space, then again: what is finished stays"
MEMORY = "close other programs, or export on a machine with more memory"


def _end_with(parent: int) -> None:
    """Lets the system end this process with the one that asked: a killed export leaves no converter behind."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _environment(source: Path | None) -> dict[str, str]:
    own = str(Path(nothing_tune.__file__).parents[1])
    first = [str(source), str(source / "gguf-py")] if source else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*first, own]), "PYTHONUNBUFFERED": "1"}
    environment |= {
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONIOENCODING": "utf-8",
    }
    environment |= {"TOKENIZERS_PARALLELISM": "false", "NO_LOCAL_GGUF": "1", "TMPDIR": tempfile.gettempdir()}
    return environment


def _log(stream: IO[str], last: deque[str], line: Callable[[str], None] | None) -> None:
    for text in stream:
        text = text.rstrip()
        if not _NOISE.match(text):
            last.append(text)
        print(text, file=sys.stderr, flush=True)
        if line:
            line(text)


def _events(stream: IO[str]) -> Iterator[Event]:
    for text in stream:
        with contextlib.suppress(ValueError):
            event = json.loads(text)
            if isinstance(event, dict):
                yield event


def _failure(said: Event, code: int, last: list[str], where: Path | None) -> TuneError:
    import nothing_tune.errors as errors

    if said:
        kind = getattr(errors, str(said.get("kind")), RunError)
        failure: TuneError = kind(str(said["what"]), hint=str(said.get("hint") or ""))
        return failure
    text = "\n".join(last)
    if _FULL.search(text):
        return StorageError(f"the disk refused to write{f' {where}' if where else ''}: it is full", hint=SPACE)
    if code == -signal.SIGKILL or "MemoryError" in text or "bad_alloc" in text:
        return OutOfMemory("the conversion was ended from outside, most likely for want of memory", hint=MEMORY)
    words = next((w for w in reversed(last) if re.match(r"\w*(Error|Exception)\b|.*failed to|ERROR", w)), "")
    words = words or (last[-1] if last else f"exit code {code}")
    tail = "; before that: " + " | ".join(last[-4:-1]) if len(last) > 1 else ""
    return RunError(f"llama.cpp's converter failed: {words}{tail}"[:900], hint="the job's log has the whole story")
