"""Workers that train nothing: each is a small Python program that ends as a test wants it. They start in some 20 ms."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PRELUDE = """
import json, os, signal, sys, time
run, attempt, rank = sys.argv[1], int(os.environ["TUNE_ATTEMPT"]), int(os.environ.get("RANK", 0))

def put(name, data):
    path = os.path.join(run, name)
    with open(path + ".new", "w") as handle:
        json.dump(data, handle)
    os.replace(path + ".new", path)

def status(**fields):
    put("status.json", {**json.load(open(os.path.join(run, "status.json"))), **fields})

def end(state, code, what=None, step=0, **more):
    error = {"problems": [{"what": what, "hint": "a hint"}]} if what else None
    data = {"state": state, "exit_code": code, "attempt": attempt, "error": error, "step": step, "ended": time.time(), **more}
    put("result.json" if rank == 0 and state != "failed" else f".rank-{rank}.json", data)
    sys.exit(code)

def fail(what, code=5, **more):
    end("failed", code, what, **more)

def done():
    end("done", 0)

def commit(step):
    folder = os.path.join(run, "checkpoints", f"checkpoint-{step}")
    os.makedirs(folder, exist_ok=True)
    open(os.path.join(folder, "COMMIT.json"), "w").close()

def serve_signals():
    signal.signal(signal.SIGTERM, lambda *_: end("preempted", 75, step=1))
    signal.signal(signal.SIGINT, lambda *_: end("stopped", 130, step=1))

def reached(name):
    open(os.path.join(run, f"reached-{name}"), "w").close()

def wait_for(name):
    while not os.path.exists(os.path.join(run, f"reached-{name}")):
        time.sleep(0.01)
"""


class Workers:
    """A spawn that runs `programs` one after the other, the last one again and again; `rank` and `attempt` are theirs to read."""

    def __init__(self, *programs: str, world: int = 1) -> None:
        self.programs, self.world = programs, world
        self.environments: list[dict[str, str]] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(self, run_dir: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
        """Starts the next one, in a process group of its own."""
        number = min(len(self.environments) // self.world, len(self.programs) - 1)
        self.environments.append(env)
        code = PRELUDE + self.programs[number]
        process = subprocess.Popen([sys.executable, "-S", "-c", code, str(run_dir)], env=env, process_group=0)
        self.processes.append(process)
        return process


def lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be asked for its exit code does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    except OSError:
        os.kill(pid, 0)
        return True
    return state not in "ZX"
