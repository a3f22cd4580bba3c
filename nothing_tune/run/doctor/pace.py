"""What a run's speed and memory say, and what went wrong beside the training: checkpoints, trackers, the disk."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from nothing_tune.artifacts import attempts
from nothing_tune.run.doctor import cause
from nothing_tune.run.doctor.cause import ADVICE, MARCO, OURS, STUDIO, WARN, Cause
from nothing_tune.run.doctor.numbers import finite, level, third
from nothing_tune.run.doctor.record import Record

SLOW = 0.05
"""Share of a GPU's rated arithmetic below which a training is slow: adapters on 4-bit weights reach 0.1 to 0.3, whole models
0.3 to 0.5 (PaLM, arXiv 2204.02311, reports 0.46)."""
FALLING = 0.6
"""Speed of the last third against the first third below which a run slows down."""
FEWEST = 9
FULL = 0.97
"""Share of the GPU's memory above which the next long row may not fit."""
IDLE = 0.5
"""Share of the GPU's memory below which a slow run may take larger batches."""
EVALUATING = 0.3
"""Share of the time that evaluating may take."""
SWAPPED_GIB = 0.5
PROC = Path("/proc")


def utilisation(r: Record) -> float | None:
    """Share of the GPU's rated arithmetic that the logged speed is; None where GPU, size or speed are not known.

    A token costs 2 operations per weight forwards and 2 backwards for the activations, 2 more for the gradients of weights that
    are trained, and the forward pass again where activations are recomputed (Kaplan et al., arXiv 2001.08361, without attention).
    """
    speeds = [log.tokens_per_s for log in r.logs[1:] if log.tokens_per_s]
    start, gpu = (r.events.get("start") or [{}])[-1], r.plan.get("gpu") or {}
    weights, trained = start.get("total_parameters"), start.get("trainable_parameters")
    half = r.training.get("bf16") or not r.training.get("fp16")
    rated = gpu.get("tflops_bf16" if half else "tflops_fp16") or gpu.get("tflops_fp16")
    if len(speeds) < 3 or not r.on_gpu or not finite(weights) or not finite(trained) or not finite(rated) or rated <= 0:
        return None
    recomputes = bool(r.training.get("activation_checkpointing", r.training.get("gradient_checkpointing", True)))
    per_token = (6 if recomputes else 4) * weights + 2 * trained
    return float(level(speeds) * per_token / (rated * 1e12 * max(int(r.plan.get("world_size") or 1), 1)))


def slow(r: Record) -> Cause | None:
    """Far below what the GPU can do."""
    share = utilisation(r)
    if share is None or share >= SLOW:
        return None
    gpu, t = r.plan.get("gpu") or {}, r.training
    speed, memory = level([log.tokens_per_s for log in r.logs[1:] if log.tokens_per_s]), _memory(r)
    room = float(gpu.get("memory_gb") or 0) * 1e9 / 2**30
    micro, steps = int(t.get("per_device_train_batch_size") or 8), int(t.get("gradient_accumulation_steps") or 1)
    evidence = cause.said(
        f"{speed:,.0f} tokens/s, {share * 100:.1f} % of what a {gpu.get('name')} is rated for",
        f"{memory:.1f} of {room:.0f} GiB used" if memory and room else "", f"micro batch {micro}, accumulation {steps}",
    )  # fmt: skip
    cures = []
    if memory and room and memory < IDLE * room and steps > 1:
        more = 2 if steps % 2 == 0 else steps
        cures.append(
            (
                cause.again(
                    r,
                    f"training.per_device_train_batch_size={micro * more}",
                    f"training.gradient_accumulation_steps={steps // more}",
                ),
                "larger batches at once; the rows of a step stay",
            )
        )
    if memory and room and memory < IDLE * room and t.get("activation_checkpointing") is not False:
        cures.append(
            (
                cause.again(r, "training.activation_checkpointing=false"),
                "keeps activations: a fifth to a third faster, more memory",
            )
        )
    if not t.get("packing"):
        cures.append((cause.again(r, "training.packing=true"), "no padding, where rows are short"))
    if not t.get("dataloader_num_workers"):
        cures.append((f"tune resume {r.name} training.dataloader_num_workers=2", "rows are read beside the training"))
    cures += [
        ("tune doctor", "whether others use the GPU, and whether torch fits it"),
        ("tune list gpus", "a faster GPU, or a smaller model: tune list models"),
    ]
    return Cause(
        "slow",
        WARN,
        "the training is slow for its GPU",
        evidence,
        "small batches, padding, rows that are waited for, or others on the same GPU",
        tuple(cures),
        f"{STUDIO}; {MARCO}",
    )


def slowing(r: Record) -> Cause | None:
    """Slower and slower."""
    speeds = [log.tokens_per_s for log in r.logs[1:] if log.tokens_per_s]
    if len(speeds) < FEWEST:
        return None
    first, last = level(third(speeds, 0)), level(third(speeds, 2))
    if last >= FALLING * first:
        return None
    cures = (
        ("nvidia-smi -q -d PERFORMANCE", "whether the GPU is throttled by heat or power"),
        ("tune doctor", "memory, disk, and others on the GPU"),
        (cause.resume(r), "from a fresh process, after tune stop"),
    )
    what = f"it slows down: {first:,.0f} tokens/s in the first third, {last:,.0f} in the last"
    return Cause(
        "slowing",
        WARN,
        what,
        (f"{last / first * 100:.0f} % of the speed it had",),
        "another program took its share, memory is swapped out, or the GPU is too hot",
        cures,
        MARCO,
    )


def swapping(r: Record) -> Cause | None:
    """A worker on this machine whose memory lies on the disk (Linux, /proc/PID/status)."""
    pid = r.status.get("worker")
    if not r.held or not isinstance(pid, int) or not attempts.is_here(dict(r.held)):
        return None
    try:
        text = (PROC / str(pid) / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"^VmSwap:\s+(\d+) kB", text, re.MULTILINE)
    swapped = int(found[1]) / 2**20 if found else 0.0
    if swapped < SWAPPED_GIB:
        return None
    cures = (
        (f"tune stop {r.name}", "saves and stops, to go on where there is more memory"),
        (f"tune resume {r.name} training.dataloader_num_workers=0", "each worker holds a copy of what it reads"),
        ("ps aux --sort=-rss | head", "who else has the memory"),
    )
    what = f"{swapped:.1f} GiB of its memory are swapped out to the disk"
    return Cause(
        "swapping",
        WARN,
        what,
        (f"process {pid}",),
        "the machine has too little memory for all that runs on it",
        cures,
        OURS,
    )


def tight(r: Record) -> Cause | None:
    """GPU memory that is nearly full."""
    gpu, memory = r.plan.get("gpu") or {}, _memory(r)
    room = float(gpu.get("memory_gb") or 0) * 1e9 / 2**30
    if not r.on_gpu or not memory or not room or memory < FULL * room:
        return None
    what = f"the GPU's memory is nearly full: {memory:.1f} of {room:.1f} GiB"
    return Cause(
        "memory-tight",
        ADVICE,
        what,
        (),
        "a longer row than any so far may not fit; tune would then halve the micro batch by itself",
        (("export PYTORCH_ALLOC_CONF=expandable_segments:True", "less memory lost between blocks"),),
        MARCO,
    )


def adjusted(r: Record) -> Cause | None:
    """Out of memory that was dealt with."""
    if not r.adjustments or r.code == 71:
        return None
    evidence = tuple(f"step {a.get('step') or 0}: {a.get('what')}" for a in r.adjustments)
    t = r.training
    micro, steps = t.get("per_device_train_batch_size"), t.get("gradient_accumulation_steps")
    keys = (
        [f"training.per_device_train_batch_size={micro}", f"training.gradient_accumulation_steps={steps}"]
        if micro and steps
        else []
    )
    cures = ((" ".join(keys), "in the recipe: the next run starts with it"),) if keys else ()
    return Cause(
        "adjusted",
        ADVICE,
        "it ran out of memory and went on with less at once",
        evidence,
        "the global batch stayed, so the result is that of the recipe",
        cures,
        OURS,
    )


def evaluating(r: Record) -> Cause | None:
    """Evaluations that take much of the time."""
    known = [e.seconds for e in r.evaluations if e.seconds]
    if len(known) < 2 or len(r.logs) < 2:
        return None
    took, span = sum(known), r.logs[-1].time - r.logs[0].time
    if span <= 60 or took < EVALUATING * span:
        return None
    every = r.training.get("eval_steps")
    cures = (
        ((f"training.eval_steps={int(every * 2)}", f"half as often, every {every:g} steps now"),)
        if isinstance(every, int | float) and every >= 1
        else ()
    )
    rows = int(r.training.get("per_device_eval_batch_size") or 8)
    cures = (
        *cures,
        (f"training.per_device_eval_batch_size={2 * rows}", "more rows at once: an evaluation keeps no activations"),
    )
    return Cause(
        "evaluates-much",
        ADVICE,
        f"evaluating takes {took / span * 100:.0f} % of the time",
        (f"{len(known)} evaluations of {level(known):.0f} s",),
        "it evaluates often, or on many rows",
        cures,
        MARCO,
    )


def torn(r: Record) -> Cause | None:
    """Checkpoints that are damaged or were never completed."""
    bad = {step: why for step, why in r.faults.items() if why}
    aside = r.events.get("torn", [])
    if r.held and bad and all(why == "it was never completed" for why in bad.values()):
        bad = {}  # one that is being written
    if not bad and not aside:
        return None
    evidence = [f"checkpoint-{step}: {why}" for step, why in bad.items()]
    evidence += [f"{e.get('path')} is set aside as {e.get('to')}: {e.get('why')}" for e in aside[-3:]]
    whole = [s for s in r.saved if r.faults.get(s) is None]
    serious = any(why != "it was never completed" for why in bad.values())
    goes = f"goes on at step {whole[-1]}, the newest that is whole" if whole else "starts anew: none is whole"
    cures = ((f"tune runs verify {r.name}", "reads every byte"), (cause.resume(r), goes))
    why = (
        "a disk that is full or fails, or a copy that was cut off"
        if serious
        else "a save that was cut off when the process was ended; that is no loss"
    )
    count = len(bad) or len(aside)
    what = f"{cause.plural(count, 'checkpoint')} {'is' if count == 1 else 'are'} damaged or not complete"
    return Cause(
        "checkpoints",
        WARN if serious else ADVICE,
        what,
        tuple(evidence),
        why,
        cures if r.state != "done" else cures[:1],
        OURS,
    )


def tracker(r: Record) -> Cause | None:
    """A tracker that could not be reached or broke off."""
    told = cause.of_kind(r.events.get("warning", []), "what", "tracker", "CommError")
    told = [t for t in told if "tracker" in t or "wandb" in t]
    if not told:
        return None
    cures = (
        (f"tune runs sync {r.name}", "sends what is missing, once"),
        ("tune doctor", "looks at its key and its server"),
        (f"tune resume {r.name} tracking.mode=offline", "writes files that are sent later"),
    )
    return Cause(
        "tracker",
        WARN,
        "the tracker did not get everything; the training went on",
        tuple(told[:3]),
        "no key, no network, or a server that does not answer",
        cures,
        OURS,
    )


def hook(r: Record) -> Cause | None:
    """checkpoint.on_commit that failed: old checkpoints pile up."""
    told = cause.of_kind(r.events.get("warning", []), "what", "checkpoint.on_commit failed")
    if not told:
        return None
    command = str((r.plan.get("checkpoint") or {}).get("on_commit") or "the command")
    cures = (
        (command, "try it by hand, with TUNE_RUN_DIR and TUNE_CHECKPOINT set"),
        (f"df -h {r.run.path}", "older checkpoints are kept meanwhile"),
    )
    return Cause(
        "hook",
        WARN,
        f"checkpoint.on_commit failed {cause.plural(len(told), 'time')}",
        tuple(told[-2:]),
        "",
        cures,
        OURS,
    )


PACE: tuple[Callable[[Record], Cause | None], ...] = (
    slow, slowing, swapping, tight, adjusted, evaluating, torn, tracker, hook,
)  # fmt: skip


def _memory(r: Record) -> float | None:
    known = [log.memory_gib for log in r.logs if log.memory_gib is not None]
    return max(known, default=None)
