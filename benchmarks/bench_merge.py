"""What a merge of a model of 3 billion weights takes: memory and time, beside PEFT's own way.

The base has the shape of Llama 3.2 3B (tied embeddings of 128,256 x 3,072, 28 layers) with random bfloat16 weights, written
tensor by tensor; the adapter is random too. Each merge is a process of its own, and its peak is VmHWM of Linux: the most that
it ever had in memory, mapped files included.

python benchmarks/bench_merge.py [--layers 28] [--rank 16]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from report import ROOT, write

HIDDEN, WIDE, HEADS, KEYS, HEAD, WORDS = 3072, 8192, 24, 8, 128, 128_256
"""Of Llama 3.2 3B, https://huggingface.co/meta-llama/Llama-3.2-3B/blob/main/config.json (read 2026-11)."""
SHARD = 10**9
"""Bytes of a file at most, but for one with a single larger tensor."""
LINEAR = {
    "self_attn.q_proj": (HEADS * HEAD, HIDDEN), "self_attn.k_proj": (KEYS * HEAD, HIDDEN), "self_attn.v_proj": (KEYS * HEAD, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD), "mlp.gate_proj": (WIDE, HIDDEN), "mlp.up_proj": (WIDE, HIDDEN),
    "mlp.down_proj": (HIDDEN, WIDE),
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {"LoRA": {}, "DoRA": {"use_dora": True}}


def base(folder: Path, layers: int) -> int:
    """Writes the base model; returns its bytes. Memory stays small: numbers are drawn four million at a time."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig

    from nothing_tune.engine.export import merge, tensors

    folder.mkdir()
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (WORDS, HIDDEN)}
    for i in range(layers):
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in LINEAR.items()}
        shapes |= {f"model.layers.{i}.{n}.weight": (HIDDEN,) for n in ("input_layernorm", "post_attention_layernorm")}
    shapes["model.norm.weight"] = (HIDDEN,)
    plan = merge._shards({name: ("BF16", shape) for name, shape in shapes.items()}, SHARD)
    torch.manual_seed(0)

    def content(name: str) -> Iterator[Any]:
        left = prod(shapes[name])
        while left:
            some = torch.randn(min(left, 2**22)).mul_(0.02).to(torch.bfloat16)
            left -= some.numel()
            yield from tensors.pieces(some)

    for file, planned in plan.items():
        tensors.write(folder / file, planned, content, lambda _: None)
    index = {"metadata": {}, "weight_map": {name: file for file, planned in plan.items() for name in planned}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=HIDDEN, intermediate_size=WIDE, num_hidden_layers=layers, num_attention_heads=HEADS,
        num_key_value_heads=KEYS, head_dim=HEAD, tie_word_embeddings=True, dtype="bfloat16", architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(ROOT / "recipes/models/nano").save_pretrained(folder)
    return sum(2 * prod(shape) for shape in shapes.values())


def adapter(folder: Path, model: Path, layers: int, rank: int, settings: dict[str, Any]) -> None:
    """Writes a random adapter on all linear layers, with a tokenizer, in float32 as training leaves it."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    folder.mkdir(parents=True)
    torch.manual_seed(1)
    made = {}
    for i in range(layers):
        for name, (out, inner) in LINEAR.items():
            path = f"base_model.model.model.layers.{i}.{name}"
            made[f"{path}.lora_A.weight"] = torch.randn(rank, inner) * 0.02
            made[f"{path}.lora_B.weight"] = torch.randn(out, rank) * 0.02
            if settings.get("use_dora"):
                made[f"{path}.lora_magnitude_vector"] = torch.rand(out) + 0.5
    save_file(made, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    names = [name.split(".")[-1] for name in LINEAR]
    LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=names, task_type="CAUSAL_LM", base_model_name_or_path=str(model), **settings
    ).save_pretrained(folder)  # fmt: skip
    AutoTokenizer.from_pretrained(ROOT / "recipes/models/nano").save_pretrained(folder)


def ours(model: Path, out: Path) -> None:
    """Merges as `tune export --merge` does; the adapter lies in `out`/adapter."""
    from nothing_tune.artifacts import Run
    from nothing_tune.engine.export import merge
    from nothing_tune.engine.export.base import at
    from nothing_tune.engine.export.source import Source
    from nothing_tune.plan.model import PLAN_VERSION, Plan

    plan = Plan.from_json(
        {
            "version": PLAN_VERSION, "name": "bench", "gpu": {}, "values": {}, "model": {"name_or_path": str(model)}, "data": {},
            "quantization": None, "peft": {"peft_type": "LORA"}, "training": {}, "tracking": {}, "monitor": {}, "checkpoint": {},
            "trainable_dtype": None, "world_size": 1, "why": {},
        }
    )  # fmt: skip
    source = Source(Run(out), plan, 1, out, out / "adapter", False, {})
    merge.make(source, at(model), out / "merged", lambda **_: None)


def theirs(model: Path, out: Path) -> None:
    """Merges as PEFT's documentation shows."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    merged = PeftModel.from_pretrained(loaded, str(out / "adapter")).merge_and_unload()
    merged.save_pretrained(out / "merged", max_shard_size=SHARD)


def child(who: str, model: Path, out: Path) -> None:
    """One merge in this process; prints seconds (imports left out) and peak memory in GiB."""
    import peft  # noqa: F401 what is measured is the merge
    import transformers  # noqa: F401

    began = time.monotonic()
    {"ours": ours, "theirs": theirs}[who](model, out)
    took = time.monotonic() - began
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    print(json.dumps({"seconds": took, "gib": int(status["VmHWM"].split()[0]) / 2**20}))


def measure(root: Path, model: Path, who: str, layers: int, rank: int, settings: dict[str, Any]) -> dict[str, float]:
    """One merge in a process of its own; what it wrote is removed."""
    out = root / "out"
    adapter(out / "adapter", model, layers, rank, settings)
    command = [sys.executable, str(Path(__file__).resolve()), "--child", who, str(model), str(out)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    if done.returncode:
        raise SystemExit(f"{who} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    found["files"] = float(len(list((out / "merged").glob("*.safetensors"))))
    shutil.rmtree(out)
    os.sync()  # what one has left to write must not slow the next
    return found


def main() -> None:
    """Measures, prints and writes docs/measurements/merge.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=28, help="layers of the base [28]")
    parser.add_argument("--rank", type=int, default=16, help="rank of the adapter [16]")
    parser.add_argument("--child", nargs=3, metavar=("WHO", "MODEL", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.child:
        child(options.child[0], Path(options.child[1]), Path(options.child[2]))
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        size = base(root / "base", options.layers)
        for name, settings in METHODS.items():
            for who, title in (
                ("ours", "`tune export --merge`"),
                ("theirs", "PEFT: `merge_and_unload`, `save_pretrained`"),
            ):
                found = measure(root, root / "base", who, options.layers, options.rank, settings)
                speed = size / found["seconds"] / 1e6
                rows.append(
                    [
                        name,
                        title,
                        f"{found['gib']:.2f} GiB",
                        f"{found['seconds']:.0f} s",
                        f"{speed:.0f} MB/s",
                        f"{found['files']:.0f}",
                    ]
                )
                print(*rows[-1], sep="  ", flush=True)
    write(
        "merge",
        "What merging an adapter takes",
        f"`python benchmarks/bench_merge.py`: a base of the shape of Llama 3.2 3B ({options.layers} layers, {size / 1e9:.2f} GB of random "
        f"bfloat16 weights in files of 1 GB) and a random adapter of rank {options.rank} on all linear layers. *Peak*: VmHWM of the "
        "process, libraries and mapped files included. *Time*: reading, merging and writing; imports are left out. tune flushes every "
        "file to the disk and takes its sha256 in that time, and computes each module in float32 and rounds once.",
        ["method", "way", "peak", "time", "weights a second", "files"],
        rows,
    )


if __name__ == "__main__":
    main()
