"""One zygote for all tests of faults, and a folder of runs for each test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.harness import Place, Zygote


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """The process that has imported everything."""
    process = Zygote()
    yield process
    process.close()


@pytest.fixture(scope="session")
def shared_place(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Model and rows, once."""
    return Place.make(zygote, tmp_path_factory.mktemp("faults"))


@pytest.fixture
def place(shared_place: Place, tmp_path: Path) -> Place:
    """Model and rows, and a folder for the runs of one test."""
    return replace(shared_place, folder=tmp_path)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves this folder alone in a light run, and where there is no Linux, whose process handles and mounts it uses."""
    return True if "not engine" in (config.option.markexpr or "") or sys.platform != "linux" else None
