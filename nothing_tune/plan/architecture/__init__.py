"""Shapes of decoder models from their config.json, and how many parameters an adapter trains. Pure."""

from __future__ import annotations

from nothing_tune.plan.architecture.adapters import adapter_parameters, adapts_experts
from nothing_tune.plan.architecture.families import family, shape
from nothing_tune.plan.architecture.matrices import block_linears
from nothing_tune.plan.architecture.model import Block, Experts, Linear, Shape, Unlisted

__all__ = [
    "Block",
    "Experts",
    "Linear",
    "Shape",
    "Unlisted",
    "adapter_parameters",
    "adapts_experts",
    "block_linears",
    "family",
    "shape",
]
