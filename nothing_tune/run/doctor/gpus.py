"""Checks of the GPUs, by the driver's own library (NVML) and by what the torch package says of itself: torch is not imported.

What one torch build and one driver can do together: NVIDIA's table of CUDA compatibility (docs.nvidia.com/deploy/cuda-compatibility,
"minor version compatibility": any 11.x runs from driver 450.80.02 on, any 12.x from 525.60.13, any 13.x from 580.65.06).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nothing_tune import discovery
from nothing_tune.run.doctor.finding import FAIL, OK, SKIP, WARN, Finding
from nothing_tune.run.doctor.software import version
from nothing_tune.run.doctor.tested import TESTED

GPU = "GPU"
MAJORS = {11: "450.80", 12: "525.60", 13: "580.65"}
"""CUDA major version of a torch build -> the oldest driver that runs it."""
BUSY_SHARE = 0.1
"""Share of a GPU's memory that others may hold before it is worth a warning."""


@dataclass(frozen=True)
class Build:
    """What the torch package says of itself, from its version.py. `cuda` such as `12.8`; None for a build without CUDA."""

    version: str
    cuda: str | None
    hip: str | None


@dataclass(frozen=True)
class Card:
    """One GPU. Memory in bytes, None where the driver does not tell; `capability` such as `8.9`; `others` are processes on it."""

    index: int
    name: str
    total: int
    free: int | None
    capability: str
    others: tuple[tuple[int, int | None], ...] = ()


@dataclass(frozen=True)
class Machine:
    """What NVML told: `why` it told nothing, or driver, its CUDA version (`12.8`) and the cards."""

    why: str = ""
    driver: str = ""
    cuda: str = ""
    cards: tuple[Card, ...] = ()


def torch_build() -> Build | None:
    """The installed torch build without importing it; None when torch is not installed."""
    spec = find_spec("torch")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        path = Path(folder) / "version.py"
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            known = {n: _assigned(n, text) for n in ("__version__", "cuda", "hip")}
            return Build(known["__version__"] or version("torch") or "unknown", known["cuda"], known["hip"])
    return None


def _assigned(name: str, text: str) -> str | None:
    found = re.search(rf"^{name}(?:\s*:[^=\n]+)?\s*=\s*['\"]([^'\"]*)['\"]", text, re.MULTILINE)
    return found[1] if found else None


def ask_driver() -> Machine:
    """What NVML says about this machine; never raises."""
    try:
        import pynvml
    except ImportError:
        return Machine(why="the package nvidia-ml-py is not installed")
    except Exception as error:
        return Machine(why=f"the package nvidia-ml-py cannot be imported: {error}")
    try:
        pynvml.nvmlInit()
    except Exception as error:  # NVMLError, or whatever a broken driver brings
        return Machine(why=str(error) or type(error).__name__)
    try:
        count = int(_ask(pynvml, "nvmlDeviceGetCount") or 0)
        cards = [card for n in range(count) if (card := _card(pynvml, n)) is not None]
        driver = _text(_ask(pynvml, "nvmlSystemGetDriverVersion"))
        number = _ask(pynvml, "nvmlSystemGetCudaDriverVersion_v2") or _ask(pynvml, "nvmlSystemGetCudaDriverVersion")
        cuda = f"{int(number) // 1000}.{int(number) % 1000 // 10}" if number else ""
        return Machine("", driver, cuda, tuple(cards))
    finally:
        with contextlib.suppress(Exception):
            pynvml.nvmlShutdown()


def _ask(nvml: Any, name: str, *arguments: Any) -> Any:
    """What one NVML function answers; None where it is not there or refuses."""
    function: Callable[..., Any] | None = getattr(nvml, name, None)
    if function is None:
        return None
    try:
        return function(*arguments)
    except Exception:
        return None


def _card(nvml: Any, index: int) -> Card | None:
    handle = _ask(nvml, "nvmlDeviceGetHandleByIndex", index)
    if handle is None:
        return None
    memory = _ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    capability = _ask(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    others = []
    for process in _ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle) or ():
        if getattr(process, "pid", None) not in (None, os.getpid()):
            others.append((int(process.pid), getattr(process, "usedGpuMemory", None)))
    return Card(
        index,
        _text(_ask(nvml, "nvmlDeviceGetName", handle)) or "unknown",
        int(getattr(memory, "total", 0) or 0),
        None if getattr(memory, "free", None) is None else int(memory.free),
        ".".join(map(str, capability)) if capability else "",
        tuple(others),
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


def gpus() -> Iterator[Finding]:
    """Driver, torch build against it, and each GPU."""
    machine, build = ask_driver(), torch_build()
    if not machine.cards:
        yield from _no_gpu(machine, build)
        return
    supports = f", supports CUDA {machine.cuda}" if machine.cuda else ""
    yield Finding(GPU, "driver", OK, f"{machine.driver or 'of unknown version'}{supports}")
    yield torch_against(build, machine)
    yield from _visible(machine)
    for card in machine.cards:
        yield _described(card)


def _no_gpu(machine: Machine, build: Build | None) -> Iterator[Finding]:
    devices = sorted(p.name for p in Path("/dev").glob("nvidia[0-9]*"))
    made = f"torch {build.version}" if build else "torch is not installed"
    if devices or Path("/proc/driver/nvidia/version").exists():
        why = machine.why or "it lists none"
        what = f"there is an NVIDIA device ({', '.join(devices) or 'its kernel module'}), but the driver's library finds no GPU: {why}"
        cure = "nvidia-smi shows more; in a container: docker run --gpus all, after installing nvidia-container-toolkit"
        yield Finding(GPU, "driver", FAIL, what, cure)
    elif discovery.has_mps():
        yield Finding(GPU, "driver", SKIP, f"Apple silicon: trains LoRA on its GPU without bitsandbytes; {made}")
    elif "not installed" in machine.why or "imported" in machine.why:
        cure = f"pip install nvidia-ml-py=={TESTED['nvidia-ml-py']}"
        yield Finding(GPU, "driver", WARN, f"GPUs cannot be looked for: {machine.why}", cure)
    else:
        yield Finding(GPU, "driver", SKIP, f"no NVIDIA GPU here, so runs train on the CPU; {made}")
    if build and build.cuda is None and build.hip:
        yield Finding(
            GPU, "torch", WARN, f"{build.version} is for AMD GPUs (ROCm {build.hip}), which is not tested", ""
        )


def torch_against(build: Build | None, machine: Machine) -> Finding:
    """Whether the torch build can use the GPUs that the driver finds."""
    want = f"pip install --force-reinstall torch=={TESTED['torch']}"
    if build is None:
        return Finding(GPU, "torch", FAIL, "torch is not installed", f"pip install torch=={TESTED['torch']}")
    if build.cuda is None:
        what = f"{build.version} is built for the CPU alone, and there is a GPU ({machine.cards[0].name})"
        return Finding(GPU, "torch", FAIL, what, f"{want} --index-url https://pypi.org/simple")
    built, driver = _pair(build.cuda), _pair(machine.cuda)
    if driver and built and built[0] > driver[0]:
        oldest = MAJORS.get(built[0])
        what = f"{build.version} needs CUDA {build.cuda}, the driver {machine.driver} supports {machine.cuda}"
        cure = (
            f"update the driver{f' to {oldest} or newer' if oldest else ''}, or take a torch built for CUDA {driver[0]}"
        )
        return Finding(GPU, "torch", FAIL, what, f"{cure}: https://pytorch.org/get-started/previous-versions")
    if built and not driver:
        oldest, have = MAJORS.get(built[0]), _pair(machine.driver)
        if oldest and have and have < (_pair(oldest) or (0, 0)):
            what = f"{build.version} (CUDA {build.cuda}) needs driver {oldest} or newer, here is {machine.driver}"
            return Finding(GPU, "torch", FAIL, what, f"update the driver to {oldest} or newer")
    close = f", which runs on a driver for {machine.cuda}" if driver and built and built > driver else ""
    return Finding(GPU, "torch", OK, f"{build.version}, built for CUDA {build.cuda}{close}")


def _pair(text: str) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _visible(machine: Machine) -> Iterator[Finding]:
    """What CUDA_VISIBLE_DEVICES leaves of the GPUs."""
    name, value, count = "CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES"), len(machine.cards)
    if value is None:
        if count > 1:
            what = f"{count} GPUs; a run of one process trains on the first: launch.processes={count} uses all"
            yield Finding(GPU, "visible", OK, what)
        return
    words = [w.strip() for w in value.split(",")]
    if words[0] in ("", "-1"):
        what = f"{name} is {value!r}: no GPU is visible, and runs train on the CPU"
        yield Finding(GPU, "visible", WARN, what, f"unset {name}")
        return
    absent = [w for w in words if w.lstrip("-").isdigit() and not 0 <= int(w) < count]
    if absent:
        what = f"{name} names GPU {', '.join(absent)}, and there {'are' if count > 1 else 'is'} {count}, counted from 0"
        yield Finding(GPU, "visible", FAIL, what, f"export {name}=0")
    else:
        yield Finding(GPU, "visible", OK, f"{name}={value}")


def _described(card: Card) -> Finding:
    from nothing_tune.recipe.machine import match

    name, total = f"gpu {card.index}", card.total / 1e9
    capability = card.capability or "0.0"
    layer = match(discovery.Gpu(card.name, round(total, 1) or 1.0, capability))["name"]
    facts = [f"{total:.1f} GB"]
    facts += [f"{card.free / 1e9:.1f} GB free"] if card.free is not None else []
    facts += [f"compute capability {card.capability}"] if card.capability else []
    facts += ["bf16" if int(capability.split(".")[0]) >= 8 else "no bf16, so fp16"]
    what = f"{card.name}: {', '.join(facts)}; layer gpus/{layer}"
    taken = 0 if card.free is None else card.total - card.free
    if card.others and taken > BUSY_SHARE * card.total:
        pids = ", ".join(str(pid) for pid, _ in card.others[:4])
        more = f" and {len(card.others) - 4} more" if len(card.others) > 4 else ""
        held = f"; {taken / 1e9:.1f} GB is held by process{'es' if len(card.others) > 1 else ''} {pids}{more}"
        return Finding(
            GPU, name, WARN, f"{what}{held}", f"ps -fp {card.others[0][0]} says what it is; end it, or take another GPU"
        )
    if taken > 0.5 * card.total:
        return Finding(GPU, name, WARN, f"{what}; others hold {taken / 1e9:.1f} GB", "nvidia-smi shows who")
    return Finding(GPU, name, OK, what)
