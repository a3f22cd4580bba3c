"""Exports that are hurt: killed at any moment, on a full disk, with their base gone, another one, or a torn checkpoint.

Whatever happens, what lies under a final name is whole, and the same command ends with the same bytes.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import Run
from nothing_tune.outputs import Wanted, manifest
from tests.engine import exports

pytestmark = [pytest.mark.engine, pytest.mark.slow]

KILLS = 5
SEED = int(os.environ.get("TUNE_TEST_SEED") or random.SystemRandom().randrange(10**6))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of a small Llama in several shards, which trained an adapter."""
    folder = tmp_path_factory.mktemp("exports")
    base = exports.model("llama", folder / "base", hidden=256, shards=3)
    return exports.trained("lora", base, folder / "runs")


def request(run: Run, to: Path | None, **wanted: Any) -> str:
    asked = Wanted(merged=True, **wanted).to_json()
    return json.dumps(
        {"do": "make", "run": str(run.path), "which": "handed-over", "to": str(to) if to else None, "wanted": asked}
    )


def job(asked: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*before, sys.executable, "-m", "nothing_tune.engine", "export"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdin
    process.stdin.write(asked + "\n")
    process.stdin.flush()
    return process


def events(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    out, err = process.communicate()
    found = [json.loads(line) for line in out.splitlines()]
    assert found, err[-3000:]
    return found


def whole(folder: Path) -> None:
    """Every manifest below names files that are as it says."""
    for path in folder.glob(f"*/{manifest.NAME}"):
        assert manifest.faults(path.parent) == []


def weights(folder: Path) -> dict[str, str]:
    """File -> sha256 of all that the manifests below name."""
    found = {}
    for path in sorted(folder.glob(f"*/{manifest.NAME}")):
        for entry in (manifest.read(path.parent) or {"outputs": {}})["outputs"].values():
            found.update({f"{path.parent.name}/{n}": f["sha256"] for n, f in entry["files"].items()})
    return found


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    asked = request(run, tmp_path / "whole", gguf=("q8_0",))
    began = time.monotonic()
    assert events(job(asked))[-1]["type"] == "report"
    seconds = time.monotonic() - began
    expected = weights(tmp_path / "whole")
    assert any(name.endswith("-q8_0.gguf") for name in expected)
    chance, hurt = random.Random(SEED), tmp_path / "hurt"
    for kill in range(KILLS):
        process = job(request(run, hurt, gguf=("q8_0",)))
        time.sleep(chance.uniform(0.3, 1.0) * seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        whole(hurt)
        left = [p.name for p in hurt.glob("gguf/*.gguf") if p.name[0] != "."]
        for name in left:  # a file under its final name is never half-made
            assert (hurt / "gguf" / name).stat().st_size == (tmp_path / "whole/gguf" / name).stat().st_size, (
                SEED,
                kill,
            )
    done = events(job(request(run, hurt, gguf=("q8_0",))))
    assert done[-1]["type"] == "report", done[-1]
    assert weights(hurt) == expected, SEED
    assert not [
        p.name for p in hurt.rglob("*") if "partial" in p.name or (p.name.startswith(".") and p.suffix == ".gguf")
    ]


def test_on_a_full_disk_it_says_so_and_keeps_what_is_whole(run: Run, tmp_path: Path) -> None:
    disk, before = tmp_path / "disk", ("unshare", "--mount", "--map-root-user")
    disk.mkdir()
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace here")
    size = sum(p.stat().st_size for p in exports_folder(run).glob("*.safetensors")) // 1024
    for share in (0.3, 0.8):
        script = f'mount -t tmpfs -o size={int(size * share) + 200}k none {disk} && exec "$@"'
        done = events(job(request(run, disk / "out"), (*before, "sh", "-c", script, "sh")))[-1]
        assert (done["type"], done["exit_code"]) == ("error", 74), done
        assert "No space left on device" in done["what"] or "it is full or failing" in done["what"], done
        assert "the same command goes on" in done["hint"], done


def exports_folder(run: Run) -> Path:
    return Path(run.plan()["model"]["name_or_path"])


def test_two_at_once(run: Run, tmp_path: Path) -> None:
    first = job(request(run, tmp_path / "out"))
    assert first.stdout
    assert json.loads(first.stdout.readline())["type"] == "source"
    second = events(job(request(run, tmp_path / "out")))[-1]
    assert (second["exit_code"], second["what"]) == (77, f"another export works in {tmp_path / 'out'}")
    out, _ = first.communicate()
    assert json.loads(out.splitlines()[-1])["type"] == "report"
    again = [e for e in events(job(request(run, tmp_path / "out"))) if e["type"] == "output"]
    assert [(e["output"], e["there"]) for e in again] == [("adapter", True), ("merged", True)]


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Run:
    """A copy of the run with a base of its own."""
    base = tmp_path / "base"
    shutil.copytree(exports_folder(run), base)
    shutil.copytree(run.path, tmp_path / "run")
    copied = Run(tmp_path / "run")
    plan = copied.plan()
    plan["model"]["name_or_path"] = str(base)
    (copied.path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    return copied


def refused(run: Run, to: Path, **wanted: Any) -> dict[str, Any]:
    found = events(job(request(run, to, **wanted)))[-1]
    assert found["type"] == "error", found
    return found


def test_the_base_is_gone_or_damaged_or_another(copy: Run, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shard = sorted(base.glob("*.safetensors"))[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    found = refused(copy, tmp_path / "out")
    assert found["exit_code"] == 74
    assert shard.name in found["what"]
    shard.write_bytes(content)
    shutil.rmtree(base)
    found = refused(copy, tmp_path / "out")
    assert found["exit_code"] == 2
    assert str(base) in found["what"]
    exports.model("llama", base, hidden=256, shards=3, seed=7)
    made = events(job(request(copy, tmp_path / "out")))
    wrong = [c["name"] for e in made if e["type"] == "output" for c in e["proof"]["checks"] if c["ok"] is False]
    assert wrong or made[-1]["type"] == "error", made[-1]
    assert any("base" in name for name in wrong) or "base" in made[-1].get("what", ""), (wrong, made[-1])


def test_the_weights_are_torn(copy: Run, tmp_path: Path) -> None:
    file = copy.adapter / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    found = refused(copy, tmp_path / "out")
    assert found["exit_code"] == 74
    assert "adapter of run run is damaged" in found["what"]
    assert not (tmp_path / "out" / "adapter").exists()
