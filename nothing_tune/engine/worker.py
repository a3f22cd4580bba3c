"""A process that trains a run: `python -m nothing_tune.engine.worker RUN_DIR`, started by the supervisor, one for each rank.

Phases: data, model, trainer, train, handover. Environment variables that libraries read while they are imported are
set first, which is why the heavy imports stand inside functions.

Rank 0 alone writes events, status and result.json. What fails under a supervisor is written to `.rank-N.json` instead: the
supervisor decides whether that ends the run.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing import process, util
from pathlib import Path
from types import FrameType
from typing import Any

from nothing_tune.artifacts import Run, attempts, write_json
from nothing_tune.artifacts.redact import guard_output
from nothing_tune.data import sources
from nothing_tune.data.hub import reachable
from nothing_tune.engine import ranks
from nothing_tune.engine.delivery import Delivery
from nothing_tune.engine.journal import Journal
from nothing_tune.errors import Busy, OutOfMemory, Preempted, Stopped, TuneError, UsageError
from nothing_tune.plan import batch
from nothing_tune.plan.model import Plan

ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
    "WANDB_ERROR_REPORTING": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "warning",
}
"""Set unless the user has set them. Nothing is reported to anyone whom the recipe does not name."""
SOCKET_PATH = 107
"""Bytes that the path of a socket may have."""
ORPHAN_S = 120.0
"""Seconds that a worker has for saving after its supervisor is gone; then it is killed, wherever it hangs."""
_ENV = re.compile(r"\$\{oc\.env:\s*([A-Za-z_]\w*)\s*(?:,([^}]*))?\}")


class Interrupts:
    """SIGINT and SIGTERM: raised at once while nothing is being trained, kept for the end of the step while it is."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.training: Any = None

    def install(self) -> None:
        """Takes both signals over; `restore` gives them back."""
        self.before = {n: signal.signal(n, self._serve) for n in (signal.SIGINT, signal.SIGTERM)}

    def ignore(self) -> None:
        """From here on the result is being written: nothing may interrupt it."""
        for number in self.before:
            signal.signal(number, signal.SIG_IGN)

    def restore(self) -> None:
        """Gives the signals back to whoever had them."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _serve(self, number: int, _: FrameType | None) -> None:
        told, self.number = self.number is not None, number
        if self.training is None:
            if told:
                return  # a scheduler signals every process, and the supervisor passes its own on
            raise self.error()
        self.training.requested = number

    def error(self) -> TuneError:
        """The error that the signal received stands for."""
        if self.number == signal.SIGINT:
            return Stopped("stopped by the user")
        return Preempted("ended from outside (SIGTERM)", hint="the same command continues")


def main(path: Path) -> int:
    """Trains the run at `path` to its end as the rank that the environment names, writes the result, returns the exit code."""
    run = Run(path)
    attempt, rank = int(os.environ.get("TUNE_ATTEMPT") or 1), ranks.rank()
    started = float(os.environ.get("TUNE_STARTED") or time.time())
    interrupts = Interrupts()
    interrupts.install()
    _die_with_supervisor(interrupts)
    phases: dict[str, float] = {}
    outcome: dict[str, Any] = {}
    journal: Journal | None = None
    delivery: Delivery | None = None
    code, error = 1, None
    try:
        plan = Plan.from_json(with_environment(as_adjusted(run)))
        supervisor = int(os.environ.get("TUNE_SUPERVISOR") or os.getpid())
        journal = Journal(
            run, attempt, rank, state="starting", recipe=plan.name, gpu=plan.gpu.get("name"), pid=supervisor, worker=os.getpid(),
            host=socket.gethostname(), started=started,
        )  # fmt: skip
        journal.start()
        if rank == 0:
            delivery = Delivery(journal, run.plan())
        prepare_environment(plan, journal)
        journal.event("phase", phase="imports")
        with _phase(phases, "imports"):
            import nothing_tune.engine.session as session
        stopped = session.train(run, plan, journal, interrupts, phases, outcome)
        if stopped:
            raise interrupts.error()
        code, state = 0, "done"
    except BaseException as caught:  # the one place where a run's errors end
        interrupts.ignore()
        traceback.print_exc()
        from nothing_tune.engine.failures import report

        code, error = report(caught)
        state = {75: "preempted", 130: "stopped", 65: "stopped"}.get(code, "failed")  # a refused run is as it was
    interrupts.ignore()
    result = {
        "state": state,
        "exit_code": code,
        "attempt": attempt,
        "error": error,
        "step": outcome.get("step", journal.get("step") if journal else None),
        "epoch": outcome.get("epoch", journal.get("epoch") if journal else None),
        "metrics": outcome.get("metrics", {}),
        "adapter": outcome.get("adapter"),
        "digest": outcome.get("digest"),
        "notes": outcome.get("notes", []),
        "duration_s": time.time() - started,
        "first_step_s": outcome.get("first_step_s"),
        "phases": phases,
        "ended": time.time(),
    }
    if code == OutOfMemory.exit_code:
        result["oom"] = outcome.get("oom") or _out_of_memory_in(phases)
    try:
        _tell(run, rank, result, journal)
    except (TuneError, OSError) as failure:
        print(failure, file=sys.stderr)  # the supervisor has the exit code, and tells
    if delivery is not None:
        delivery.finish()
    if code in (0, 75, 130):
        _leave_group()
    interrupts.restore()
    return code


def _tell(run: Run, rank: int, result: dict[str, Any], journal: Journal | None) -> None:
    """Writes how this rank ended, where it belongs; nothing once another attempt owns the run."""
    code = int(result["exit_code"])
    if code == Busy.exit_code or attempts.newest(run) > int(result["attempt"]):
        if journal is not None:
            journal.silence()
            journal.close()
        return
    final = rank == 0 and (result["state"] != "failed" or not _is_supervised())
    if journal is not None:
        if final:
            with contextlib.suppress(TuneError, OSError):
                journal.event("end", state=result["state"], step=result["step"], epoch=result["epoch"], exit_code=code)
                journal.state(result["state"])
        journal.close()
    if final:
        write_json(run.path / "result.json", result)
    elif code:
        write_json(run.path / ranks.result_name(rank), result)


def as_adjusted(run: Run) -> dict[str, Any]:
    """The run's plan as plain data, with what was changed after out of memory, and the backend of several ranks on a CPU."""
    plan = run.plan()
    training = batch.adjusted(plan.get("training") or {}, (e["training"] for e in attempts.adjustments(run)[0]))
    if ranks.world_size(plan) > 1 and training.get("use_cpu"):
        training["ddp_backend"] = (
            training.get("ddp_backend") or "gloo"
        )  # accelerate would prefer MPI where it is built in
    return {**plan, "training": training, "world_size": ranks.world_size(plan)}


def with_environment(plan: dict[str, Any]) -> dict[str, Any]:
    """`plan` with `${oc.env:NAME}` and `${oc.env:NAME,default}` in its model and data replaced by this machine's values."""

    def replace(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        value = os.environ.get(name, default)
        if value is None:
            raise UsageError(
                f"the recipe reads the environment variable {name}, which is not set here", hint=f"export {name}=..."
            )
        return value.strip()

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return _ENV.sub(replace, value)
        if isinstance(value, dict):
            return {k: walk(v) for k, v in value.items()}
        return [walk(v) for v in value] if isinstance(value, list) else value

    return {**plan, "model": walk(plan.get("model")), "data": walk(plan.get("data"))}


def short_sockets() -> str:
    """Gives the processes that load data a short folder for their sockets where the usual one is too long; returns the folder.

    A socket's path has at most 107 bytes (unix(7)). Beyond it multiprocessing drops the batch that a loading process wanted to
    hand over, and the training waits for it forever (Python 3.11 to 3.13, `multiprocessing.connection.arbitrary_address`).
    """
    usual = tempfile.gettempdir()
    if len(os.fsencode(usual)) + len("/pymp-xxxxxxxx/listener-xxxxxxxx") <= SOCKET_PATH:
        return usual
    for root in ("/tmp", "/var/tmp", "/dev/shm"):
        with contextlib.suppress(OSError):
            folder = tempfile.mkdtemp(prefix="tune-", dir=root)
            util.Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=-100)
            process.current_process()._config["tempdir"] = folder  # type: ignore[attr-defined]
            return folder
    return usual


def prepare_environment(plan: Plan, journal: Journal) -> None:
    """Sets what libraries read at import, and shows exactly one GPU to a run that trains in one process."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    short_sockets()
    if goes_offline(plan):
        journal.warn("the Hugging Face hub cannot be reached", "what is in the local cache is used")
    if plan.training.get("use_cpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    if plan.world_size > 1:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = (
        visible.split(",")
        if visible is not None
        else [str(i) for i in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]
    )
    if len(gpus) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[0]
        journal.warn(
            f"{len(gpus)} GPUs are visible; this run trains on one, number {gpus[0]}",
            "set CUDA_VISIBLE_DEVICES to choose another",
        )


def goes_offline(plan: Plan) -> bool:
    """Whether the hub, which the plan needs, cannot be reached; its libraries, not imported yet, then look into their cache alone.

    They would try for half a minute.
    """
    model = Path(str(plan.model.get("name_or_path"))).expanduser()
    given = [plan.data.get(key) for key in ("train", "eval")]
    named = [s for value in given if isinstance(value, str | dict | list) for s in sources.parse(value, plan.data)]
    if model.exists() and all(sources.is_file(source.name) for source in named):
        return False
    if os.environ.get("HF_HUB_OFFLINE", "0") != "0" or reachable():
        return False
    os.environ["HF_HUB_OFFLINE"] = "1"
    return True


@contextlib.contextmanager
def _phase(phases: dict[str, float], name: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        phases[name] = time.monotonic() - began


def _out_of_memory_in(phases: dict[str, float]) -> str:
    """`training` when that is what was going on, by the phases that have begun; anything else counts as `loading`."""
    return "training" if "train" in phases and "handover" not in phases else "loading"


def _is_supervised() -> bool:
    """Whether the supervisor that started this process is there to read what it leaves."""
    return bool(os.environ.get("TUNE_OWNER")) and os.environ.get("TUNE_SUPERVISOR") == str(os.getppid())


def _die_with_supervisor(interrupts: Interrupts) -> None:
    """Lets no worker train on unwatched: SIGTERM when the supervisor dies (Linux), SIGKILL `ORPHAN_S` later (everywhere)."""
    supervisor = os.environ.get("TUNE_SUPERVISOR")
    if not supervisor:
        return
    with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
        # The supervisor asks a worker that hangs where it does; the answer is in engine.log.
        faulthandler.register(signal.SIGUSR1, all_threads=True)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)

    def watch() -> None:
        while str(os.getppid()) == supervisor:
            time.sleep(1.0)
        if interrupts.number is None:  # it died before the kernel was asked, or this is no Linux
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    if str(os.getppid()) == supervisor or os.environ.get("TUNE_OWNER"):
        threading.Thread(target=watch, name="supervisor", daemon=True).start()


def _leave_group() -> None:
    """Leaves the group of ranks, so that none of them finds a connection broken."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        with contextlib.suppress(Exception):
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    guard_output()
    sys.exit(main(Path(sys.argv[1])))
