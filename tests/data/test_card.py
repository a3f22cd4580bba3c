"""Files that are written with their card: whole or not at all."""

from __future__ import annotations

import datetime
import errno
import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nothing_tune import __version__
from nothing_tune.data import card, files
from nothing_tune.errors import StorageError, TuneError, UsageError

ROWS = [{"text": "caf\xe9", "score": float("nan"), "when": datetime.date(2026, 1, 2)}, {"text": "b"}]
READ = [{"text": "caf\xe9", "score": None, "when": "2026-01-02"}, {"text": "b"}]
ASKED = {"command": "tune data convert", "sources": [{"name": "a", "identity": "1"}], "settings": {"seed": 1}}


@pytest.mark.parametrize("ending", card.ENDINGS)
def test_write(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "new" / f"rows{ending}"
    assert card.write(path, ROWS, ASKED) == 2
    assert [row for _, row in files.read(path)] == READ
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads(card.card_path(path).read_text()) == {
        "made_by": f"nothing-tune {__version__}", **ASKED, "rows": 2, "sha256": digest,
    }  # fmt: skip
    assert sorted(p.name for p in path.parent.iterdir()) == [f"rows{ending}", f"rows{ending}.card.json"]
    again = tmp_path / f"other{ending}"
    card.write(again, ROWS, ASKED)
    assert again.read_bytes() == path.read_bytes()
    if ending == ".jsonl.gz":
        assert gzip.decompress(path.read_bytes()).decode().splitlines()[1] == '{"text": "b"}'


def failing(error: BaseException) -> Iterator[dict[str, Any]]:
    yield {"text": "a"}
    raise error


def test_nothing_half_made_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(UsageError, match="three rows are bad"):
        card.write(path, failing(UsageError("three rows are bad")), ASKED)
    with pytest.raises(KeyboardInterrupt):
        card.write(path, failing(KeyboardInterrupt()), ASKED)
    with card.Writer(path) as out:
        out.add({"text": "never finished"})
    assert list(tmp_path.iterdir()) == []
    card.write(path, [{"text": "old"}], ASKED)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError) as caught:
        card.write(path, ROWS, ASKED, force=True)
    assert [(p.what, p.hint) for p in caught.value.problems] == [
        (f"cannot write {path}: No space left on device", "free some space or mend the permissions")
    ]
    assert [row for _, row in files.read(path)] == [{"text": "old"}]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.jsonl", "rows.jsonl.card.json"]


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("mine")
    (tmp_path / "folder.jsonl").mkdir()
    for name, what, hint in (
        ("rows.jsonl", "is there already", "name another file, or add --force to replace it"),
        ("folder.jsonl", "is a folder", "name a file"),
        (
            "rows.csv",
            "is no name for what is written, which is JSON lines",
            "let it end in .jsonl, .jsonl.gz, .jsonl.zst",
        ),
    ):
        path = tmp_path / name
        with pytest.raises(TuneError) as caught:
            card.write(path, failing(AssertionError("rows are asked for")), ASKED)
        assert [(p.what, p.hint) for p in caught.value.problems] == [(f"{path} {what}", hint)]
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        card.write(tmp_path / "file" / "rows.jsonl", ROWS, ASKED)
    assert card.write(tmp_path / "rows.jsonl", ROWS, ASKED, force=True) == 2
