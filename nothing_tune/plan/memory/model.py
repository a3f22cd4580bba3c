"""What an estimate of GPU memory says, and the margins it takes. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ARITHMETIC, SIMULATION = "arithmetic", "simulation"
TERMS = ("weights", "adapters", "gradients", "optimizer", "activations", "logits", "context", "fragmentation")
"""The parts of an estimate, in the order of the page."""
CONTEXT = 600 * 2**20
"""Bytes outside PyTorch's allocator: the CUDA context and the libraries' workspaces. Assumed: 300 to 800 MiB are reported
for Turing to Hopper; not measured here."""
FRAGMENTATION = 0.05
"""Share of the allocated bytes that the allocator reserves besides. Assumed, not measured here."""
BELOW, ABOVE = 0.05, 0.12
"""Shares by which the allocated bytes may be less or more than counted. 23 peaks measured on a T4 (fitcheck 0.3.0 README) are
2.4 % less to 11.3 % more, all but eager attention and full fine-tuning within 4.6 %; 44 simulated steps of 8 families are
0.4 % less to 5.7 % more (2026-11-21)."""


@dataclass(frozen=True)
class Estimate:
    """The peak of GPU memory of one training step.

    Attributes:
        terms: Bytes by `TERMS`: what is there at the peak; they add up to `peak`.
        peak: Bytes.
        low: Bytes that are needed at least.
        high: Bytes that are enough by all that is known.
        rows: Rows of the micro batch.
        length: Tokens of each.
        method: `arithmetic` or `simulation`.
        notes: What a reader may ask about these numbers: when the peak is, what is not quantised, why the band is wide.
    """

    terms: dict[str, int]
    peak: int
    low: int
    high: int
    rows: int
    length: int
    method: str
    notes: tuple[str, ...] = ()

    @property
    def allocated(self) -> int:
        """Bytes that PyTorch allocates: without context and fragmentation, as `torch.cuda.max_memory_allocated` counts."""
        return self.peak - self.terms.get("context", 0) - self.terms.get("fragmentation", 0)


SIMULATED = 0.05
"""Share by which the simulation may be off, of the allocated bytes: real CPU steps, docs/measurements/memory.md."""


def of_simulation(terms: Mapping[str, int], rows: int, length: int) -> Estimate:
    """The estimate for what the job `simulate` counted: `terms` without the margins, `rows` x `length` tokens."""
    counted = {name: int(terms.get(name) or 0) for name in TERMS}
    allocated = sum(counted.values())
    counted |= {"context": CONTEXT, "fragmentation": int(allocated * FRAGMENTATION)}
    low = CONTEXT + int(allocated * (1 - SIMULATED))
    high = CONTEXT + int(allocated * (1 + SIMULATED) * (1 + FRAGMENTATION))
    return Estimate(counted, sum(counted.values()), low, high, rows, length, SIMULATION)
