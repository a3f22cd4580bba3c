"""How long the light commands take, beside what people compare them with: medians of interleaved runs.

python benchmarks/bench_cli.py [--runs 10]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from report import ROOT, ratio, write

BIN = Path(sys.executable).parent
PAIRS = (
    ("tune --help", [str(BIN / "tune"), "--help"], "trl --help", [str(BIN / "trl"), "--help"], 1.5),
    (
        "tune show-config nothing-gpt --gpu l4 --why",
        [str(BIN / "tune"), "show-config", "nothing-gpt", "--gpu", "l4", "--why"],
        'python -c "import typer, omegaconf, rich"',
        [sys.executable, "-c", "import typer, omegaconf, rich"],
        3.0,
    ),
    (
        "tune plan nothing-gpt --gpu l4 --rows 13482",
        [str(BIN / "tune"), "plan", "nothing-gpt", "--gpu", "l4", "--rows", "13482"],
        'python -c "import typer, omegaconf, rich"',
        [sys.executable, "-c", "import typer, omegaconf, rich"],
        8.0,
    ),
)


def seconds(command: list[str]) -> float:
    """Wall time of one run of a command, which must end with 0."""
    started = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Measures, prints and writes docs/measurements/cli.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="interleaved pairs [10]")
    runs = parser.parse_args().runs
    rows = []
    for ours, our_command, theirs, their_command, limit in PAIRS:
        print(f"{ours}, beside {theirs}: {runs} pairs")
        seconds(our_command), seconds(their_command)  # compiled files and disk cache
        times = [(seconds(our_command), seconds(their_command)) for _ in range(runs)]
        mine, other = [a for a, _ in times], [b for _, b in times]
        mean, low, high = ratio(mine, other)
        row = [f"`{ours}`", f"{statistics.median(mine):.3f} s", f"`{theirs}`", f"{statistics.median(other):.3f} s"]
        rows.append(
            [
                *row,
                f"{statistics.median(mine) / statistics.median(other):.2f}",
                f"{mean:.2f} ({low:.2f} to {high:.2f})",
                f"{limit}",
            ]
        )
    how = f"`make bench-cli`: medians of {runs} interleaved runs each; the interval is a bootstrap over pairs."
    header = ("command", "median", "beside", "median", "ratio of medians", "mean ratio of pairs (95 %)", "at most")
    write("cli", "Time of the light commands", how, header, rows)


if __name__ == "__main__":
    main()
