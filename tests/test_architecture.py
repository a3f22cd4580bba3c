"""The floors: a module imports only from lower floors or from its own box, and heavy libraries live in one place."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nothing_tune"

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("artifacts", "discovery", "formats", "trackers", "launchers"),
    ("data",),
    ("recipe",),
    ("plan",),
    ("outputs",),
    ("run", "engine"),
    ("cli",),
)
FLOOR = {box: number for number, boxes in enumerate(FLOORS) for box in boxes}
ABOVE = {"__init__", "__main__"}  # the package's own front doors may import anything of ours

ENGINE_ONLY = {"torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "accelerate", "safetensors", "numpy"}
HOMES = {
    **{library: {"engine"} for library in ENGINE_ONLY},
    "datasets": {"data", "engine"},
    "typer": {"cli"},
    "rich": {"cli"},
    "click": {"cli"},
    "omegaconf": {"recipe"},
    "wandb": {"trackers"},
    "tensorboard": {"trackers"},
    "torch.utils.tensorboard": {"trackers"},  # the writer is torch's; the package tensorboard is what it needs
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def box(path: Path) -> str:
    """`recipe` for nothing_tune/recipe/layers.py, `errors` for nothing_tune/errors.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module that is imported anywhere in a file, `from nothing_tune import x` as `nothing_tune.x`, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            module = node.module or ""
            if module == "nothing_tune":
                yield from ((f"nothing_tune.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield module, node.lineno


def problems(path: Path, source: str) -> list[str]:
    """What in a module breaks the floors, one line each."""
    mine, out = box(path), []
    for name, line in imports(ast.parse(source)):
        top, *rest = name.split(".")
        if top == "nothing_tune" and rest:
            theirs = rest[0]
            allowed = mine in ABOVE or theirs == mine or FLOOR.get(theirs, -1) < FLOOR[mine]
            if not allowed or (theirs not in FLOOR and not theirs.startswith("__")):
                out.append(f"{path.name}:{line}: {mine} imports {name}")
        elif mine not in HOMES.get(name, HOMES.get(top, {mine})):
            out.append(f"{path.name}:{line}: {mine} imports {top}, which belongs to {', '.join(sorted(HOMES[top]))}")
    return out


def test_imports_only_downwards() -> None:
    homeless = [p.name for p in MODULES if box(p) not in FLOOR and box(p) not in ABOVE]
    assert homeless == [], "these stand on no floor: add them to FLOORS"
    assert [line for p in MODULES for line in problems(p, p.read_text(encoding="utf-8"))] == []


def test_modules_are_seen() -> None:
    assert len(MODULES) > 30
    assert {box(p) for p in MODULES} - ABOVE == set(FLOOR)


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("plan/kwargs.py", "import torch"),
        ("plan/kwargs.py", "from nothing_tune.run import prepare"),
        ("plan/kwargs.py", "def f():\n    from nothing_tune import cli"),
        ("run/prepare.py", "from nothing_tune.engine import build"),
        ("engine/train.py", "from nothing_tune import run"),
        ("trackers/wandb.py", "from nothing_tune.formats import text"),
        ("recipe/layers.py", "import rich.console"),
        ("cli/train.py", "import omegaconf"),
    ],
)
def test_a_breach_is_seen(where: str, source: str) -> None:
    assert len(problems(PACKAGE / where, source)) == 1


def test_trackers_import_their_library_when_they_are_used() -> None:
    for path in (PACKAGE / "trackers").glob("*.py"):
        top = [
            n for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.Import | ast.ImportFrom)
        ]
        names = {name.split(".")[0] for node in top for name, _ in imports(node)}
        assert not names & {"wandb", "tensorboard", "torch"}, path.name


def test_files_are_short_and_say_what_they_are_for() -> None:
    sources = {p.relative_to(PACKAGE).as_posix(): p.read_text(encoding="utf-8") for p in MODULES}
    assert [name for name, source in sources.items() if not re.match(r'"""\S', source)] == []
    assert [name for name, source in sources.items() if len(source.splitlines()) > 450] == [], "split them"
