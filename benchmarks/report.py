"""What both benchmarks share: the machine in words, interleaved timing, ratios with an interval, the page that is written."""

from __future__ import annotations

import os
import platform
import random
import re
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "typer", "rich", "omegaconf")


def machine() -> str:
    """Processor, cores, system and versions, as one paragraph."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.MULTILINE)
        model = found[1] if found else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{datetime.now(UTC):%Y-%m-%d}, {model}, {cores} cores, {system}; {versions}."


def ratio(ours: Sequence[float], theirs: Sequence[float], draws: int = 10_000) -> tuple[float, float, float]:
    """Geometric mean of the pairs' ratios ours/theirs, and its 95 % bootstrap interval over pairs (seeded, `draws` draws)."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    chance = random.Random(0)
    means = sorted(statistics.geometric_mean(chance.choices(ratios, k=len(ratios))) for _ in range(draws))
    return statistics.geometric_mean(ratios), means[int(0.025 * draws)], means[int(0.975 * draws) - 1]


def write(name: str, title: str, how: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Writes docs/measurements/NAME.md, and prints its table."""
    table = ["| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows)]
    path = ROOT / "docs" / "measurements" / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# {title}\n\n{how}\n\nMachine: {machine()}\n\n" + "\n".join(table) + "\n", encoding="utf-8")
    print(*table, f"\nwrote {path.relative_to(ROOT)}", sep="\n")
