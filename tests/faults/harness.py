"""The tests' side of the zygote: makes runs of the tiny model, attempts them with faults, and reads what came of it.

Digests are compared within one machine, where every training has one thread.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run, checkpoint, read_json, write_json
from tests.engine.support import put

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 240.0
WORDS = ["alpha", "beta", "gamma", "delta", "nothing", "everything", "please", "again"]
LORA = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": "all-linear",
}  # fmt: skip
NF4 = {
    "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "float32",
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "qlora": {"quantization": NF4},
    "dora": {"peft.use_dora": True},
    "full": {"peft": None},
}


class Zygote:
    """The process that has imported everything; see `tests.faults.zygote`."""

    def __init__(self) -> None:
        env = {
            **os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
            "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        for name in [n for n in env if n.startswith(("COV_CORE", "PYTEST"))]:
            env.pop(name)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"], cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        self.digests: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Child] = {}
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            answer = json.loads(line)
            if answer["id"] == 0:
                self._ready.set()
                continue
            with self._lock:
                child = self._waiting[answer["id"]]
            if "pid" in answer:
                child.pid = answer["pid"]
                child.begun.set()
            else:
                child.code = answer["code"]
                child.ended.set()
        for child in self._waiting.values():
            child.ended.set()

    def start(self, **command: Any) -> Child:
        """Forks a child for `command` and returns at once."""
        number = next(self._numbers)
        child = Child(command)
        with self._lock:
            self._waiting[number] = child
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps({"id": number, **command}) + "\n")
            self.process.stdin.flush()
        return child

    def attempt(self, run: Run, *faults: dict[str, Any], env: dict[str, str] | None = None, **more: Any) -> Child:
        """Starts one attempt at `run` with `faults`; `wait` for it."""
        log = run.path.parent / f"{run.path.name}.log"
        return self.start(run=str(run.path), faults=list(faults), env=env or {}, log=str(log), **more)

    def train(self, run: Run, *faults: dict[str, Any], env: dict[str, str] | None = None, **more: Any) -> int:
        """One attempt to its end; returns the exit code, negative where a signal ended the supervisor."""
        return self.attempt(run, *faults, env=env, **more).wait()

    def call(self, function: str, **arguments: Any) -> int:
        """Calls `module:function` in a child and returns its exit code."""
        return self.start(fork=function, **{"with": arguments}).wait()

    def close(self) -> None:
        """Ends the zygote."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


@dataclass
class Child:
    """A child of the zygote; `code` is None until it has ended."""

    command: dict[str, Any]
    pid: int | None = None
    code: int | None = None
    begun: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def wait(self, timeout: float = TIMEOUT_S) -> int:
        """Its exit code. A child that hangs is killed with all that it started, and the test fails."""
        if not self.ended.wait(timeout):
            self.kill()
            log = self.command.get("log")
            end = Path(log).read_text()[-2000:] if log and Path(log).exists() else ""
            raise AssertionError(f"hung for {timeout} s: {self.command}\n{end}")
        assert self.code is not None, "the zygote died"
        if self.code == 99:
            log = self.command.get("log")
            raise AssertionError(Path(log).read_text()[-4000:] if log else "the harness failed, see stderr")
        return self.code

    def kill(self) -> None:
        """Kills it, and what it started: its workers die with it."""
        self.begun.wait(10)
        if self.pid is not None and not self.ended.is_set():
            for pid in [*children(self.pid), self.pid]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


def children(pid: int) -> list[int]:
    """Processes that `pid` started and that live."""
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def make_model(to: str) -> None:
    """Saves the tiny model and its tokenizer; called in a child of the zygote."""
    from tests.engine.support import tiny_model

    tiny_model(Path(to), hidden=16)


def write_rows(path: Path, count: int, seed: int) -> Path:
    """Writes `count` short conversations."""
    chance = random.Random(seed)
    lines = []
    for _ in range(count):
        turns = [
            {"role": "user", "content": " ".join(chance.choices(WORDS, k=4))},
            {"role": "assistant", "content": " ".join(chance.choices(WORDS, k=5))},
        ]
        lines.append(json.dumps({"messages": turns}))
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclass(frozen=True)
class Place:
    """A folder for runs, with the model and the rows that they train: 16 rows, so that an epoch has 4 steps of 4 rows."""

    zygote: Zygote
    folder: Path
    model: Path
    rows: Path
    held_out: Path

    @staticmethod
    def make(zygote: Zygote, folder: Path) -> Place:
        """Makes model and rows in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        if zygote.call("tests.faults.harness:make_model", to=str(folder / "model")) != 0:
            raise AssertionError("the tiny model could not be made")
        rows, held_out = write_rows(folder / "rows.jsonl", 16, 1), write_rows(folder / "held-out.jsonl", 4, 2)
        return Place(zygote, folder, folder / "model", rows, held_out)

    def run(self, name: str, **changes: Any) -> Run:
        """A fresh run directory; `changes` are dotted keys of the plan."""
        run = Run(self.folder / name)
        shutil.rmtree(run.path, ignore_errors=True)
        run.path.mkdir(parents=True)
        write_json(run.path / "plan.json", self.plan(**changes))
        return run

    def plan(self, **changes: Any) -> dict[str, Any]:
        """A plan that trains 7 steps of LoRA in a second and saves every second one."""
        plan: dict[str, Any] = {
            "version": 2,
            "name": "tiny",
            "gpu": {"name": "cpu"},
            "values": {"name": "tiny"},
            "model": {
                "name_or_path": str(self.model), "revision": None, "trust_remote_code": False,
                "init": {"dtype": "float32", "attn_implementation": "sdpa"},
            },
            "data": {
                "train": str(self.rows), "eval": str(self.held_out), "format": "auto", "seed": 42, "max_samples": None,
                "chat_template": None,
            },
            "quantization": None,
            "peft": dict(LORA),
            "training": {
                "use_cpu": True, "bf16": False, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 7,
                "learning_rate": 1e-3, "logging_steps": 1, "eval_strategy": "no", "save_strategy": "steps", "save_steps": 2,
                "report_to": "none", "save_total_limit": None, "load_best_model_at_end": False, "logging_nan_inf_filter": False,
                "disable_tqdm": True, "activation_checkpointing": False, "max_length": 128, "seed": 42,
            },
            "tracking": {"tracker": "none"},
            "monitor": {"rehearse": False},
            "checkpoint": {"best": False, "metric": "eval_loss", "greater_is_better": False, "keep": 2},
            "launch": {"processes": 1},
            "trainable_dtype": None,
            "world_size": 1,
            "why": {},
        }  # fmt: skip
        put(plan, changes)
        plan["values"] = {
            "name": "tiny",
            **{k: copy.deepcopy(plan[k]) for k in ("data", "quantization", "peft", "training")},
        }
        plan["values"]["model"] = {k: plan["model"][k] for k in ("name_or_path", "revision")}
        return plan


def together(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """`function` of every item, two at a time: each training has one thread."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(function, items))


def change(run: Run, **changes: Any) -> None:
    """Changes keys of a run's plan, and of its values, in place."""
    plan = run.plan()
    for key, value in changes.items():
        for root in (plan, plan["values"]):
            *parents, last = key.split(".")
            node = root
            for part in parents:
                node = node.get(part) if isinstance(node, dict) else None
            if isinstance(node, dict):
                node[last] = value
    write_json(run.path / "plan.json", plan)


def stop(step: int, number: int = signal.SIGTERM) -> dict[str, Any]:
    """The fault that asks the run to stop at the end of optimizer step `step`."""
    return {"point": "step", "step": step, "do": "signal", "number": number}


def expected(place: Place, name: str, **changes: Any) -> str:
    """The digest that a run with `changes` ends with when nobody disturbs it; trained once, then remembered."""
    key = json.dumps([str(place.model), str(place.rows), changes], sort_keys=True)
    known = place.zygote.digests
    if key not in known:
        run = place.run(f"{name}-whole", **changes)
        assert place.zygote.train(run) == 0, tail(run)
        known[key] = finished(run)
        shutil.rmtree(run.path)
    return known[key]


def finished(run: Run) -> str:
    """The digest of a run that is done."""
    result = run.result() or {}
    assert result.get("state") == "done", (result.get("state"), result.get("error"), tail(run))
    return str(result["digest"])


def resumed(place: Place, run: Run, attempts: int = 1) -> str:
    """Lets `run` go on undisturbed, and returns the digest that it ends with."""
    for _ in range(attempts):
        if place.zygote.train(run) == 0:
            break
    return finished(run)


def said(run: Run) -> str:
    """Everything that the run told its user, as one text: warnings, what was set aside, and the error."""
    told = [json.dumps(e) for e in events(run, "warning", "torn", "adjust", "non_finite", "spike")]
    return "\n".join([*told, json.dumps((run.result() or {}).get("error"))])


def tail(run: Run) -> str:
    """The end of the log of a run's attempts."""
    log = run.path.parent / f"{run.path.name}.log"
    return log.read_text()[-3000:] if log.exists() else ""


def events(run: Run, *kinds: str) -> list[dict[str, Any]]:
    """All events of these types."""
    return [e for e, _ in run.events() if e["type"] in kinds]


def problem(run: Run) -> dict[str, Any]:
    """The first problem in result.json."""
    error = (run.result() or {}).get("error") or {"problems": [{"what": "", "hint": ""}]}
    found: dict[str, Any] = error["problems"][0]
    return found


def complete(run: Run) -> list[int]:
    """Steps of the checkpoints that verify."""
    return [
        s for s in checkpoint.steps(run.checkpoints) if checkpoint.fault(run.checkpoints / f"checkpoint-{s}") is None
    ]


def files(folder: Path) -> Iterator[Path]:
    """All files in a checkpoint, COMMIT.json among them."""
    yield from sorted(p for p in folder.rglob("*") if p.is_file())


def attempts_of(run: Run) -> int:
    """Number of the attempt made last."""
    return int((read_json(run.path / "status.json") or {}).get("attempt") or 0)
