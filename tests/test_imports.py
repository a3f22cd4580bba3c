"""The light commands stay light: none of them loads a library of the engine."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.engine  # nothing heavy is imported, but it takes seconds

HEAVY = {
    "torch",
    "transformers",
    "trl",
    "datasets",
    "peft",
    "bitsandbytes",
    "accelerate",
    "wandb",
    "tensorboard",
    "numpy",
}

PROGRAM = """
import contextlib, io, json, sys
code = sys.argv[1]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    exec(code)
sys.stdout.write(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def loaded_after(code: str) -> set[str]:
    """Top-level modules that are loaded once `code` has run in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["chat", "--help"],
        ["list"],
        ["show-config", "nothing-gpt", "--gpu", "l4"],
        ["show-config", "nothing-gpt", "--gpu", "l4", "--why"],
        ["show-config", "nothing-gpt", "--gpu", "t4", "--compiled"],
        ["validate", "quickstart"],
        ["schema"],
        ["runs"],
        ["train", "quickstart", "--dry-run"],
    ],
    ids=" ".join,
)
def test_a_light_command_loads_nothing_heavy(arguments: list[str]) -> None:
    loaded = loaded_after(f"import sys\nsys.argv = ['tune', *{arguments!r}]\nfrom nothing_tune.cli import main\nmain()")
    assert "nothing_tune" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    "code",
    [
        "import nothing_tune; nothing_tune.load_recipe; nothing_tune.make_plan; nothing_tune.train; nothing_tune.Run",
        "import nothing_tune.cli",
        "import nothing_tune.engine",
        "import nothing_tune.trackers, nothing_tune.formats, nothing_tune.launchers",
    ],
)
def test_importing_loads_nothing_heavy(code: str) -> None:
    assert not loaded_after(code) & HEAVY
