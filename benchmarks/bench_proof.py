"""How far exports lie from the run that they come from: every way of training, on every family, in every usual format.

Each case is a real training on the CPU, exported as `tune export` does it: adapter, merged model, GGUF by llama.cpp's own converter.
The number is the mean KL(run || export) in nats over some 500 positions, teacher-forced: rows that the run did not train on, and a
fixed set. The run is base and adapter apart, in float32. `effect` is KL(run || base): what the training changed. `converted` is
KL(merged || GGUF).

python benchmarks/bench_proof.py [--methods lora,qlora] [--families nano,llama] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from report import ROOT, write

sys.path.insert(0, str(ROOT))
METHODS = ("lora", "qlora", "dora", "rslora", "pissa")
FAMILIES = ("nano", "llama", "qwen2", "qwen3", "mistral", "gemma")
TYPES = ("f16", "q8_0", "q4_k_m")
STEPS = 12
HIDDEN = 256
"""Width of the small models: that of a k-quant's block, so that no tensor falls back to another type."""


def silent(**_: Any) -> None:
    """Nobody listens."""


def base_of(family: str, tmp: Path) -> tuple[Path, dict[str, Any]]:
    """Folder of the model that is trained, and what its plan changes."""
    from tests.engine import exports

    if family == "nano":
        samples = ROOT / "recipes" / "samples"
        return ROOT / "recipes" / "models" / "nano", {
            "data.train": str(samples / "quickstart.jsonl"), "data.eval": str(samples / "quickstart.eval.jsonl"),
            "training.learning_rate": 3e-3, "training.max_length": 512, "model.init.dtype": "bfloat16",
        }  # fmt: skip
    return exports.model(family, tmp / family, hidden=HIDDEN, dtype="bfloat16"), {"training.learning_rate": 5e-3}


def convert(model: Path, out: Path) -> None:
    """The f16 file of `model`, as `gguf.convert` makes it, but in this process: starting another costs more than the rest of a case."""
    from nothing_tune.engine.export.gguf import driver, sources

    tree = str(sources.tree())
    sys.path[:0] = [path for path in (f"{tree}/gguf-py", tree) if path not in sys.path]
    driver.work({"model": str(model), "out": str(out), "type": "f16", "name": "model"}, silent)


def case(method: str, base_dir: Path, changes: dict[str, Any], tmp: Path) -> dict[str, Any]:
    """Trains, exports and proves one: `effect`, `adapter`, `merged` and each type's KL, and the checks that failed."""
    from nothing_tune.engine.export import adapter, base, gguf, merge, proof, source
    from tests.engine import exports

    run = exports.trained(
        method,
        base_dir,
        tmp / "runs",
        **{"training.max_steps": STEPS, "training.save_steps": STEPS, "training.eval_steps": STEPS, **changes},
    )
    src = source.source(run, "handed-over", None)
    adapter.make(src, silent)
    found = base.find(src.plan)
    merged = src.folder / "merged"
    merge.make(src, found, merged, silent)
    ref = proof.reference(src, found, silent)
    proofs = {"adapter": proof.adapter(src, ref), "merged": proof.merged(merged, src, ref)}
    folder = src.folder / "gguf"
    folder.mkdir()
    for name in TYPES:
        file = folder / f"model-{name}.gguf"
        if name == "f16":
            convert(merged, file)
        else:
            gguf.quantize(folder / "model-f16.gguf", file, name, silent)
        proofs[name] = proof.gguf(file, name, src, ref)
    shutil.rmtree(run.path)
    return {
        "effect": ref.facts["effect"],
        **{n: p["kl"] for n, p in proofs.items()},
        "converted": {n: proofs[n]["kl_merged"] for n in TYPES},
        "top1": proofs[TYPES[-1]]["top1"],
        "failed": [f"{n}: {c['what']}" for n, p in proofs.items() for c in p["checks"] if c["ok"] is False],
    }


def main() -> None:
    """Measures every case and writes docs/measurements/proof.md; cases that are in `--out` already are not measured again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--out", type=Path, default=None, help="JSON lines of the cases, to go on from")
    given = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    done: dict[str, dict[str, Any]] = {}
    if given.out and given.out.is_file():
        told = map(json.loads, given.out.read_text(encoding="utf-8").splitlines())
        done = {d["case"]: d for d in told if set(TYPES) == set(d.get("converted") or ())}
    with tempfile.TemporaryDirectory() as name:
        tmp = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(tmp / "cache")
        for family in given.families.split(","):
            wanted = [m for m in given.methods.split(",") if f"{family} {m}" not in done]
            base_dir, changes = base_of(family, tmp) if wanted else (tmp, {})
            for method in wanted:
                key = f"{family} {method}"
                done[key] = {"case": key, **case(method, base_dir, changes, tmp)}
                print(json.dumps(done[key]), flush=True)
                if given.out:
                    with open(given.out, "a", encoding="utf-8") as handle:
                        handle.write(json.dumps(done[key]) + "\n")
    columns = ("effect", "adapter", "merged", *TYPES)
    order = [f"{f} {m}" for f in given.families.split(",") for m in given.methods.split(",")]
    table = [
        [
            *key.split(" "),
            *(f"{found[c]:.1e}" for c in columns),
            *(f"{found['converted'][n]:.1e}" for n in TYPES),
            f"{100 * found['top1']:.1f} %",
            str(len(found["failed"])),
        ]
        for key, found in ((key, done[key]) for key in order)
    ]
    write(
        "proof",
        "How far exports lie from their run",
        "`make bench-proof`: mean KL(run || export) in nats, teacher-forced, over rows that were held out and a fixed set. *Effect*: KL of "
        "the run to its base. *Conv*: KL(merged || file), what the conversion alone did: the merge itself rounds to the base's bfloat16. "
        f"*Top-1*: share of positions where q4_k_m has the run's most likely token. Each is trained for {STEPS} steps; "
        "nano is the model that ships (bfloat16, trained), the others have two layers of width 256, stored as bfloat16, that start from "
        "random weights: with little certain in them they suffer more from a coarse format than a model of use does. *Failed*: checks of "
        "all five outputs that found a fault. The limits and their reasons are in nothing_tune/outputs/limits.py.",
        ("model", "method", *columns, *(f"conv {n}" for n in TYPES), "top-1", "failed"),
        table,
    )


if __name__ == "__main__":
    main()
