"""Checks of the software: Python, libraries against the tested set, which `tune` PATH finds, terminal, environment variables."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from nothing_tune.run.doctor.finding import FAIL, OK, SKIP, WARN, Finding
from nothing_tune.run.doctor.tested import MUST_MATCH, OPTIONAL, PYTHON, TESTED

SOFTWARE, SHELL = "software", "shell"
ALLOC = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Settings of torch's allocator; the second name is the old one (torch 2.9 renamed it, pytorch.org/docs/stable/notes/cuda.html)."""
OWN = {"TUNE_RUNS_DIR", "TUNE_CACHE_DIR", "TUNE_LLAMA_CPP", "TUNE_TRACEBACK", "TUNE_ALLOW_VERSION_DRIFT"}
"""Variables of ours that a person may set."""
INTERNAL = {
    "TUNE_ATTEMPT", "TUNE_OWNER", "TUNE_SUPERVISOR", "TUNE_STARTED", "TUNE_RUN_DIR", "TUNE_CHECKPOINT",
}  # fmt: skip
"""Variables of ours that the engine sets for its own processes."""
LIBRARIES = (
    "CUDA_LAUNCH_BLOCKING", "BNB_CUDA_VERSION", "LD_LIBRARY_PATH", "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "WANDB_MODE", "NCCL_P2P_DISABLE", "NCCL_DEBUG", "TOKENIZERS_PARALLELISM",
    "HTTPS_PROXY", "PYTHONPATH",
)  # fmt: skip
"""Variables of others that change what a run does."""
NEVER_SHOWN = ("HTTPS_PROXY", "HF_ENDPOINT")
"""Of these only that they are set: their values may hold a password."""


def python() -> Finding:
    """The interpreter and whether its version is one of the tested."""
    version, here = sys.version_info[:2], f"{sys.version.split()[0]} at {sys.executable}"
    low, high = (".".join(map(str, v)) for v in PYTHON)
    if version < PYTHON[0]:
        return Finding(SOFTWARE, "python", FAIL, f"{here}; {low} is the oldest that works", f"install Python {high}")
    if version > PYTHON[1]:
        return Finding(
            SOFTWARE,
            "python",
            WARN,
            f"{here}; tested are {low} to {high}",
            f"python{high} -m venv .venv, then install anew",
        )
    return Finding(SOFTWARE, "python", OK, here)


def packages() -> Iterator[Finding]:
    """One line for all libraries that are as tested, and one for each that is not."""
    from nothing_tune import __version__

    yield Finding(SOFTWARE, "nothing-tune", OK, f"{__version__} at {Path(__file__).parents[2]}")
    fine: list[Finding] = []
    odd: list[Finding] = []
    bounds = _bounds()
    for name, tested in TESTED.items():
        if name == "bitsandbytes" and sys.platform != "linux":
            continue
        found = _package(name, tested, bounds.get(name, ""))
        (fine if found.status == OK else odd).append(found)
    if fine:
        said = ", ".join(f.what for f in fine if f.name in MUST_MATCH)
        also = sum(f.name not in MUST_MATCH for f in fine)
        tail = f"{' and ' if said else ''}{also} more" if also else ""
        yield Finding(SOFTWARE, "libraries", OK, f"as tested: {said}{tail}")
    yield from odd


def _package(name: str, tested: str, bounds: str) -> Finding:
    here = version(name)
    cure = f"pip install {shlex.quote(f'{name}=={tested}')}"
    if here is None:
        lost = OPTIONAL.get(name)
        if lost:
            return Finding(SOFTWARE, name, WARN, "not installed", f"{cure}; {lost}")
        return Finding(SOFTWARE, name, FAIL, "not installed", cure)
    if not _within(here, bounds):
        return Finding(SOFTWARE, name, FAIL, f"{here} is installed, nothing-tune needs {bounds}", cure)
    if release(here)[:2] != release(tested)[:2]:
        serious = "; it decides what a training does" if name in MUST_MATCH else ""
        return Finding(SOFTWARE, name, WARN, f"{here} is installed, tested is {tested}{serious}", cure)
    return Finding(SOFTWARE, name, OK, f"{name} {here}")


def version(name: str) -> str | None:
    """The installed version of a package, from its metadata; None when it has none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def release(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` as (2, 13, 0): the numbers before any suffix."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(n) for n in found.group().split(".")) if found else ()


def _bounds() -> dict[str, str]:
    """Package -> `>=2.13,<3` as our own metadata has it; empty where nothing-tune is not installed as a package."""
    try:
        wanted = metadata.requires("nothing-tune") or []
    except metadata.PackageNotFoundError:
        return {}
    out = {}
    for line in wanted:
        found = re.match(r"([A-Za-z0-9_.-]+?)\s*(?:\[[^]]*\])?\s*\(?((?:[<>=!~]=?\s*[\w.*+!]+\s*,?\s*)+)\)?", line)
        if found and "extra" not in line:
            out[found[1]] = found[2].strip().rstrip(",")
    return out


def _within(here: str, bounds: str) -> bool:
    """Whether a version is within `>=a,<b`; clauses of other kinds count as met."""
    mine = release(here)
    for clause in bounds.split(","):
        found = re.match(r"\s*(>=|<=|<|>|==)\s*([\w.]+)", clause)
        if not found:
            continue
        theirs = release(found[2])
        size = max(len(mine), len(theirs))
        a, b = (v + (0,) * (size - len(v)) for v in (mine, theirs))
        met = {">=": a >= b, "<=": a <= b, "<": a < b, ">": a > b, "==": a == b}[found[1]]
        if not met:
            return False
    return True


def tune_on_path() -> Finding:
    """Whether the word `tune` starts this program: torchtune installs a `tune`, too, and so may another environment."""
    name, beside = "tune", Path(sys.executable).parent
    found = shutil.which("tune")
    if found is None:
        way = f'export PATH="{beside}:$PATH"' if (beside / "tune").is_file() else "python -m nothing_tune does the same"
        return Finding(SHELL, name, WARN, "PATH finds no program tune", way)
    text = _head(Path(found))
    ours = "nothing_tune" in text
    if not ours:
        whose = "torchtune's" if "torchtune" in text else "another program's"
        way = "call this one nothing-tune"
        if (beside / "tune").is_file() and beside != Path(found).parent:
            way += f'; export PATH="{beside}:$PATH"'
        return Finding(SHELL, name, WARN, f"PATH finds {found}, which is {whose}", way)
    interpreter = _interpreter(text)
    if interpreter and os.path.realpath(Path(interpreter).parent) != os.path.realpath(beside):
        return Finding(
            SHELL, name, WARN, f"PATH finds {found}, which belongs to {interpreter} and not to this Python",
            f'export PATH="{beside}:$PATH"',
        )  # fmt: skip
    return Finding(SHELL, name, OK, f"PATH finds {found}, which is this program")


def _interpreter(text: str) -> str:
    """The Python that a script is run by, as an absolute path; empty where it is whichever `env` finds, or none."""
    found = re.match(r"#!\s*(/\S*python[\d.]*)", text) or re.search(r"exec' \"?(/[^\"\n]*?python[\d.]*)\"? ", text)
    return found[1] if found else ""


def _head(path: Path, size: int = 4096) -> str:
    try:
        with open(path, "rb") as handle:
            return handle.read(size).decode("utf-8", "replace")
    except OSError:
        return ""


def terminal() -> Finding:
    """Whether what is printed can be UTF-8."""
    coding = (getattr(sys.stdout, "encoding", None) or "unknown").lower().replace("_", "-")
    files = sys.getfilesystemencoding().lower()
    where = "a terminal" if sys.stdout.isatty() else "a pipe or file"
    if coding not in ("utf-8", "utf8") or files not in ("utf-8", "utf8"):
        what = f"text is printed as {coding} and file names are {files}: some letters cannot be shown"
        return Finding(SHELL, "text", WARN, what, "export PYTHONUTF8=1")
    if sys.stdout.isatty() and os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        return Finding(SHELL, "text", OK, f"UTF-8 on a terminal without colours (TERM={os.environ.get('TERM', '')})")
    return Finding(SHELL, "text", OK, f"UTF-8, to {where}")


def variables() -> Iterator[Finding]:
    """Environment variables that change what a run does; what is wrong with them one by one, the rest in one line."""
    env, cpus = os.environ, os.cpu_count() or 1
    yield from _threads(env.get("OMP_NUM_THREADS"), cpus)
    for name in ALLOC:
        if name in env:
            yield from _alloc(name, env[name])
    for name in sorted(n for n in env if n.startswith("TUNE_")):
        if name in INTERNAL:
            yield Finding(SHELL, name, WARN, "is set here, but belongs to the engine's own processes", f"unset {name}")
        elif name not in OWN:
            yield Finding(SHELL, name, WARN, "is no variable that nothing-tune reads", f"unset {name}")
    if env.get("CUDA_LAUNCH_BLOCKING", "0") not in ("", "0"):
        what = "is set: every GPU call waits for the one before, which is slow"
        yield Finding(SHELL, "CUDA_LAUNCH_BLOCKING", WARN, what, "unset CUDA_LAUNCH_BLOCKING")
    told = [n for n in (*sorted(OWN), "CUDA_VISIBLE_DEVICES", *LIBRARIES) if env.get(n)]
    said = ", ".join(n if n in NEVER_SHOWN else f"{n}={_short(env[n])}" for n in told)
    yield (
        Finding(SHELL, "variables", OK, said) if said else Finding(SHELL, "variables", SKIP, "none that matter are set")
    )


def _threads(value: str | None, cpus: int) -> Iterator[Finding]:
    if value is None:
        return
    first = value.split(",")[0].strip()
    if not first.isdigit() or int(first) < 1:
        what = f"is {value!r}, which is no number of threads"
        yield Finding(SHELL, "OMP_NUM_THREADS", WARN, what, "unset OMP_NUM_THREADS")
    elif int(first) > cpus:
        what = f"is {first}, and this machine has {cpus} CPU{'s' if cpus > 1 else ''}: threads wait for each other"
        yield Finding(SHELL, "OMP_NUM_THREADS", WARN, what, f"export OMP_NUM_THREADS={cpus}")
    else:
        yield Finding(SHELL, "OMP_NUM_THREADS", OK, f"{first} of {cpus} CPUs")


def _alloc(name: str, value: str) -> Iterator[Finding]:
    known = {
        "backend", "max_split_size_mb", "roundup_power2_divisions", "garbage_collection_threshold", "expandable_segments",
        "pinned_use_cuda_host_register", "pinned_num_register_threads", "max_non_split_rounding_mb",
        "pinned_use_background_threads", "release_lock_on_cudamalloc", "graph_capture_record_stream_reuse",
        "pinned_reserve_segment_size_mb", "per_process_memory_fraction", "throw_on_cudamalloc_oom",
    }  # fmt: skip
    keys = [part.split(":")[0].strip() for part in re.sub(r"\[[^]]*\]", "", value).split(",") if part.strip()]
    odd = [k for k in keys if k not in known]
    if odd or any(":" not in part for part in re.sub(r"\[[^]]*\]", "", value).split(",") if part.strip()):
        what = f"is {value!r}, which torch may refuse: {', '.join(odd) or 'a value is missing'}"
        yield Finding(SHELL, name, WARN, what, f"export {ALLOC[0]}=expandable_segments:True")
    elif name == ALLOC[1]:
        yield Finding(SHELL, name, OK, f"{value} (its new name is {ALLOC[0]})")
    else:
        yield Finding(SHELL, name, OK, value)


def _short(value: str, most: int = 60) -> str:
    return value if len(value) <= most else f"{value[: most - 3]}..."
