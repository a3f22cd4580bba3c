"""What the job `probe` of the engine found: the libraries really imported, in a process of its own that may crash or hang."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nothing_tune.launchers import local
from nothing_tune.run.doctor import gpus
from nothing_tune.run.doctor.finding import FAIL, OK, SKIP, WARN, Finding, gib
from nothing_tune.run.doctor.tested import TESTED

LIBRARIES = "libraries"
TIMEOUT_S = 120.0
"""Seconds for the whole probe: about 15 on two slow cores, more where the packages lie on a network disk."""
LOG_LINES = 3
TITLES = {
    "torch": "import torch", "cuda": "CUDA", "together": "imports", "bitsandbytes": "bitsandbytes", "attention": "attention",
    "kernels": "arithmetic",
}  # fmt: skip
"""Step of the probe -> what the page calls it."""
WORST_ERROR = 0.15
"""Relative error of a 4-bit round trip above which it is broken: nf4 with blocks of 64 leaves about 0.09 on normal numbers
(QLoRA, arXiv 2305.14314, describes the type; the figure is measured)."""


@dataclass(frozen=True)
class Probe:
    """What came of the process.

    Attributes:
        events: What it said, in order: `begin`, `found`, `wrong`, each with `what`.
        code: Its exit code, negative for a signal; None where it was killed after `TIMEOUT_S`.
        log: The last lines of what the libraries said.
    """

    events: tuple[dict[str, Any], ...]
    code: int | None
    log: tuple[str, ...] = ()
    seconds: float = TIMEOUT_S


def run_probe(timeout_s: float = TIMEOUT_S) -> Probe:
    """Runs the job and waits for it; kills it, with all it started, after `timeout_s` seconds."""
    handle, name = tempfile.mkstemp(prefix="tune-probe-", suffix=".log")
    os.close(handle)
    log = Path(name)
    try:
        process = local.job(["probe"], log)
        code: int | None
        try:
            said, _ = process.communicate(b"{}\n", timeout=timeout_s)
            code = process.returncode
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            said, code = process.communicate()[0], None
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        return Probe(_events(said), code, tuple([line for line in lines if line][-LOG_LINES:]), timeout_s)
    finally:
        log.unlink(missing_ok=True)


def _events(said: bytes) -> tuple[dict[str, Any], ...]:
    out = []
    for line in said.splitlines():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and event.get("type"):
                out.append(event)
    return tuple(out)


def findings(probe: Probe) -> Iterator[Finding]:
    """What the probe means, one finding a step."""
    done = {}
    for event in probe.events:
        what = str(event.get("what"))
        if event["type"] == "found":
            done[what] = event
            yield from _found(what, event)
        elif event["type"] == "wrong":
            done[what] = event
            yield _wrong(what, event)
        elif event["type"] == "error":
            done["error"] = event
            yield Finding(LIBRARIES, "probe", FAIL, str(event.get("what")), str(event.get("hint") or _again("torch")))
    ended = probe.code in (0, None) or "error" in done
    last = next((str(e.get("what")) for e in reversed(probe.events) if e["type"] == "begin"), "")
    if probe.code is None or not ended or not done:
        yield _cut_off(probe, last)


def _cut_off(probe: Probe, step: str) -> Finding:
    """The process was killed by a signal, hung, or said nothing."""
    name = TITLES.get(step, "engine")
    doing = {
        "torch": "importing torch", "together": "importing the libraries together", "bitsandbytes": "trying bitsandbytes",
    }.get(step, f"looking at {name}" if step else "starting the engine")  # fmt: skip
    said = f": {probe.log[-1]}" if probe.log else ""
    if probe.code is None:
        what = f"{doing} did not end within {probe.seconds:.0f} s{said}"
        cure = "python -X faulthandler -X importtime -c 'import torch' shows where; a slow network disk, or a driver that hangs"
    elif probe.code < 0:
        what = f"{doing} was ended by signal {-probe.code} ({_signal(-probe.code)}){said}"
        cure = _again("bitsandbytes" if step == "bitsandbytes" else "torch")
    else:
        what = f"{doing} ended with code {probe.code}{said}"
        cure = _again("torch")
    return Finding(LIBRARIES, name, FAIL, what, cure)


def _again(package: str) -> str:
    return f"pip install --force-reinstall {package}=={TESTED[package]}"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _wrong(step: str, event: dict[str, Any]) -> Finding:
    error, package = str(event.get("error") or "unknown"), str(event.get("package") or "")
    cure = {
        "together": "install the tested set: pip install "
        + " ".join(f"{n}=={TESTED[n]}" for n in ("transformers", "trl", "peft", "accelerate")),
        "bitsandbytes": _again("bitsandbytes"),
        "cuda": "nvidia-smi shows whether the driver is well; a restart of the machine or container often mends it",
    }.get(step, _again("torch"))
    status = WARN if step == "attention" else FAIL
    if step == "bitsandbytes" and sys.platform != "linux":
        return Finding(
            LIBRARIES, TITLES[step], SKIP, "it is for Linux; adapters train without it, on weights in 16 bits"
        )
    doing = f"import {package}: " if package else ""
    return Finding(LIBRARIES, TITLES.get(step, step), status, f"{doing}{error}", cure)


def _found(step: str, event: dict[str, Any]) -> Iterator[Finding]:
    reader = {
        "torch": _torch, "cuda": _cuda, "together": _together, "bitsandbytes": _bitsandbytes, "attention": _attention,
        "kernels": _kernels,
    }.get(step)  # fmt: skip
    if reader:
        yield from reader(event)


def _torch(event: dict[str, Any]) -> Iterator[Finding]:
    yield Finding(
        LIBRARIES,
        TITLES["torch"],
        OK,
        f"{event.get('version')} in {event.get('seconds', 0):.1f} s, {event.get('threads')} threads",
    )


def _together(event: dict[str, Any]) -> Iterator[Finding]:
    names = ", ".join(event.get("packages") or ())
    yield Finding(LIBRARIES, TITLES["together"], OK, f"{names} in one process, {event.get('seconds', 0):.1f} s")


def _cuda(event: dict[str, Any]) -> Iterator[Finding]:
    name = TITLES["cuda"]
    if not event.get("built"):
        yield Finding(LIBRARIES, name, SKIP, "this torch is built without CUDA")
        return
    if not event.get("available"):
        why = event.get("error") or "no GPU is visible to it"
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() in ("", "-1")
        status = FAIL if gpus.ask_driver().cards and not hidden else WARN
        yield Finding(
            LIBRARIES,
            name,
            status,
            f"torch is built for CUDA {event['built']} but cannot use it: {why}",
            "nvidia-smi shows whether the driver is well",
        )
        return
    for card in event.get("cards") or ():
        yield _card(event, card)


def _card(event: dict[str, Any], card: dict[str, Any]) -> Finding:
    name, capability = f"cuda:{card.get('index', 0)}", str(card.get("capability") or "")
    arches = [str(a) for a in event.get("arches") or ()]
    what = f"{card.get('name')}, {'bf16' if card.get('bf16') else 'no bf16'}"
    if card.get("error"):
        return Finding(LIBRARIES, name, FAIL, f"{what}: {card['error']}", "nvidia-smi shows whether the GPU is well")
    if arches and not runs_on(capability, arches):
        most = ", ".join(arches[-4:])
        what = f"{what}: compute capability {capability}, and this torch has code for {most} alone"
        return Finding(
            LIBRARIES,
            name,
            FAIL,
            what,
            "take a torch build with code for this GPU: https://pytorch.org/get-started/previous-versions",
        )
    return Finding(
        LIBRARIES, name, OK, f"{what}; {gib(float(card.get('free') or 0))} free of {gib(float(card.get('total') or 0))}"
    )


def runs_on(capability: str, arches: list[str]) -> bool:
    """Whether code for `arches` (`sm_80`, `compute_90`) runs on a GPU: the same major and no higher minor, or older portable code."""
    mine = _number(capability.replace(".", ""))
    if mine is None:
        return True
    for arch in arches:
        kind, _, text = arch.partition("_")
        theirs = _number(text)
        if theirs is None:
            continue
        same = theirs // 10 == mine // 10 and theirs <= mine
        if (kind == "sm" and (same if text.isdigit() else theirs == mine)) or (kind == "compute" and theirs <= mine):
            return True
    return False


def _number(text: str) -> int | None:
    digits = "".join(c for c in text if c.isdigit())
    return int(digits) if digits else None


def _bitsandbytes(event: dict[str, Any]) -> Iterator[Finding]:
    name, library = TITLES["bitsandbytes"], event.get("library")
    error, device = event.get("relative_error"), str(event.get("device") or "cpu")
    loaded = Path(str(library)).name if library else "no library of its own"
    what = f"{event.get('version')}, {loaded}"
    if event.get("missing"):
        why = str(event["missing"]).strip()
        status = FAIL if event.get("cuda") else WARN
        cure = (
            _again("bitsandbytes")
            if status == FAIL
            else "4-bit models load slowly without it; quantization=null trains without"
        )
        yield Finding(LIBRARIES, name, status, f"{what}: {why}", cure)
    elif event.get("cuda") and library and "cpu" in loaded:
        yield Finding(
            LIBRARIES,
            name,
            FAIL,
            f"{what}: the library for the CPU is loaded, and there is a GPU",
            _again("bitsandbytes"),
        )
    elif event.get("failed"):
        yield Finding(
            LIBRARIES,
            name,
            FAIL,
            f"{what}: a 4-bit round trip on {device} failed: {event['failed']}",
            _again("bitsandbytes"),
        )
    elif not isinstance(error, int | float) or not error <= WORST_ERROR:
        yield Finding(
            LIBRARIES,
            name,
            FAIL,
            f"{what}; a 4-bit round trip on {device} is off by {_share(error)}",
            _again("bitsandbytes"),
        )
    else:
        yield Finding(
            LIBRARIES, name, OK, f"{what}; a 4-bit round trip on {device} is off by {_share(error)}, as it should be"
        )


def _share(value: Any) -> str:
    return f"{value * 100:.0f} %" if isinstance(value, int | float) and value == value else "an unknown part"


def _attention(event: dict[str, Any]) -> Iterator[Finding]:
    flash = event.get("flash_attn")
    kinds = ", ".join(event.get("kernels") or ()) or "one way"
    more = f"; flash-attn {flash}" if flash else "; flash-attn is not installed, and is not needed"
    if not event.get("right"):
        yield Finding(
            LIBRARIES, TITLES["attention"], FAIL, f"sdpa gives wrong numbers on {event.get('device')}", _again("torch")
        )
    elif event.get("flash_error"):
        what = f"sdpa works ({kinds}); flash-attn cannot be imported: {event['flash_error']}"
        yield Finding(
            LIBRARIES, TITLES["attention"], WARN, what, "pip uninstall flash-attn; or model.attn_implementation=sdpa"
        )
    else:
        yield Finding(LIBRARIES, TITLES["attention"], OK, f"sdpa works ({kinds}){more}")


def _kernels(event: dict[str, Any]) -> Iterator[Finding]:
    error, dtype, device = event.get("relative_error"), event.get("dtype"), event.get("device")
    if isinstance(error, int | float) and error <= 0.05:
        yield Finding(LIBRARIES, TITLES["kernels"], OK, f"a gradient in {dtype} on {device} is right")
    else:
        yield Finding(
            LIBRARIES,
            TITLES["kernels"],
            FAIL,
            f"a gradient in {dtype} on {device} is off by {_share(error)}",
            _again("torch"),
        )
