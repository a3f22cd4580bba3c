"""The wheel carries all that it needs: installed in a clean environment, far from the checkout, the commands work.

Only the libraries of the light commands are installed there, which also proves that these need no others.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
LIGHT = ("typer", "rich", "omegaconf", "pyyaml", "nvidia-ml-py")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "-q", "--wheel", "--no-isolation", "-o", out, ROOT], check=True)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that holds the wheel and the light libraries."""
    home = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", home / "venv"], check=True)
    pip = [home / "venv/bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    for wanted in (["-c", ROOT / "constraints.txt", *LIGHT], ["--no-deps", wheel]):
        done = subprocess.run([*pip, *wanted], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    return home / "venv/bin"


def said(clean: Path, folder: Path, *command: str) -> str:
    """What a command prints when it runs in `folder`, with nothing of this checkout on its path."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env["PATH"] = f"{clean}:{env['PATH']}"
    done = subprocess.run(
        [str(clean / command[0]), *command[1:]], capture_output=True, text=True, check=False, cwd=folder, env=env
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_recipes_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    inside = {n.removeprefix("nothing_tune/_recipes/") for n in names if n.startswith("nothing_tune/_recipes/")}
    on_disk = {p.relative_to(ROOT / "recipes").as_posix() for p in (ROOT / "recipes").rglob("*") if p.is_file()}
    assert inside == on_disk
    assert "models/nano/config.json" in inside
    assert all(re.match(r"nothing_tune/|nothing_tune-[\d.]+\.dist-info/", n) for n in names)
    assert wheel.stat().st_size < 10 * 2**20


def test_the_programs_say_their_version(clean: Path, tmp_path: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    for command in (["tune"], ["nothing-tune"], ["python", "-m", "nothing_tune"]):
        assert said(clean, tmp_path, *command, "--version") == f"nothing-tune {version}\n"


def test_recipes_are_known_by_name_anywhere(clean: Path, tmp_path: Path) -> None:
    shown = json.loads(said(clean, tmp_path, "tune", "show-config", "nothing-gpt", "--gpu", "l4", "--json"))
    assert "Llama-3.2-3B" in json.dumps(shown)
    assert "quickstart" in said(clean, tmp_path, "tune", "list")
    assert str(ROOT) not in said(clean, tmp_path, "tune", "show-config", "quickstart", "--why")
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_planned_without_the_engine(clean: Path, tmp_path: Path) -> None:
    assert "quickstart" in said(clean, tmp_path, "tune", "train", "quickstart", "--dry-run")
