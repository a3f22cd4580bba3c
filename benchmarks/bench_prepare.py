"""Rows a second and peak memory of the whole preparation, beside plain `datasets.map` with the same tokenizer; and a second start.

Both read the same generated conversations. The plain script tokenises, masks, cuts and splits; tune also checks every row, finds
duplicates and leakage, and reports what it saw.

python benchmarks/bench_prepare.py [--rows 1000000] [--no-write]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from report import ROOT, write

WORDS = Path(__file__).read_text(encoding="utf-8").split()
"""The words of this file: some hundred different ones."""


def generate(path: Path, count: int) -> None:
    """Writes `count` conversations of one to three exchanges, seeded."""
    chance = random.Random(1)

    def sentence(low: int, high: int) -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(low, high))).capitalize() + "."

    with path.open("w") as out:
        for number in range(count):
            turns = [{"role": "system", "content": "You are a helpful assistant."}] if number % 3 == 0 else []
            for _ in range(chance.choice((1, 1, 2, 3))):
                turns.append({"role": "user", "content": sentence(5, 30)})
                said = " ".join(sentence(5, 20) for _ in range(chance.randint(1, 4)))
                turns.append({"role": "assistant", "content": said})
            out.write(json.dumps({"messages": turns, "level": chance.choice("ABC")}) + "\n")


def measured(command: list[str], cache: Path) -> dict[str, Any]:
    """What a script printed on its last line."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TUNE_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measures, prints and writes docs/measurements/prepare.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="generated rows [1000000]")
    parser.add_argument("--no-write", action="store_true", help="print only: a trial")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = folder / "rows.jsonl"
        generate(rows, options.rows)
        size = rows.stat().st_size / 2**20
        found: dict[str, dict[str, Any]] = {}
        for start in ("first", "second"):
            for side, command in (
                ("tune", ["benchmarks/tune_prepare.py", str(rows)]),
                ("plain", ["benchmarks/plain_map.py", str(rows), str(folder / "plain")]),
            ):
                found[f"{side} {start}"] = one = measured(command, folder / "cache")
                print(f"{side}, {start} start: {one}", flush=True)
        assert found["tune second"]["cached"]
    mine, other = found["tune first"], found["plain first"]
    speed = [options.rows / one["seconds"] for one in (mine, other)]
    again = [found[f"{side} second"]["seconds"] for side in ("tune", "plain")]
    table = [
        [
            "whole preparation",
            *(f"{one['seconds']:.1f} s" for one in (mine, other)),
            f"{mine['seconds'] / other['seconds']:.2f}",
        ],
        ["rows a second", *(f"{s:,.0f}" for s in speed), f"{speed[0] / speed[1]:.2f}"],
        [
            "peak memory",
            *(f"{one['peak_mib']:,.0f} MiB" for one in (mine, other)),
            f"{mine['peak_mib'] / other['peak_mib']:.2f}",
        ],
        ["second start", *(f"{s:.2f} s" for s in again), f"{again[0] / again[1]:.3f}"],
    ]
    how = (
        f"`make bench-prepare`: {options.rows:,} generated conversations ({size:,.0f} MiB of JSON lines), the tokenizer of "
        "models/nano, rows of up to 1,024 tokens, a tenth held out; each in a process of its own, one after the other. The plain "
        "script maps `apply_chat_template` with the assistant's mask over the rows, cuts and filters; tune also checks every row, "
        "looks for duplicates and leakage, and reports. Imports are not counted. A second start finds what the first one made."
    )
    header = ("", "tune", "plain `datasets.map`", "ratio")
    if options.no_write:
        print(how, header, *table, sep="\n")
    else:
        write("prepare", "Preparing a million rows beside `datasets.map`", how, header, table)


if __name__ == "__main__":
    main()
