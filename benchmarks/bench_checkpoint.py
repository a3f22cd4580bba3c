"""What it costs that a run cannot be lost: a save, the protocol's part of a step, and the way back after a kill.

Each case is a real run of the engine on the CPU. A save is compared with the stock Trainer's own part of it, timed inside
the same save. The protocol's part of a step is all that is added to SFTTrainer's step: looking for numbers that are not
finite, the status, the decision whether to save or stop. Coming back is measured by killing the run with SIGKILL.

python benchmarks/bench_checkpoint.py [--steps 20] [--resumes 3]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from report import ROOT, write

EVERY = (
    "training.eval_strategy=no", "training.eval_on_start=false", "training.load_best_model_at_end=false",
    "training.logging_steps=1", "training.save_strategy=steps",
)  # fmt: skip
CASES: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "QLoRA of nano (quickstart)": (0, 2, ()),
    "LoRA, rank 256, of 30 M": (512, 2, ("quantization=null", "peft.r=256", "peft.lora_alpha=256")),
    "full fine-tuning of 30 M": (512, 2, ("quantization=null", "peft=null")),
}
"""Name -> width of a random model (0: nano), steps between saves, overrides of the quickstart recipe."""


def base(folder: Path, hidden: int) -> Path:
    """A Llama with random weights, `hidden` wide, and the tokenizer of nano."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "recipes/models/nano")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=6,
        num_attention_heads=8, num_key_value_heads=8, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def child(run_dir: Path) -> None:
    """Trains a run in this process with a stopwatch around the parts, and prints what they took as JSON."""
    import transformers

    from nothing_tune.engine import cadence, progress, worker
    from nothing_tune.engine.train import Trainer

    spent: dict[str, list[float]] = defaultdict(list)

    def watch(owner: Any, name: str, key: str) -> None:
        original = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                spent[key].append(time.perf_counter() - began)

        setattr(owner, name, timed)

    stock = Trainer.__mro__[1]
    watch(transformers.Trainer, "_save_checkpoint", "stock save")
    for name in ("training_step", "_get_grad_norm"):
        watch(stock, name, f"stock {name}")
        watch(Trainer, name, f"ours {name}")
    watch(cadence.Cadence, "on_step_end", "ours cadence")
    watch(progress.Progress, "on_step_end", "ours progress")
    worker.main(run_dir)
    print(json.dumps(spent))


def prepared(root: Path, name: str, width: int, every: int, steps: int, overrides: tuple[str, ...]) -> Path:
    """A run directory that is ready to be trained."""
    from nothing_tune import run as runs
    from nothing_tune.plan import make_plan
    from nothing_tune.recipe import load_recipe

    model = [f"model.name_or_path={base(root / f'{name}-base', width)}"] if width else []
    recipe = load_recipe(
        "quickstart",
        gpu="cpu",
        overrides=[*EVERY, f"training.save_steps={every}", f"training.max_steps={steps}", *model, *overrides],
    )
    return runs.prepare(recipe, make_plan(recipe), root=root, name=name).path


def measure(root: Path, number: int, title: str, steps: int, resumes: int) -> list[str]:
    """One row of the table."""
    width, every, overrides = CASES[title]
    run = prepared(root, f"case-{number}", width, every, steps, overrides)
    command = [sys.executable, str(Path(__file__).resolve()), "--child", str(run)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{title} failed:\n{done.stderr[-3000:]}")
    spent = json.loads(done.stdout.strip().splitlines()[-1])
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    saves = [e for e in events if e["type"] == "checkpoint"]
    hold, commit = (statistics.median(e[k] for e in saves) for k in ("hold_s", "commit_s"))
    stock = statistics.median(spent["stock save"])
    added = sum(map(sum, (v for k, v in spent.items() if k.startswith("ours"))))
    added -= sum(map(sum, (v for k, v in spent.items() if k in ("stock training_step", "stock _get_grad_norm"))))
    trained = sum(spent["ours training_step"]) + sum(spent["ours _get_grad_norm"])
    a_step = trained / steps
    share = added / trained + hold / 600
    back = [comeback(root, number, n, width, every, steps, overrides) for n in range(resumes)]
    return [
        title,
        f"{saves[-1]['bytes'] / 1e6:.1f} MB",
        f"{hold * 1e3:.0f} ms",
        f"{stock * 1e3:.0f} ms",
        f"{hold / stock:.2f}",
        f"{commit * 1e3:.0f} ms",
        f"{a_step * 1e3:.0f} ms",
        f"{added / steps * 1e3:.2f} ms",
        f"{share:.2%}",
        f"{statistics.median(b[0] for b in back):.1f} s",
        f"{statistics.median(b[1] for b in back):.1f} s",
    ]


def comeback(
    root: Path, number: int, n: int, width: int, every: int, steps: int, overrides: tuple[str, ...]
) -> tuple[float, float]:
    """`(first start, resume)`: seconds from starting the engine to the end of the first step, before and after a SIGKILL."""
    run = prepared(root, f"case-{number}-kill-{n}", width, every, 100 * steps, overrides)
    log = (run / "engine.log").open("ab")
    out = []
    for attempt in (1, 2):
        began = time.time()
        before = (run / "events.jsonl").stat().st_size if attempt == 2 else 0
        engine = subprocess.Popen(
            [sys.executable, "-m", "nothing_tune.engine", str(run)], cwd=ROOT, stdout=log, stderr=log
        )
        wanted = 2 * every + 1
        first = None
        while first is None or (attempt == 1 and first[1] < wanted):
            time.sleep(0.01)
            if engine.poll() is not None:
                raise SystemExit(f"the engine ended:\n{(run / 'engine.log').read_text()[-2000:]}")
            if not (run / "events.jsonl").exists():
                continue
            with (run / "events.jsonl").open() as handle:
                handle.seek(before)
                logs = [json.loads(x) for x in handle if x.endswith("\n") and '"log"' in x]
            logs = [e for e in logs if e["type"] == "log"]
            if logs:
                first = (first[0] if first else logs[0]["time"], logs[-1]["step"])
        out.append(first[0] - began)
        os.kill(json.loads((run / "status.json").read_text())["worker"], signal.SIGKILL)
        engine.wait()
    return out[0], out[1]


def main() -> None:
    """Measures, prints and writes docs/measurements/checkpoint.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of each run [20]")
    parser.add_argument("--resumes", type=int, default=3, help="kills of each case [3]")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.child:
        child(options.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(Path(folder), i, t, options.steps, options.resumes) for i, t in enumerate(CASES)]
    write(
        "checkpoint",
        "What it costs that a run cannot be lost",
        "`make bench-checkpoint`: real runs on the CPU. *Held up*: how long the training stands still for a save, beside the stock "
        "Trainer's own part of the same save. *Commit*: flushing, hashing, COMMIT.json and rotation, in a thread beside the training. "
        "*Added to a step*: everything that tune adds to SFTTrainer's step. *Share*: of the training time, with a save every ten minutes "
        "(the default). *First step*: from starting the engine, imports included, before and after a SIGKILL.",
        [
            "run",
            "checkpoint",
            "held up",
            "stock part",
            "ratio",
            "commit",
            "a step",
            "added to a step",
            "share",
            "first step",
            "after a kill",
        ],
        rows,
    )


if __name__ == "__main__":
    main()
