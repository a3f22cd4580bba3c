"""The optimizer of a plan, for fake weights: the real class where it runs on them, else what its states hold."""

from __future__ import annotations

from typing import Any

import torch

from nothing_tune.errors import PlanError, Problem

EIGHT_BIT_BLOCK = 256
"""Elements that share a scale (bitsandbytes 0.50, optim/optimizer.py)."""
EIGHT_BIT_FROM = 4096
"""Weights with fewer elements keep 32-bit states (`min_8bit_size`, same place)."""
STATES = {"adam": 2, "ademamix": 3, "lion": 1, "rmsprop": 1}
"""Values that an optimizer of bitsandbytes keeps for each weight: moments."""
FOREACH = ("adamw_torch", "sgd", "adagrad", "rmsprop")
"""Optimizers of PyTorch that work on lists of all weights at once on CUDA, which takes memory for the time of the step."""


class Kept(torch.optim.Optimizer):
    """Keeps what an optimizer of bitsandbytes keeps on the GPU, and computes nothing.

    Paged states are managed memory that CUDA moves to the host when room is short; PyTorch does not count them.
    """

    def __init__(self, parameters: Any, moments: int, bits: int, paged: bool) -> None:
        """`moments` values a weight of `bits` bits; with 8 bits a float32 scale for each block of them."""
        super().__init__(parameters, {})
        self.moments, self.bits, self.paged = moments, bits, paged

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Makes the states where there are none."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None or self.state[weight]:
                    continue
                small = self.bits == 32 or weight.numel() < EIGHT_BIT_FROM
                kind = torch.float32 if small else torch.uint8
                if not (self.paged and weight.numel() >= 100_000):  # smaller ones are never paged (get_state_buffer)
                    self.state[weight]["moments"] = [torch.empty(weight.shape, dtype=kind) for _ in range(self.moments)]
                if not small:
                    blocks = -(-weight.numel() // EIGHT_BIT_BLOCK)
                    self.state[weight]["scales"] = [torch.empty(blocks) for _ in range(self.moments)]
                self.state[weight].setdefault("moments", [])


def optimizer(args: Any, model: Any, foreach: bool) -> torch.optim.Optimizer:
    """The optimizer that Trainer would make from `args`, over the weights of `model` that are trained.

    `foreach`: whether it works on all weights at once, as PyTorch does on CUDA.

    Raises:
        PlanError: It is one that is not simulated.
    """
    from transformers import Trainer

    name = str(getattr(args.optim, "value", args.optim))
    trained = [p for p in model.parameters() if p.requires_grad]
    family = next((f for f in STATES if f in name), None)
    theirs = "bnb" in name or "paged" in name or family in ("lion", "ademamix") or name == "adamw_8bit"
    if family and theirs:
        return Kept(trained, STATES[family], 8 if "8bit" in name else 32, "paged" in name)
    refused = Problem(
        f"the memory of optimizer {name} is not simulated",
        key="training.optim",
        hint="use an adamw, sgd, adafactor or bitsandbytes optimizer",
    )
    try:
        kind, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
    except (ImportError, ValueError) as error:
        raise PlanError(refused) from error
    if not kind.__module__.startswith(("torch.optim", "transformers")):
        raise PlanError(refused)
    if name in FOREACH:
        kwargs["foreach"] = foreach
    made: torch.optim.Optimizer = kind(trained, **kwargs)
    return made
