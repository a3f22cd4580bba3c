"""Commands in README and docs are executed, and what a `console` block shows after them is what they print.

In a `console` block `...` stands for any text within a line, and a line of only `...` for any lines. A comment before a block
says what cannot be done as it stands:

    <!-- run: train -->   the commands train or need a run: executed one after the other, in the engine tests
    <!-- run: extras -->  the same with llama.cpp, in the slow tests
    <!-- run: dry -->     they name data or models that are not here: executed with --dry-run
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command import tune

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "reference")])
BLOCK = re.compile(r"(?:<!-- run: (?P<how>\w+) -->\n+)?```(?P<language>bash|console)\n(?P<body>.*?)```", re.DOTALL)
TRAINS = ("train", "resume", "watch", "stop", "chat", "eval", "export", "compare", "report", "serve")


@dataclass(frozen=True)
class Block:
    """The commands of one block of a page, each with the lines shown after it."""

    page: str
    line: int
    how: str
    commands: tuple[tuple[str, tuple[str, ...]], ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    """Every block of commands in README and docs, in order."""
    out = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for found in BLOCK.finditer(text):
            commands: list[tuple[str, tuple[str, ...]]] = []
            for line in found["body"].splitlines():
                if found["language"] == "bash":
                    commands.append((line.split("  #")[0].strip(), ()))
                elif line.startswith("$ "):
                    commands.append((line[2:], ()))
                else:
                    commands[-1] = (commands[-1][0], (*commands[-1][1], line))
            page = path.relative_to(ROOT).as_posix()
            out.append(Block(page, text[: found.start()].count("\n") + 1, found["how"] or "", tuple(commands)))
    return out


def run(command: str, folder: Path, *more: str) -> str:
    """What a tune command prints, in `folder` and as wide as a pipe; it must end with 0."""
    words = shlex.split(command)
    assert words[0] in ("tune", "nothing-tune"), f"not a command of ours: {command}"
    done = tune(folder, *words[1:], *more)
    assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def pattern(shown: tuple[str, ...]) -> str:
    """The lines of a console block as a regular expression."""
    parts = [
        r"(?:.*\n)*?" if line == "..." else r".*?".join(map(re.escape, line.split("..."))) + r"\n" for line in shown
    ]
    return "".join(parts)


ALL = blocks()
LIGHT = [b for b in ALL if b.how not in ("train", "extras") and not b.commands[0][0].startswith("make")]
HEAVY = [b for b in ALL if b.how in ("train", "extras")]
FIRST = next(b for b in HEAVY if b.page == "README.md")
"""The one that `make test` runs; all others are in `make test-full`."""
MAKE = [b for b in ALL if b.commands[0][0].startswith("make")]


def test_blocks_are_seen() -> None:
    assert len(LIGHT) >= 8
    assert len(HEAVY) >= 4
    assert MAKE
    assert {b.how for b in ALL} == {"", "train", "extras", "dry"}


@pytest.mark.engine  # takes seconds
@pytest.mark.parametrize("block", LIGHT, ids=str)
def test_light_commands_say_what_is_shown(block: Block, tmp_path: Path) -> None:
    for command, shown in block.commands:
        if block.how != "dry":
            light = shlex.split(command)[1] not in TRAINS or "--dry-run" in command
            assert light, f"{command} trains: mark the block with <!-- run: train -->"
        said = run(command, tmp_path, *(["--dry-run"] if block.how == "dry" else []))
        if shown:
            assert re.fullmatch(pattern(shown), said), f"$ {command}\n{said}"


@pytest.mark.parametrize("block", MAKE, ids=str)
def test_make_targets_exist(block: Block) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command, _ in block.commands:
        assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE), command


@pytest.mark.engine
@pytest.mark.parametrize(
    "block",
    [b if b is FIRST else pytest.param(b, marks=pytest.mark.slow) for b in HEAVY],
    ids=str,
)
def test_commands_that_train(block: Block, tmp_path: Path) -> None:
    """As written in a clone, but two steps long and on the CPU, whatever GPU is here."""
    if block.how == "extras":
        pytest.importorskip("llama_cpp")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for command, _ in block.commands:
        short = [] if "max" in command else ["--max-steps", "2"]
        more = ["--gpu", "cpu", *short] if shlex.split(command)[1] == "train" else []
        assert run(command, tmp_path, *more)


def test_help_examples_are_in_the_generated_pages() -> None:
    """What `tune COMMAND --help` shows as examples is executed by the tests of the commands; here: the page has them."""
    page = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    assert page.count("Examples:") >= 11


def test_links_lead_somewhere() -> None:
    seen = 0
    for path in [*PAGES, *(ROOT / "docs/reference").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                seen += 1
                assert (path.parent / target).exists(), f"{path.name}: {target}"
    assert seen > 40


def test_the_readme_names_every_part_of_the_package() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "nothing_tune").iterdir():
        if path.name.startswith(("_", ".")) or path.suffix not in ("", ".py"):
            continue
        assert f" {path.name}{'/' if path.is_dir() else ''} " in text, path.name


def test_the_readme_lists_all_exit_codes() -> None:
    from nothing_tune import errors

    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.TuneError)]
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## Exit codes")[1].split("##")[0]
    assert {c.exit_code for c in classes} | {0, 6} == {int(n) for n in re.findall(r"\b\d+\b", text)}
