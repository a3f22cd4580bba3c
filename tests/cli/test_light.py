"""What the commands import: `--help` little, none of them the libraries of the engine."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "bitsandbytes",
    "accelerate",
    "pydantic",
    "rich.syntax",
    "pygments",
)
CASES = [
    (["--help"], (*HEAVY, "rich", "omegaconf", "yaml")),
    (["train", "--help"], (*HEAVY, "rich", "omegaconf", "yaml")),
    (["data", "inspect", "--help"], (*HEAVY, "rich", "omegaconf", "yaml")),
    (["runs"], (*HEAVY, "rich", "omegaconf", "yaml")),
    (["show-config", "nothing-gpt", "--gpu", "l4", "--why"], (*HEAVY, "rich")),
    (["explain", "learning_rate", "nothing-gpt", "--gpu", "l4"], (*HEAVY, "rich")),
    (["validate", "quickstart"], (*HEAVY, "rich")),
    (["train", "quickstart", "--dry-run"], HEAVY),
    (["list", "gpus"], (*HEAVY, "rich")),
    (["schema"], (*HEAVY, "rich")),
    (
        ["init", "--model", "nano", "--gpu", "cpu", "--data", "ORG/NAME", "--no-look", "--yes", "--dry-run"],
        (*HEAVY, "rich"),
    ),
]


@pytest.mark.parametrize(("argv", "banned"), CASES, ids=[" ".join(argv) for argv, _ in CASES])
def test_imports(argv: list[str], banned: tuple[str, ...]) -> None:
    code = (
        "import sys, io, json\n"
        "from nothing_tune.cli.app import main\n"
        "shown, sys.stdout = sys.stdout, io.StringIO()\n"
        f"code = main({argv!r})\n"
        "sys.stdout = shown\n"
        f"print(code, [m for m in {banned!r} if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "0 []\n", done.stderr
