"""What all tests share: a home of their own, no network, no keys, and the options of the suite."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

import pytest

_home = Path(tempfile.mkdtemp(prefix="nothing-tune-tests-"))
_numbers = itertools.count()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew instead of comparing")


def pytest_configure(config: pytest.Config) -> None:
    """Points every folder of a user at a temporary one, for this process and those it starts; Ctrl-C counts in the background too."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "WANDB_PROJECT", "NO_COLOR", "FORCE_COLOR"):
        os.environ.pop(name, None)
    os.environ.update(
        HF_HOME=str(_home / "huggingface"),
        HF_HUB_OFFLINE="1",
        NETRC=str(_home / "netrc"),
        TERM="dumb",
        TUNE_RUNS_DIR=str(_home / "runs"),
        WANDB_CONFIG_DIR=str(_home / "wandb"),
        WANDB_DIR=str(_home),
        XDG_CACHE_HOME=str(_home / "cache"),
    )
    for folder in Path(sys.prefix, "cache").glob(
        "llama-cpp-python-*/convert_hf_to_gguf.py"
    ):  # put there by `make extras`
        os.environ.setdefault("TUNE_LLAMA_CPP", str(folder.parent))


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(_home, ignore_errors=True)


@pytest.fixture(autouse=True)
def _own_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own folder of runs, made when something writes there."""
    monkeypatch.setenv("TUNE_RUNS_DIR", str(_home / f"runs-{next(_numbers)}"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if shutil.which("nvidia-smi"):
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
