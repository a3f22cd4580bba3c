"""Advice on how batches reach the device."""

from __future__ import annotations

from collections.abc import Iterator

from nothing_tune.plan.advice.facts import MARCO, OURS, Advice, Facts, Rule, many

PIN, WORKERS = "training.dataloader_pin_memory", "training.dataloader_num_workers"
LARGE_GPU_GB = 40
"""Marco: off on a Colab T4, where memory is the limit, on on an A100."""
USUAL, MOST = 2, 4
"""Marco: 2 workers; 0 blocks the training, from 4 on each adds less."""


def pin_memory(facts: Facts) -> Iterator[Advice]:
    """Page-locked memory speeds up copies to a GPU of its own memory, and does nothing elsewhere."""
    pinned, memory = bool(facts.get(PIN, True)), facts.plan.gpu.get("memory_gb")
    if facts.kind != "cuda" and pinned:
        what, why, value = (
            f"page-locked memory for {facts.gpu}",
            "there is no GPU of its own memory to copy to",
            "false",
        )
    elif facts.kind == "cuda" and not pinned and memory and memory >= LARGE_GPU_GB:
        what = "host memory is not page-locked"
        why, value = (
            f"copies to {facts.gpu} are faster with it, and a machine with {memory:g} GB of GPU memory has room",
            "true",
        )
    else:
        return
    yield Advice("pin-memory", "advice", what, why, (f"{PIN}={value}",), PIN, f"{MARCO}, dataloader_pin_memory")


def workers(facts: Facts) -> Iterator[Advice]:
    """A worker prepares the next batch while the GPU works; more than there are processors to run them take each other's time."""
    number = int(facts.get(WORKERS, 0))
    needed = number * facts.plan.world_size
    if facts.kind == "cuda" and number == 0 and (facts.cpus is None or facts.cpus > facts.plan.world_size):
        fit = USUAL if facts.cpus is None else max(1, min(USUAL, (facts.cpus - 1) // facts.plan.world_size))
        what, why = "the training process prepares its batches itself", f"{facts.gpu} waits for each of them"
    elif facts.kind != "cuda" and number > 0:
        fit, what = 0, f"{many(number, 'worker')} beside a training on {facts.gpu}"
        why = "they take processors from the training itself"
    elif facts.cpus is not None and needed > max(facts.cpus, 1) and number > 1:
        fit = max(1, min(USUAL, facts.cpus // facts.plan.world_size))
        what = f"{many(needed, 'worker')} on {many(facts.cpus, 'processor')}"
        why = "they take each other's time"
    elif number > MOST:
        fit, what = USUAL, many(number, "worker")
        why = f"rows are tokenised before the run: batches are ready with {USUAL}, and each worker takes host memory"
    else:
        return
    if fit == number:
        return
    off = ("dataloader_prefetch_factor=null", "dataloader_persistent_workers=false") if fit == 0 else ()
    more = tuple(f"training.{word}" for word in off if facts.get(f"training.{word.partition('=')[0]}"))
    source = f"{MARCO}, dataloader_num_workers" if facts.kind == "cuda" else OURS
    yield Advice("workers", "advice", what, why, (f"{WORKERS}={fit}", *more), WORKERS, source)


RULES: tuple[Rule, ...] = (pin_memory, workers)
"""Rules of this file, in the order in which they are shown."""
