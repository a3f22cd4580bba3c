"""The upload to the hub: against a hub on this machine, with huggingface_hub itself in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.engine.export import push
from nothing_tune.errors import ProofFailed, UsageError
from nothing_tune.outputs import manifest
from tests.engine.hub_server import Hub, hub

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
TOKEN = "hf_tokenOfThisTestAlone0123456789"
CALL = """
import json, sys
from pathlib import Path
from nothing_tune.engine.export import push
from nothing_tune.errors import TuneError
def send(**fields):
    print(json.dumps(fields))
try:
    push.push(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "private", sys.argv[4] == "dry", send, sys.argv[5] == "force")
except TuneError as error:
    print(json.dumps({"type": "error", "what": error.problems[0].what, "hint": error.problems[0].hint, "code": error.exit_code}))
"""
SOURCE = {
    "run": "r",
    "path": "adapter",
    "step": 6,
    "digest": "d",
    "base": {"name_or_path": "/home/someone/base", "revision": None},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of exports: an adapter and two GGUF files, proved, with a Modelfile and things that must stay here."""
    adapter, gguf = tmp_path / "step-6/adapter", tmp_path / "step-6/gguf"
    for one in (adapter, gguf, tmp_path / "step-6/ollama", tmp_path / "step-6/.merged.partial", adapter / ".proof"):
        one.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(os.urandom(200_000))
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/home/someone/base", "r": 8}))
    (adapter / "notes.tmp").write_text("not ours")
    (adapter / ".proof/logits.bin").write_bytes(b"x")
    for kind in ("q4_k_m", "q8_0"):
        (gguf / f"x-{kind}.gguf").write_bytes(os.urandom(100_000))
        manifest.add(gguf, "gguf", kind, SOURCE, [gguf / f"x-{kind}.gguf"], {}, 1.0)
        manifest.set_proof(gguf, kind, {"ok": True, "checks": []})
    manifest.add(
        adapter,
        "adapter",
        "adapter",
        SOURCE,
        [adapter / "adapter_model.safetensors", adapter / "adapter_config.json"],
        {},
        1.0,
    )
    manifest.set_proof(adapter, "adapter", {"ok": True, "checks": []})
    (adapter / "README.md").write_text("---\nlibrary_name: peft\n---\n# x\n")
    (tmp_path / "step-6/ollama/Modelfile").write_text(
        'FROM ../gguf/x-q8_0.gguf\nTEMPLATE """{{ .Prompt }}"""\nSYSTEM "Be brief."\nPARAMETER stop "<|e|>"\nPARAMETER num_ctx 64\n'
    )
    return tmp_path / "step-6"


@pytest.fixture
def there() -> Iterator[Hub]:
    with hub() as state:
        state.tokens.add(TOKEN)
        yield state


def uploaded(
    folder: Path, state: Hub | None, repo: str = "me/x", *words: str, **env: str
) -> tuple[list[dict[str, Any]], str]:
    """Events of a push in its own process, whose huggingface_hub reads the environment; and all that it said."""
    known = {"private": "private", "dry": "real", "force": ""} | dict(w.split("=") for w in words)
    home = folder.parent / "home"
    settings = {
        "PATH": os.environ["PATH"], "HOME": str(home), "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT),
        "HF_HUB_DISABLE_TELEMETRY": "1", **({"HF_ENDPOINT": state.url} if state else {}), **env,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", CALL, str(folder), repo, known["private"], known["dry"], known["force"]],
        capture_output=True, text=True, env=settings,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stdout + done.stderr


def test_what_is_uploaded_arrives(folder: Path, there: Hub) -> None:
    events, said = uploaded(folder, there, HF_TOKEN=TOKEN)
    assert [(e["type"], e["repo"], e["private"]) for e in events] == [
        ("pushed", "me/x", True),
        ("pushed", "me/x-GGUF", True),
    ]
    assert there.private == {"me/x": True, "me/x-GGUF": True}
    adapter, gguf = there.files["me/x"], there.files["me/x-GGUF"]
    assert set(adapter) == {"README.md", "EXPORT.json", "adapter_config.json", "adapter_model.safetensors"}
    assert adapter["adapter_model.safetensors"] == (folder / "adapter/adapter_model.safetensors").read_bytes()
    assert adapter["README.md"] == (folder / "adapter/README.md").read_bytes()
    assert json.loads(adapter["adapter_config.json"]) == {"base_model_name_or_path": "base", "r": 8}
    assert set(gguf) == {"EXPORT.json", "x-q4_k_m.gguf", "x-q8_0.gguf", "template", "system", "params"}
    assert gguf["x-q8_0.gguf"] == (folder / "gguf/x-q8_0.gguf").read_bytes()
    assert (gguf["template"], gguf["system"]) == (b"{{ .Prompt }}", b"Be brief.")
    assert json.loads(gguf["params"]) == {"stop": ["<|e|>"], "num_ctx": 64}
    assert not any(b"/home/someone" in data for files in there.files.values() for data in files.values())
    assert TOKEN not in said
    assert {token for _, path, token in there.asked if path.startswith("/api/models")} == {TOKEN}
    arrived = folder.parent / "arrived"  # what was changed on its way has the digest that EXPORT.json there names
    arrived.mkdir()
    for name, data in adapter.items():
        (arrived / name).write_bytes(data)
    assert manifest.faults(arrived) == []
    events, _ = uploaded(folder, there, HF_TOKEN=TOKEN)  # once more: the repositories are there
    assert [e["type"] for e in events] == ["pushed", "pushed"]


def test_what_the_hub_refuses_is_told(folder: Path, there: Hub) -> None:
    refused, said = uploaded(folder, there, HF_TOKEN="hf_anotherTokenThatMayNotWrite000")
    assert refused == [
        {"type": "error", "what": "the hub does not let you write to me/x", "code": 2,
         "hint": "use a token with write access: run `hf auth login`, or set HF_TOKEN"},
    ]  # fmt: skip
    assert "hf_another" not in said
    there.files["me/x"], there.private["me/x"] = {}, False
    [open_to_all], _ = uploaded(folder, there, HF_TOKEN=TOKEN)
    assert open_to_all["what"] == "me/x is there already, and everybody can read it"
    assert there.files["me/x"] == {}
    there.fails = 400
    [failed], _ = uploaded(folder, there, "me/y", HF_TOKEN=TOKEN)
    assert (failed["code"], failed["hint"]) == (5, "try again: what is there is not sent again")
    assert failed["what"].startswith("the upload to me/y failed: ")


def test_public_where_it_is_asked_for(folder: Path, there: Hub) -> None:
    shutil.rmtree(folder / "gguf")
    uploaded(folder, there, "me/x", "private=public", HF_TOKEN=TOKEN)
    assert there.private == {"me/x": False}


def test_a_dry_run_needs_neither_token_nor_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    told: list[dict[str, Any]] = []
    repos = push.push(folder, "me/x", True, True, lambda **fields: told.append(fields))
    assert repos == ["me/x", "me/x-GGUF"]
    assert [e["type"] for e in told] == ["listing", "listing"]
    sizes = {f["path"]: f["size"] for f in told[0]["files"]}
    assert sizes["adapter_model.safetensors"] == 200_000
    assert "notes.tmp" not in sizes
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set: nothing can be uploaded"):
        push.push(folder, "me/x", True, False, lambda **_: None)


def test_what_is_refused_before_anything_is_sent(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(kind: type[Exception], repo: str = "me/x", where: Path = folder, force: bool = False) -> str:
        with pytest.raises(kind) as told:
            push.push(where, repo, True, False, lambda **_: None, force)
        return str(told.value.problems[0].what)  # type: ignore[attr-defined]

    for bad in (
        "x",
        "me/x/y",
        "/x",
        "me/",
        "me/x y",
        "me/-x",
        "me/x--y",
        "me/x..y",
        "me/x.git",
        f"me/{'x' * 90}",
        "https://hub/me/x",
    ):
        assert refused(UsageError, bad) == f"{bad!r} is no name of a repository on the hub"
    assert refused(UsageError, where=tmp_path) == f"there is nothing to upload in {tmp_path}"
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert refused(UsageError) == "there is no token for the hub"
    data = json.loads((folder / "gguf/EXPORT.json").read_text())
    data["outputs"]["q8_0"]["proof"] = None
    (folder / "gguf/EXPORT.json").write_text(json.dumps(data))
    assert refused(ProofFailed) == f"q8_0 in {folder / 'gguf'} was not proved"
    assert refused(UsageError, force=True) == "there is no token for the hub"
    manifest.set_proof(folder / "gguf", "q8_0", {"ok": False, "checks": []})
    assert refused(ProofFailed, force=True) == f"q8_0 in {folder / 'gguf'} is not what was trained: it is not uploaded"
    manifest.set_proof(folder / "gguf", "q8_0", {"ok": True, "checks": []})
    monkeypatch.setattr("huggingface_hub.get_token", lambda: TOKEN)
    monkeypatch.setattr(push, "reachable", lambda: True)
    with open(folder / "gguf/x-q8_0.gguf", "r+b") as handle:
        handle.write(b"other")
    assert (
        refused(UsageError)
        == f"{folder / 'gguf'} is not what was exported: x-q8_0.gguf is not what was written: its sha256 differs"
    )
