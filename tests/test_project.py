"""The project's own files agree with each other: pins, dependencies, entry points, Makefile, no path of any one machine."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOT_INSTALLED_BY_NAME = {"nothing-tune", "pip"}
DISTRIBUTION = {"yaml": "pyyaml", "pynvml": "nvidia-ml-py", "llama_cpp": "llama-cpp-python"}
"""Import name -> distribution, where they differ."""
CONVERTER = {"conversion", "gguf", "tqdm"}
"""Imported only beside llama.cpp's converter: two of them lie in its folder, the third is what these import."""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(*extras: str) -> set[str]:
    """Names of what `pip install nothing-tune[extras]` asks for directly."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return {canonical(re.split(r"[^A-Za-z0-9._-]", line)[0]) for line in lines} - {"nothing-tune"}


def pins() -> dict[str, str]:
    """Distribution -> version, as constraints.txt has them."""
    out = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            out[canonical(name)] = version
    return out


def tracked() -> list[Path]:
    """Every file of the checkout that git knows or would add; all files where there is no git."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("not a git checkout")
    return [path for name in done.stdout.splitlines() if (path := ROOT / name).is_file()]


def test_constraints_pin_every_direct_dependency() -> None:
    direct = requirements("dev", "tensorboard", "gguf") | {"hatchling"}
    assert len(direct) > 15
    assert sorted(direct - set(pins())) == []
    assert not [version for version in pins().values() if "+" in version], (
        "no local versions: they exist on one machine"
    )


def test_constraints_pin_everything_that_these_need() -> None:
    """Follows the requirements of what is installed; what another platform would need besides is not seen."""
    from packaging.requirements import Requirement

    todo, seen = [*requirements("dev", "tensorboard")], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in metadata.requires(name) or []:
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                todo.append(canonical(wanted.name))
    assert len(seen) > 60
    assert sorted(seen - set(pins()) - NOT_INSTALLED_BY_NAME) == []


@pytest.mark.engine  # takes seconds
def test_every_library_that_is_imported_is_a_dependency() -> None:
    ours = {"nothing_tune", *sys.stdlib_module_names}
    wanted = set()
    for path in (ROOT / "nothing_tune").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                wanted |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                wanted.add(node.module.split(".")[0])
    missing = {canonical(DISTRIBUTION.get(name, name)) for name in wanted - ours - CONVERTER} - requirements(
        "tensorboard", "gguf"
    )
    assert sorted(missing) == []


def test_snapshot_of_upstream_is_of_the_pinned_versions() -> None:
    from nothing_tune.recipe import upstream

    assert upstream.versions()
    for name, version in upstream.versions().items():
        assert pins()[canonical(name)] == version


def test_version_is_said_once() -> None:
    import nothing_tune

    assert nothing_tune.__version__ == PROJECT["version"]
    assert f"[{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_both_console_scripts_are_the_same_program() -> None:
    assert PROJECT["scripts"] == {"tune": "nothing_tune.cli:main", "nothing-tune": "nothing_tune.cli:main"}


def _recipe_files() -> list[Path]:
    """All YAML files of the library but those of prices, which are no recipes."""
    return sorted(p for p in (ROOT / "recipes").rglob("*.yaml") if p.parent.name not in ("providers", "judges"))


def test_recipe_files_are_yaml_and_carry_the_modeline() -> None:
    files = _recipe_files()
    assert len(files) > 45
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert isinstance(yaml.safe_load(text), dict), path.name
        depth = "../" * (len(path.relative_to(ROOT / "recipes").parts) - 1)
        assert text.startswith(f"# yaml-language-server: $schema={depth}schema.json\n"), path.name


def test_recipes_fit_the_schema_that_editors_use() -> None:
    import jsonschema

    from nothing_tune.recipe.reader import read_file
    from nothing_tune.recipe.schema import json_schema

    validator = jsonschema.Draft7Validator(json_schema())
    for path in _recipe_files():
        found = [e.message for e in validator.iter_errors(read_file(path)[0])]
        assert not found, path.name


def test_no_file_names_a_machine() -> None:
    """Paths of one person's machine and hosts of private registries do not belong in a project."""
    words = [b"/" + word + b"/" for word in (b"work", b"root", b"tmp/w", b"farm", b"opt/pypi", b"opt/wheels")]
    pattern = re.compile(rb"(?<![\w.])(" + b"|".join(map(re.escape, words)) + rb")")
    found, seen = [], 0
    for path in tracked():
        seen += 1
        if path.suffix in {".safetensors", ".png"}:
            continue
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}")
    assert seen > 100
    assert found == []


def test_makefile_targets_are_described_and_phony() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    described = set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    assert phony
    assert described == set(phony[1].replace("\\\n", " ").split())
    wanted = "help quickstart test test-light test-engine test-full lint format types check docs docs-check bench wheel-test clean"
    assert set(wanted.split()) <= described
    called = set(re.findall(r"^timed ([a-z-]+)$", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE))
    assert called
    assert called <= described


def test_scripts_can_be_run() -> None:
    for name in (".ci/run", "scripts/environment.sh", "scripts/quickstart.sh"):
        assert os.access(ROOT / name, os.X_OK), name
        assert subprocess.run(["bash", "-n", ROOT / name], check=False).returncode == 0, name


def test_an_old_python_is_refused_with_the_cure(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.2 && exit 0\nexit 1\n', encoding="utf-8")
    old.chmod(0o755)
    for python, said in (
        (old, "is Python 3.9.2, and nothing-tune needs Python 3.11"),
        (tmp_path / "none", "There is no"),
    ):
        command = [ROOT / "scripts/environment.sh", python, tmp_path / "venv", tmp_path / "venv/.installed"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert "make PYTHON=" in done.stderr
    assert not (tmp_path / "venv").exists()
