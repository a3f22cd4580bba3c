"""One suite over all trackers, and each one's files read back by its own reader."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nothing_tune import trackers
from nothing_tune.errors import UsageError
from tests.trackers.wandb_server import KEY, serving

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parents[2]
CONFIG = {"training": {"learning_rate": 1e-4, "hub_token": "hf_canary"}, "api_key": "canary", "name": "tiny"}


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    return


@pytest.mark.parametrize("name", trackers.names())
def test_every_tracker_checks_starts_logs_and_finishes(name: str, tmp_path: Path) -> None:
    tracker = trackers.find(name)
    settings = {"tracker": name, "project": "p", "tags": ["a"], "group": None, "mode": "offline"}
    assert tracker.check(settings, {"HOME": str(tmp_path)}) == []
    sink = tracker.start(settings, "run-0001", "tiny", trackers.public(CONFIG), tmp_path / "tracking")
    sink.log({"loss": 1.5}, 1)
    sink.log({"eval_loss": 1.25}, 1)
    sink.summary({"state": "done", "train_loss": 1.5})
    sink.finish()
    assert sink.settles in ("at once", "by step", "at the end")
    assert tracker.unreachable(settings, {}, 0.1) is None
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"canary" not in path.read_bytes(), path


def test_the_trackers_are_the_files() -> None:
    assert trackers.names() == ["none", "tensorboard", "wandb"]
    with pytest.raises(UsageError, match="no tracker 'mlflow'"):
        trackers.find("mlflow")


def test_secrets_stay_out_of_the_config() -> None:
    assert trackers.public(CONFIG) == {"training": {"learning_rate": 1e-4}, "name": "tiny"}


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    for name in ("wandb", "tensorboard"):
        module = importlib.import_module(f"nothing_tune.trackers.{name}")
        monkeypatch.setattr(module, "find_spec", lambda _: None)
        [problem] = module.check({}, {"WANDB_API_KEY": "x"})
        assert f"pip install {name}" in problem.hint
        assert problem.key == "tracking.tracker"


def test_wandb_finds_its_key_where_login_leaves_it(tmp_path: Path) -> None:
    from nothing_tune.trackers import wandb

    home = {"HOME": str(tmp_path)}
    [problem] = wandb.check({"mode": "online"}, home)
    assert "wandb login" in problem.hint
    assert "WANDB_API_KEY" in problem.hint
    assert wandb.check({"mode": "offline"}, home) == []
    assert wandb.check({}, {**home, "WANDB_MODE": "offline"}) == []
    assert wandb.check({}, {**home, "WANDB_API_KEY": "k"}) == []
    (tmp_path / ".netrc").write_text("machine example.org login user password x\n")
    assert len(wandb.check({}, home)) == 1
    for host in wandb.NETRC_HOSTS:
        (tmp_path / ".netrc").write_text(f"machine {host}\n  login user\n  password k\n")
        assert wandb.check({}, home) == []
    assert len(wandb.check({}, {**home, "WANDB_BASE_URL": "https://wandb.example.org"})) == 1
    other = tmp_path / "elsewhere"
    other.write_text("machine wandb.example.org\n  login user\n  password k\n")
    assert (
        wandb.check({}, {"HOME": "/nowhere", "NETRC": str(other), "WANDB_BASE_URL": "https://wandb.example.org"}) == []
    )
    token = tmp_path / "token"
    token.write_text("jwt")
    assert wandb.check({}, {"HOME": "/nowhere", "WANDB_IDENTITY_TOKEN_FILE": str(token)}) == []
    (tmp_path / "settings").write_text("[default]\napi_key = k\n")
    assert wandb.check({}, {"HOME": "/nowhere", "WANDB_CONFIG_DIR": str(tmp_path)}) == []


BLOCK = 32768


def chunks(path: Path) -> Iterator[bytes]:
    """Records of a .wandb file: LevelDB's log format (a record may be cut at the end of a 32 KiB block), after 7 bytes of header."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = 7, b""
    while position + 7 <= len(data):
        left = BLOCK - position % BLOCK
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        if kind == 0:
            return
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def wandb_records(folder: Path, runs: str = "**") -> list[Any]:
    """All records in the offline files below `folder`, in folders called `runs`, as wandb's own messages, oldest file first."""
    from wandb.proto import wandb_internal_pb2

    out = []
    for path in sorted(folder.glob(f"{runs}/*.wandb"), key=os.path.getmtime):
        for data in chunks(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            out.append(record)
    return out


def test_wandb_offline_files_hold_the_run_and_a_resumed_run_goes_on(tmp_path: Path) -> None:
    tracker = trackers.find("wandb")
    settings = {
        "project": "nothing",
        "group": "g",
        "tags": ["one", "two"],
        "mode": "offline",
        "notes": "n",
        "entity": None,
    }
    for steps in ((1, 2), (3, 4)):
        sink = tracker.start(settings, "run-0001", "tiny-l4", trackers.public(CONFIG), tmp_path / "tracking")
        for step in steps:
            sink.log({"loss": 10.0 - step}, step)
        sink.log({"eval_loss": 1.0}, steps[-1])
        sink.finish()
    records = wandb_records(tmp_path / "tracking")
    runs = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert {r.run_id for r in runs} == {"run-0001"}
    assert len(list((tmp_path / "tracking").rglob("*.wandb"))) == 2
    assert runs[0].project == "nothing"
    assert list(runs[0].tags) == ["one", "two"]
    assert runs[0].run_group == "g"
    assert runs[0].display_name == "tiny-l4"
    seen: dict[int, dict[str, float]] = {}
    for record in records:
        if record.WhichOneof("record_type") == "history":
            row = {
                (item.key or "/".join(item.nested_key)): float(item.value_json)
                for item in record.history.item
                if not item.value_json.startswith('"')
            }
            seen.setdefault(int(row["_step"]), {}).update(
                {k: v for k, v in row.items() if k.startswith(("train", "eval"))}
            )
    assert seen == {
        1: {"train/loss": 9.0},
        2: {"train/loss": 8.0, "eval/loss": 1.0},
        3: {"train/loss": 7.0},
        4: {"train/loss": 6.0, "eval/loss": 1.0},
    }


def test_tensorboard_files_hold_the_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = trackers.find("tensorboard")
    sink = tracker.start({}, "run-0001", "tiny", {"training": {}}, tmp_path)
    for step in (1, 2, 3):
        sink.log({"loss": 4.0 - step}, step)
    sink.finish()
    sink = tracker.start({"from_step": 3}, "run-0001", "tiny", {"training": {}}, tmp_path)
    sink.log({"loss": 0.5, "eval_loss": 0.25}, 3)
    sink.finish()
    reader = EventAccumulator(str(tmp_path / "tensorboard"))
    reader.Reload()
    assert [(e.step, e.value) for e in reader.Scalars("train/loss")] == [(1, 3.0), (2, 2.0), (3, 0.5)]
    assert [(e.step, e.value) for e in reader.Scalars("eval/loss")] == [(3, 0.25)]


def test_tensorboard_needs_neither_torch_nor_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from nothing_tune.trackers import tensorboard as t\n"
        f"s = t.start({{}}, 'run-0001', 'tiny', {{}}, Path({str(tmp_path)!r})); s.log({{'loss': 1.0}}, 1); s.finish()\n"
        "print([m for m in ('torch', 'tensorflow') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"


def test_wandb_online_sends_to_the_server_and_a_resumed_run_passes_over_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = trackers.find("wandb")
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        settings = {"project": "p", "mode": "online"}
        assert tracker.unreachable(settings, os.environ, 5.0) is None
        for steps in ((1, 2), (1, 2, 3)):
            sink = tracker.start(settings, "run-0001", "tiny", trackers.public(CONFIG), tmp_path)
            for step in steps:
                sink.log({"loss": 10.0 - step}, step)
            sink.summary({"state": "done"})
            sink.finish()
        assert server.points("run-0001", "train/loss") == [(1, 9.0), (2, 8.0), (3, 7.0)]
        assert server.summaries["run-0001"]["result/state"] == "done"
        assert server.configs["run-0001"]["training"] == {"value": {"learning_rate": 1e-4}}
        assert not any(b"canary" in body or KEY.encode() in body for body in server.bodies)


def test_wandb_tells_a_server_that_does_not_answer() -> None:
    tracker = trackers.find("wandb")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel takes the connection, nobody answers
        port = silent.getsockname()[1]
        env = {"WANDB_BASE_URL": f"http://127.0.0.1:{port}"}
        assert tracker.unreachable({}, env, 0.2) == f"127.0.0.1:{port} does not answer (timed out)"
        assert tracker.unreachable({"mode": "offline"}, env, 0.2) is None
    assert "does not answer ([Errno 111] Connection refused)" in str(tracker.unreachable({}, env, 0.2))
    assert "does not answer" in str(tracker.unreachable({}, {"WANDB_BASE_URL": "http://no-such-host.invalid"}, 5.0))


def test_wandb_looks_for_the_server_that_its_client_asks(tmp_path: Path) -> None:
    from wandb.sdk.lib import urls

    from nothing_tune.trackers import wandb

    assert wandb.HOST == urls.DEFAULT_BASE_URL
    (tmp_path / "settings").write_text("[default]\nbase_url = http://wandb.invalid\n")
    env = {"WANDB_CONFIG_DIR": str(tmp_path)}
    assert str(wandb.unreachable({}, env, 5.0)).startswith("wandb.invalid does not answer")


def test_wandb_is_looked_for_behind_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = trackers.find("wandb")
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert tracker.unreachable({}, {"WANDB_BASE_URL": "http://wandb.invalid"}, 5.0) is None
    assert "does not answer" in str(tracker.unreachable({}, {"WANDB_BASE_URL": "http://wandb.invalid"}, 5.0))
