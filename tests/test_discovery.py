"""The GPU of this machine picks its layer; a GPU without one gets the generic layer, never silently the CPU's."""

from __future__ import annotations

import pytest

from nothing_tune import discovery
from nothing_tune.discovery import Gpu
from nothing_tune.recipe import load_recipe
from nothing_tune.recipe.machine import match, this_machine

KNOWN = [
    ("Tesla T4", 15.8, "7.5", "t4"),
    ("NVIDIA L4", 24.2, "8.9", "l4"),
    ("NVIDIA A10", 24.2, "8.6", "a10"),
    ("NVIDIA A10G", 24.2, "8.6", "a10g"),
    ("NVIDIA A100-SXM4-40GB", 42.4, "8.0", "a100-40gb"),
    ("NVIDIA A100-SXM4-80GB", 85.2, "8.0", "a100-80gb"),
    ("NVIDIA H100 80GB HBM3", 85.5, "9.0", "h100"),
    ("NVIDIA H200", 150.8, "9.0", "h200"),
    ("NVIDIA GeForce RTX 4090", 25.8, "8.9", "rtx-4090"),
    ("NVIDIA GeForce RTX 3060", 12.9, "8.6", "rtx-3060"),
]


@pytest.mark.parametrize(("vendor_name", "memory_gb", "capability", "layer"), KNOWN)
def test_what_the_driver_says_finds_the_layer(vendor_name: str, memory_gb: float, capability: str, layer: str) -> None:
    assert match(Gpu(vendor_name, memory_gb, capability))["name"] == layer


def test_an_unknown_gpu_gets_the_generic_layer_filled_by_the_driver() -> None:
    found = match(Gpu("NVIDIA GB999 Future", 512.0, "12.0"))
    assert found["name"] == "cuda"
    recipe = load_recipe("methods/qlora", machine=found)
    assert (recipe.get("gpu.slug"), recipe.get("gpu.bf16")) == ("nvidia-gb999-future", True)
    old = load_recipe("methods/qlora", machine=match(Gpu("Tesla P100", 17.0, "6.0")))
    assert old.get("gpu.bf16") is False


def test_without_a_gpu_it_is_the_cpu_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(discovery, "has_mps", lambda: False)
    assert this_machine() == {"name": "cpu", "why": "no GPU was found on this machine", "facts": {}}
