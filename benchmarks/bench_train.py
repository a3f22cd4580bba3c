"""Time to the first optimizer step, and tokens a second after it: `tune train quickstart` beside plain_trl.py.

Both start cold as processes of their own, one after the other in turns, with the same arguments (no evaluation and no
saving on the way). The first time counts from starting the command to the end of step 1; the rate is that of the steps after it.

python benchmarks/bench_train.py [--pairs 10] [--steps 30]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import ROOT, ratio, write

AS_PLAIN = (
    "training.eval_strategy=no", "training.save_strategy=no", "training.load_best_model_at_end=false",
    "training.logging_steps=1", "training.eval_on_start=false",
)  # fmt: skip


def measured(times: list[list[float]], started: float) -> tuple[float, float]:
    """Seconds to the end of step 1, and tokens a second from there to the last step."""
    (_, first, before), (_, last, after) = times[0], times[-1]
    return first - started, (after - before) / (last - first)


def run(command: list[str], log: Path) -> float:
    """Runs a command to its end, its output into `log`; Unix time of its start."""
    started = time.time()
    with log.open("w") as out:
        done = subprocess.run(command, check=False, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{log.read_text()[-2000:]}")
    return started


def with_tune(out: Path, steps: int) -> tuple[float, float]:
    """One run of tune."""
    arguments = [
        "train",
        "quickstart",
        "--gpu",
        "cpu",
        "--runs-dir",
        str(out),
        "--name",
        "bench",
        "--max-steps",
        str(steps),
    ]
    started = run([sys.executable, "-m", "nothing_tune", *arguments, *AS_PLAIN], out / "log")
    events = [json.loads(line) for line in (out / "bench" / "events.jsonl").read_text().splitlines()]
    logs = [e for e in events if e["type"] == "log" and "loss" in e["metrics"]]
    return measured([[e["step"], e["time"], e["metrics"]["num_tokens"]] for e in logs], started)


def with_trl(out: Path, steps: int) -> tuple[float, float]:
    """One run of the plain script."""
    started = run([sys.executable, str(ROOT / "benchmarks/plain_trl.py"), str(out), str(steps)], out / "log")
    return measured(json.loads((out / "times.json").read_text()), started)


def main() -> None:
    """Measures, prints and writes docs/measurements/train.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10, help="interleaved pairs [10]")
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps of each run [30]")
    parser.add_argument("--no-write", action="store_true", help="print only: a trial")
    options = parser.parse_args()
    ours, theirs = [], []
    for pair in range(options.pairs + 1):  # the first pair warms compiled files and disk cache, and is not counted
        found = {}
        for side in (with_tune, with_trl) if pair % 2 else (with_trl, with_tune):
            with tempfile.TemporaryDirectory() as folder:
                found[side] = side(Path(folder), options.steps)
        (a, b), word = (found[with_tune], found[with_trl]), f"pair {pair} of {options.pairs}" if pair else "warm-up"
        print(f"{word}: first step {a[0]:.2f} s, plain {b[0]:.2f} s; {a[1]:.0f} tokens/s, plain {b[1]:.0f}", flush=True)
        if pair:
            ours.append(a)
            theirs.append(b)
    rows = []
    for index, (what, unit, goal) in enumerate(
        (("time to the first step", "s", "1.10 or less"), ("rate after it", "tokens/s", "0.98 or more"))
    ):
        mine, other = [m[index] for m in ours], [t[index] for t in theirs]
        mean, low, high = ratio(mine, other)
        medians = [f"{statistics.median(side):.2f} {unit}" for side in (mine, other)]
        rows.append([what, *medians, f"{mean:.3f}", f"{low:.3f} to {high:.3f}", goal])
    how = (
        f"`make bench-train`: {options.pairs} interleaved pairs of {options.steps} steps, cold starts, quickstart on the "
        "CPU, no evaluation and no saving on the way. Ratio: geometric mean over pairs, with its 95 % bootstrap interval."
    )
    header = ("", "`tune train`, median", "plain TRL, median", "ratio", "95 % interval", "goal")
    if options.no_write:
        print(how, header, *rows, sep="\n")
    else:
        write("train", "Training beside a plain TRL script", how, header, rows)


if __name__ == "__main__":
    main()
