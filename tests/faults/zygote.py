"""`python -m tests.faults.zygote`: imports everything that a training needs, computes nothing, and forks a child per command.

A training that would spend ten seconds on imports starts in a tenth of one. One JSON object a line on stdin:

    {"id": 1, "run": "/path", "faults": [...], "env": {...}, "mounts": PID}    trains the run, under the supervisor
    {"id": 2, "fork": "module:function", "with": {...}}                        calls a function in a child

and on stdout `{"id", "pid"}` when the child is there, `{"id", "code"}` when it has ended (minus the signal's number).
Several children may live at a time. The zygote ends when stdin does.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import selectors
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

MODULES = (
    "torch", "torch.distributed", "torch.utils.checkpoint", "transformers", "transformers.models.llama.modeling_llama",
    "transformers.integrations", "trl", "trl.trainer.sft_trainer", "trl.trainer.utils", "peft", "peft.tuners.lora", "datasets",
    "datasets.fingerprint", "accelerate", "safetensors.torch", "pyarrow.parquet", "nothing_tune.engine.session",
    "nothing_tune.engine.__main__", "nothing_tune.engine.worker",
)  # fmt: skip
OPTIONAL = (
    "bitsandbytes",
    "bitsandbytes.nn",
    "transformers.integrations.bitsandbytes",
    "transformers.quantizers.quantizer_bnb_4bit",
)


def main() -> None:
    """Serves commands until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print does not come between the answers
    load()
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin.fileno(), selectors.EVENT_READ, None)
    rest = b""
    answers.write(json.dumps({"id": 0, "pid": os.getpid()}) + "\n")
    while True:
        for key, _ in selector.select():
            if key.data is not None:
                selector.unregister(key.fd)
                os.close(key.fd)
                _, status = os.waitpid(key.data["pid"], 0)
                code = os.waitstatus_to_exitcode(status)
                answers.write(json.dumps({"id": key.data["id"], "code": code}) + "\n")
                continue
            got = os.read(sys.stdin.fileno(), 65536)
            if not got:
                return
            *lines, rest = (rest + got).split(b"\n")
            for line in lines:
                command = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    child(command)
                answers.write(json.dumps({"id": command["id"], "pid": pid}) + "\n")
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, {"id": command["id"], "pid": pid})


def load() -> None:
    """Imports, in one thread, everything that a training would import later."""
    from nothing_tune.engine.worker import ENVIRONMENT

    for name, value in {
        **ENVIRONMENT,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }.items():
        os.environ.setdefault(name, value)
    for module in MODULES:
        importlib.import_module(module)
    for module in OPTIONAL:
        try:
            importlib.import_module(module)
        except ImportError:
            continue
    import torch
    import transformers
    import trl

    torch.set_num_threads(1)
    # Classes that these libraries import when they are asked for.
    for owner, names in (
        (transformers, ("AutoModelForCausalLM", "AutoTokenizer", "LlamaForCausalLM", "BitsAndBytesConfig", "Trainer")),
        (trl, ("SFTTrainer", "SFTConfig")),
    ):  # fmt: skip
        for name in names:
            getattr(owner, name)


def child(command: dict[str, Any]) -> None:
    """What a forked child does; never returns."""
    code = 99
    try:
        os.setsid()
        os.environ.update(command.get("env") or {})
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        log = command.get("log")
        if log:
            handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
        if "fork" in command:
            module, name = command["fork"].split(":")
            code = getattr(importlib.import_module(module), name)(**command.get("with", {})) or 0
        else:
            code = attempt(command)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def attempt(command: dict[str, Any]) -> int:
    """One attempt at a run: the supervisor in this process, its workers forked from it; returns the supervisor's exit code."""
    from nothing_tune.artifacts import Run
    from nothing_tune.engine import __main__ as supervisor
    from nothing_tune.errors import TuneError

    run = Run(Path(command["run"]))
    faults = command.get("faults") or []
    if command.get("mounts"):
        from tests.faults import mounts

        mounts.join(int(command["mounts"]))
    early(faults)
    spawn = Spawn(run, faults)
    supervise: Any = supervisor.supervise
    known = {"spawn": spawn} if "spawn" in inspect.signature(supervise).parameters else {}
    if not known:  # a supervisor that starts its worker itself, as version 0.1.0 does
        import types

        supervisor.subprocess = types.SimpleNamespace(Popen=lambda argv, env, **_: spawn(argv[-1], env))  # type: ignore[assignment]
    try:
        return int(supervise(run, **known))
    except TuneError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def early(faults: list[dict[str, Any]]) -> None:
    """Installs in the supervisor the faults that it must see as well, such as another library version."""
    from tests.faults import injection

    injection.install([{**f, "rank": 0} for f in faults if f.get("early")], 0)


class Spawn:
    """Starts a rank by forking: what the supervisor is given in place of Popen."""

    def __init__(self, run: Any, faults: list[dict[str, Any]]) -> None:
        self.run, self.faults = run, faults

    def __call__(self, run_dir: Any, env: dict[str, str]) -> Forked:
        """Forks the worker of one rank, in a process group of its own, with `env` as its environment."""
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return Forked(pid)
        code = 99
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            os.setpgid(0, 0)
            os.environ.clear()
            os.environ.update(env)
            from nothing_tune.engine import worker
            from tests.faults import injection

            injection.install(self.faults, int(env.get("RANK") or 0))
            code = 1  # what Python exits with when an exception is not caught
            code = worker.main(Path(run_dir))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


class Forked:
    """A forked worker, with the part of Popen's face that the supervisor uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, minus the signal that killed it; None while it lives."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end; `subprocess.TimeoutExpired` after `timeout` seconds."""
        import subprocess
        import time

        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("worker", timeout or 0.0)
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills it."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Asks it to end."""
        self.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    main()
