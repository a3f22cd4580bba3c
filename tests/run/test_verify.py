"""`verify`: a table of what is damaged in a run and what is said about it."""

from __future__ import annotations

import hashlib
import random
import struct
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from nothing_tune.artifacts import Run, checkpoint, write_json
from nothing_tune.run import verify
from nothing_tune.run.verify import digest
from tests.run.support import FILES, end, event, flip, prepared, safetensors, save

pytestmark = pytest.mark.engine  # nothing heavy is imported, but it takes seconds


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = prepared(tmp_path)
    save(made, 10), save(made, 20)
    return made


def test_all_well(run: Run) -> None:
    report = verify(run)
    assert report.ok
    assert report.damaged == report.remarks == ()
    assert report.checkpoints == {10: None, 20: None}
    assert report.resume == "tune resume would go on at checkpoint-20"
    assert report.checked > 2 * sum(map(len, FILES.values()))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


NEWEST = "checkpoints/checkpoint-20"
DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    (f"{NEWEST}/optimizer.pt", flip, "checkpoint-20: optimizer.pt is not what was written"),
    (f"{NEWEST}/optimizer.pt", _cut, "checkpoint-20: optimizer.pt has 7 bytes instead of 9"),
    (f"{NEWEST}/rng_state.pth", Path.unlink, "checkpoint-20: rng_state.pth is missing"),
    (f"{NEWEST}/COMMIT.json", _cut, "checkpoint-20: COMMIT.json is damaged"),
    (f"{NEWEST}/COMMIT.json", Path.unlink, "checkpoint-20: it was never completed"),
    ("plan.json", _cut, "plan.json is no JSON"),
    ("plan.json", Path.unlink, "plan.json is missing"),
    ("lock.json", lambda p: p.write_text("[]"), "lock.json does not hold what it should"),
    ("status.json", lambda p: p.write_bytes(b"\0" * 40), "status.json is no JSON"),
    ("pins.json", lambda p: p.write_text("{"), "pins.json is no JSON"),
    ("recipe.yaml", lambda p: p.write_text("a: [1"), "recipe.yaml: not valid YAML"),
    ("recipe.yaml", Path.unlink, "cannot read"),
    ("events.jsonl", lambda p: p.write_bytes(b"\0\n" + p.read_bytes()), "events.jsonl: line 1 cannot be read"),
]


@pytest.mark.parametrize(("file", "harm", "said"), DAMAGE)
def test_damage(run: Run, file: str, harm: Callable[[Path], object], said: str) -> None:
    harm(run.path / file)
    report = verify(run)
    assert len(report.damaged) == 1
    assert report.damaged[0].startswith(said)
    older = "checkpoint-20:" in said
    assert report.resume == f"tune resume would go on at checkpoint-{10 if older else 20}"


def test_200_flips_none_silent(run: Run) -> None:
    chance = random.Random(3)
    files = [p for p in run.checkpoints.rglob("*") if p.is_file()]
    for number in range(200):
        path = chance.choice(files)
        data = path.read_bytes()
        where = chance.randrange(len(data))
        path.write_bytes(data[:where] + bytes([data[where] ^ 1 << chance.randrange(8)]) + data[where + 1 :])
        assert not verify(run).ok, (number, path, where)
        path.write_bytes(data)
    assert verify(run).ok


def test_what_a_kill_leaves_is_no_damage(run: Run) -> None:
    (run.checkpoints / "checkpoint-30").mkdir()
    (run.checkpoints / "checkpoint-30" / "optimizer.pt").write_bytes(b"half")
    (run.checkpoints / "torn-25-a1").mkdir()
    with open(run.path / "events.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"type": "log", "st')
    report = verify(run)
    assert report.ok
    assert report.remarks == (
        "checkpoint-30 was never completed: a save was cut off there, or goes on",
        "torn-25-a1 was set aside",
    )


def test_a_checkpoint_that_was_being_written_again_is_put_back(run: Run) -> None:
    checkpoint.make_way(run.checkpoints / "checkpoint-20")
    (run.checkpoints / "checkpoint-20").mkdir()
    report = verify(run)
    assert report.ok
    assert report.resume == "tune resume would go on at checkpoint-20"


def test_the_newest_is_gone(run: Run) -> None:
    write_json(run.checkpoints / "latest.json", {"step": 30, "path": "checkpoint-30"})
    assert verify(run).damaged == ("checkpoint-30, the newest that was committed, is gone",)


def test_nothing_to_resume(tmp_path: Path) -> None:
    run = prepared(tmp_path)
    assert verify(run).resume == "tune resume would start anew"
    end(run)
    assert verify(run).resume == "the run is done, and there is nothing to resume"


def test_initial_weights(tmp_path: Path) -> None:
    run = prepared(tmp_path)
    (run.path / "initial").mkdir()
    (run.path / "initial" / "adapter_model.safetensors").write_bytes(b"weights")
    assert verify(run).damaged == ("initial: it was never completed",)
    checkpoint.commit(run.path / "initial", step=0, attempt=0, run=run.id)
    assert verify(run).ok
    assert verify(run).resume == "tune resume would start from the weights in initial"
    flip(run.path / "initial" / "adapter_model.safetensors")
    assert verify(run).damaged == ("initial: adapter_model.safetensors is not what was written",)


def test_what_was_handed_over(run: Run) -> None:
    weights = run.adapter / "adapter_model.safetensors"
    safetensors(weights, {"a": ("F32", [2], struct.pack("<2f", 1.5, -2.0))})
    end(run, adapter="adapter", digest=digest(run.adapter))
    assert verify(run).ok
    flip(weights)
    assert verify(run).damaged == ("adapter: its weights are not what was handed over",)
    _cut(weights)
    assert verify(run).damaged == ("adapter: its weights cannot be read: adapter_model.safetensors is cut off",)
    weights.write_bytes(b"no")
    assert verify(run).damaged == ("adapter: its weights cannot be read: it is no safetensors file",)


def test_digest_counts_every_float_as_float32(tmp_path: Path) -> None:
    floats = [1.5, -2.0, 0.25]
    wide = array("f", floats).tobytes()
    expected = hashlib.sha256(b"a(3,)" + wide + b"b(1, 2)" + bytes([1, 0])).hexdigest()
    half, double = struct.pack("<3e", *floats), struct.pack("<3d", *floats)
    brain = b"".join(wide[at + 2 : at + 4] for at in range(0, len(wide), 4))
    flags = ("BOOL", [1, 2], bytes([1, 0]))
    for kind, data in (("F32", wide), ("F16", half), ("BF16", brain), ("F64", double)):
        safetensors(tmp_path / kind / "model.safetensors", {"b": flags, "a": (kind, [3], data)})
        assert digest(tmp_path / kind) == expected
    safetensors(tmp_path / "new" / "model.safetensors", {"a": ("F8_E4M3", [1], b"x")})
    assert digest(tmp_path / "new") is None


def test_a_checkpoint_that_was_rotated_away_is_no_damage(run: Run) -> None:
    event(run, "checkpoint", step=5, path="checkpoints/checkpoint-5", best=False)
    assert verify(run).ok


def test_a_live_run_removes_old_checkpoints_meanwhile(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = checkpoint.fault

    def meanwhile(folder: Path) -> str | None:
        if folder.name == "checkpoint-10":
            checkpoint.remove(folder)
        return fault(folder)

    monkeypatch.setattr(checkpoint, "fault", meanwhile)
    report = verify(run)
    assert report.ok
    assert report.checkpoints == {20: None}
