"""A run directory: its files, its id, and how it is found."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO

from nothing_tune.artifacts.files import read_json
from nothing_tune.errors import StorageError, UsageError

RUN_ID = re.compile(r"^[a-z0-9][a-z0-9._-]{1,127}\Z")
TRASH = ".trash"
"""Folder beside the runs for those that were removed, as `<run-id>.<unix seconds>`."""
FINAL_STATES = frozenset({"done", "failed", "stopped", "preempted"})
HEARTBEAT_S = 5.0
"""A live run renews the heartbeat in status.json at least this often, in seconds."""
LOST_AFTER_S = 60.0
"""A run whose state is not final and whose heartbeat is older than this, in seconds, is shown as `lost`."""


@dataclass(frozen=True)
class Run:
    """A run directory. Reading never needs more than its files; it may lie on another machine's disk."""

    path: Path

    @property
    def id(self) -> str:
        """The run's id, the name of its directory."""
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        """Folder that holds one `checkpoint-N` per saved optimizer step N."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """Folder of what the run hands over: the adapter, or the whole model after full fine-tuning."""
        return self.path / "adapter"

    def plan(self) -> dict[str, Any]:
        """The plan as plain data; `UsageError` when the directory holds none."""
        return _read_required(self.path / "plan.json")

    def status(self) -> dict[str, Any]:
        """`{state, step, total_steps, epoch, heartbeat, started, pid, host, attempt, ...}`; empty before the engine's first write."""
        return read_json(self.path / "status.json") or {}

    def result(self) -> dict[str, Any] | None:
        """`{state, exit_code, error, metrics, ...}`; None while the run is not finished."""
        found = read_json(self.path / "result.json")
        return found if isinstance(found, dict) else None

    def state(self, now: float | None = None) -> str:
        """The state; `lost` when it claims to be alive but is not.

        That is when its heartbeat (Unix seconds) is older than `LOST_AFTER_S`, or when its processes ran on this host and are
        gone.
        """
        status = self._telling_status()
        state = str(status.get("state", "starting"))
        if state in FINAL_STATES:
            return state
        beat = status.get("heartbeat") or status.get("created") or 0.0
        if (now or time.time()) - float(beat) > LOST_AFTER_S:
            return "lost"
        if self._is_left(status):
            state = str(self._telling_status().get("state", "starting"))  # it may have ended between the two looks
            return state if state in FINAL_STATES else "lost"
        return state

    def _telling_status(self) -> dict[str, Any]:
        """status.json; where that is damaged the state from the result, if there is one: the next attempt writes both anew."""
        try:
            return self.status()
        except UsageError:
            with contextlib.suppress(UsageError):
                return {"state": (self.result() or {}).get("state", "starting")}
        return {}

    def _is_left(self, status: dict[str, Any]) -> bool:
        """Whether supervisor and worker ran on this host and are both gone; False where that cannot be judged."""
        from nothing_tune.artifacts import attempts

        if not (is_gone(status.get("pid")) and is_gone(status.get("worker"))):
            return False
        lease = attempts.salvage(self.path / attempts.FOLDER / f"{status.get('attempt', 0):04}.json")[0] or {}
        return lease.get("host") == status.get("host") and attempts.is_here(lease)

    def saved_step(self) -> int:
        """The optimizer step of the newest complete checkpoint, by the folders' names; 0 without one."""
        from nothing_tune.artifacts import checkpoint

        return max(checkpoint.complete(self.checkpoints), default=0)

    def events(self, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
        """Events from byte `offset` on, each with the offset behind it; stops before a torn last line."""
        if not (self.path / "events.jsonl").exists():
            return
        with open(self.path / "events.jsonl", "rb") as handle:
            handle.seek(offset)
            for line in handle:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if isinstance(event, dict):
                        yield event, offset

    def last_event(self, kind: str) -> dict[str, Any] | None:
        """The last event of type `kind`, looked for from the end of events.jsonl; None when there is none."""
        wanted = json.dumps(kind).encode()
        with contextlib.suppress(FileNotFoundError), open(self.path / "events.jsonl", "rb") as handle:
            for line in _lines_from_the_end(handle):
                if wanted in line:
                    with contextlib.suppress(ValueError):
                        event = json.loads(line)
                        if isinstance(event, dict) and event.get("type") == kind:
                            return event
        return None


def is_gone(pid: Any) -> bool:
    """Whether no process `pid` runs here (one that ended and was not waited for is gone); False for what cannot be judged."""
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[0] in ("Z", "X")
    return False


def runs_root(option: str | Path | None = None) -> Path:
    """The folder of all runs: `option`, else `$TUNE_RUNS_DIR`, else `./runs`."""
    return Path(option or os.environ.get("TUNE_RUNS_DIR") or "runs").absolute()


def new_run_id(recipe: str, gpu: str, now: datetime | None = None) -> str:
    """`20261120-214500-nothing-gpt-l4-9f3a`: UTC date and time, recipe, GPU, four random hex digits."""
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%d-%H%M%S")
    words = re.sub(r"[^a-z0-9]+", "-", f"{recipe}-{gpu}".lower()).strip("-")[:80]
    return f"{stamp}-{words}-{secrets.token_hex(2)}"


def check_name(run_id: str, root: Path | None = None) -> None:
    """`UsageError` for what cannot be a run's name, and, where `root` is given, for the name of a run there."""
    if not RUN_ID.match(run_id):
        rule = "use 2 to 128 lower-case letters, digits, dots, dashes, underscores; a letter or digit first"
        raise UsageError(f"{run_id!r} cannot be a run's name", hint=rule)
    if root is not None and (root / run_id).exists():
        hint = "add --continue to continue it, or choose another --name"
        raise UsageError(f"a run named {run_id} exists in {root}", hint=hint)


def create_run(root: Path, run_id: str) -> Run:
    """Makes the empty directory of a new run. `StorageError` where `root` cannot be written, `UsageError` for a taken or bad id."""
    check_name(run_id, root)
    path = root / run_id
    try:
        path.mkdir(parents=True)
    except OSError as error:
        hint = "choose another folder with --runs-dir or TUNE_RUNS_DIR"
        raise StorageError(f"cannot make a run in {root}: {error.strerror}", hint=hint) from error
    return Run(path)


def find_run(name: str, root: Path) -> Run:
    """The run that `name` means: a path, a whole id, a unique prefix, or `latest`. `UsageError` names near ids or the newest otherwise."""
    as_path = Path(name)
    if (as_path / "plan.json").is_file():
        return Run(as_path.absolute())
    ids = run_ids(root)
    if name == "latest" and ids:
        return Run(root / ids[-1])
    if name in ids:
        return Run(root / name)
    hits = [i for i in ids if i.startswith(name)]
    if len(hits) == 1:
        return Run(root / hits[0])
    if len(hits) > 1:
        raise UsageError(f"{name!r} names {len(hits)} runs: {', '.join(hits[:5])}", hint="give more of the id")
    if _is_in_trash(name, root):
        where = "" if root == runs_root() else f" --runs-dir {root}"
        hint = f"it is in the trash: tune runs rm --restore {name}{where} brings it back"
        raise UsageError(f"no run {name!r} in {root}", hint=hint)
    if not ids:
        raise UsageError(
            f"there is no run in {root}", hint="tune train RECIPE makes one; --runs-dir names another folder"
        )
    near = get_close_matches(name, ids, n=3, cutoff=0.3)
    told = f"nearest: {', '.join(near)}" if near else f"the newest: {', '.join(reversed(ids[-3:]))}"
    raise UsageError(f"no run {name!r} in {root}", hint=told)


def _is_in_trash(name: str, root: Path) -> bool:
    """Whether a run called `name` was removed and lies in the trash of `root`."""
    if RUN_ID.match(name):
        with contextlib.suppress(OSError):
            return any(re.fullmatch(r"\d+", n.removeprefix(f"{name}.")) for n in os.listdir(root / TRASH))
    return False


def find_own(name: str, root: Path) -> Run:
    """The run in `root` that `name` means, for what changes or deletes it: as `find_run`, but never outside of `root`.

    Works for damaged runs too. `UsageError` for a path that leads elsewhere, a link, and what is no run's name.
    """
    cure = "give its id, and --runs-dir for runs of another folder"
    if "/" in name or name in ("", ".", ".."):
        run = Run(Path(name).absolute())
    else:
        run = Run(root / name) if name in run_ids(root) else find_run(name, root)
    if run.path.is_symlink():
        raise UsageError(
            f"{run.id} is a link to another folder", hint="what it leads to is left alone; remove the link"
        )
    inside = ".." not in run.path.parts and run.path.parent.resolve() == root.resolve()
    if not inside:
        raise UsageError(f"{name!r} leads out of {root}", hint=cure)
    if not RUN_ID.match(run.id) or not run.path.is_dir():
        raise UsageError(f"no run {name!r} in {root}", hint=cure)
    return Run(root / run.id)


def run_ids(root: Path) -> list[str]:
    """Ids of all runs in `root`, oldest first (by name, which starts with the date, then by age for runs named by hand)."""
    try:
        with os.scandir(root) as entries:
            dirs = [e for e in entries if RUN_ID.match(e.name) and e.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"cannot read {root}: {error.strerror}") from error
    dated = re.compile(r"^\d{8}-\d{6}-")

    def age(entry: os.DirEntry[str]) -> str:
        if dated.match(entry.name):
            return entry.name[:15]
        created = entry.stat().st_ctime
        with contextlib.suppress(OSError):
            created = os.stat(os.path.join(entry.path, "recipe.yaml")).st_mtime
        return datetime.fromtimestamp(created, UTC).strftime("%Y%m%d-%H%M%S")

    return [e.name for e in sorted(dirs, key=lambda e: (age(e), e.name))]


def _lines_from_the_end(handle: BinaryIO, block: int = 1 << 16) -> Iterator[bytes]:
    """The whole lines of a file, the last one first; a torn last line is left out."""
    at = handle.seek(0, os.SEEK_END)
    rest, first = b"", True
    while at > 0:
        size = min(block, at)
        at -= size
        handle.seek(at)
        *lines, last = (handle.read(size) + rest).split(b"\n")[::-1]
        rest = last
        if first and lines:
            lines, first = lines[1:], False
        yield from (line for line in lines if line)
    if rest and not first:
        yield rest


def _read_required(path: Path) -> dict[str, Any]:
    data = read_json(path)
    if not isinstance(data, dict):
        raise UsageError(f"{path.parent} is not a run directory: it has no {path.name}")
    return data
