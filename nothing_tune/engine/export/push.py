"""Uploads what was exported to the Hugging Face hub: one repository for each kind, as those who load from a repository's root expect.

    ORG/NAME          the adapter, or the whole model after full fine-tuning
    ORG/NAME-merged   the merged model
    ORG/NAME-GGUF     all GGUF files; with `template`, `params` and `system`, which `ollama run hf.co/ORG/NAME-GGUF` reads

Only files that EXPORT.json names go up, the card and EXPORT.json itself; folders of this machine are taken out of their texts.
The token is that of HF_TOKEN or of the hub's own store (`hf auth login`); it is handed on and never told.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nothing_tune.artifacts.redact import redact
from nothing_tune.data.hub import LOGIN, OFFLINE, chain, offline, reachable
from nothing_tune.engine.job import Send
from nothing_tune.errors import ProofFailed, RunError, UsageError
from nothing_tune.outputs import manifest, ollama, record

SUFFIXES = {"adapter": "", "merged": "-merged", "gguf": "-GGUF"}
"""Kind -> what is put behind the repository's name."""
CARD = "README.md"
_REPO = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?/[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_LONGEST = 96
_ROOM = max(map(len, SUFFIXES.values()))


def push(folder: Path, repo: str, private: bool, dry_run: bool, send: Send, force: bool = False) -> list[str]:
    """Uploads the outputs in `folder` and returns the repositories.

    Args:
        folder: Holds `adapter/`, `merged/`, `gguf/`, or some of them.
        repo: `org/name`.
        private: Whether repositories that are made are private; one that is there and public is refused then.
        dry_run: Only lists: needs neither token nor network.
        send: Told of each repository, `listing` or `pushed`: `{repo, private, files: [{path, size}], url}`.
        force: Uploads what was not proved as well; what was proved to be wrong is never uploaded.

    Raises:
        UsageError: Nothing to upload, a bad name, no token, no network, no right to write there.
        ProofFailed: An output differs from what was trained, or nobody compared them.
        RunError: The hub fails.
    """
    check_name(repo)
    kinds = {kind: data for kind in SUFFIXES if (data := manifest.read(folder / kind)) and data["outputs"]}
    if not kinds:
        raise UsageError(f"there is nothing to upload in {folder}", hint="tune export RUN_ID --adapter makes something")
    if not dry_run:
        for kind, data in kinds.items():
            _proved(folder / kind, data, force)
        _may_upload()
    planned = []
    for kind, data in kinds.items():
        name = repo + ("" if kind == "merged" and _is_full(folder) else SUFFIXES[kind])
        planned.append((kind, name, files(folder, kind, data, whole=not dry_run)))
    for kind, name, found in planned:
        listed = [{"path": path, "size": _size(source)} for path, source in sorted(found.items())]
        if dry_run:
            send(type="listing", repo=name, private=private, files=listed, url="")
            continue
        url = _upload(name, private, found, f"{kind} of run {kinds[kind].get('source', {}).get('run')}")
        send(type="pushed", repo=name, private=private, files=listed, url=url)
    return [name for _, name, _ in planned]


def check_name(repo: str) -> None:
    """`UsageError` for what cannot be the name of a repository on the hub."""
    good = _REPO.fullmatch(repo) and not any(bad in repo for bad in ("--", "..")) and not repo.endswith(".git")
    if not good or len(repo) + _ROOM > _LONGEST:
        hint = f"ORG/NAME of letters, digits, dots, dashes and underscores, {_LONGEST - _ROOM} characters at most"
        raise UsageError(f"{repo!r} is no name of a repository on the hub", hint=hint)


def files(folder: Path, kind: str, data: Mapping[str, Any], whole: bool = True) -> dict[str, Path | bytes]:
    """What goes into the repository of a kind: path there -> the file here, or its bytes where they are not the same.

    Args:
        whole: Whether every byte is compared with EXPORT.json, which takes as long as reading them; else only that they are there.

    Raises:
        UsageError: A file that EXPORT.json names is gone or was changed.
    """
    here = folder / kind
    named = [name for entry in data["outputs"].values() for name in entry["files"]]
    faults = manifest.faults(here) if whole else [f"{name} is gone" for name in named if not (here / name).is_file()]
    if faults:
        raise UsageError(f"{here} is not what was exported: {faults[0]}", hint="export again")
    out: dict[str, Path | bytes] = {name: here / name for name in named}
    changed = {name: text for name in named if (text := _without_folders(here / name))}
    out |= changed
    told = record.public(json.loads(json.dumps(data)))
    told["outputs"] = {
        name: {**told["outputs"][name], "files": {f: _facts(f, facts, changed) for f, facts in entry["files"].items()}}
        for name, entry in data["outputs"].items()
    }
    out[manifest.NAME] = (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode()
    if (here / CARD).is_file():
        out[CARD] = here / CARD
    if kind == "gguf":
        out |= _for_ollama(folder / "ollama" / "Modelfile")
    return out


def _facts(name: str, facts: Mapping[str, Any], changed: Mapping[str, bytes]) -> dict[str, Any]:
    if name not in changed:
        return dict(facts)
    return {"size": len(changed[name]), "sha256": hashlib.sha256(changed[name]).hexdigest()}


def _without_folders(path: Path) -> bytes | None:
    """A small JSON file without folders of this machine; None where it has none, or is another kind of file."""
    if path.name not in ("adapter_config.json", "config.json", "tokenizer_config.json", "generation_config.json"):
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    changed = False
    for key in ("base_model_name_or_path", "_name_or_path", "name_or_path"):
        value = data.get(key)
        if isinstance(value, str) and value.startswith(("/", "~", ".")):
            data[key], changed = record.file_name(value), True
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode() if changed else None


def _for_ollama(path: Path) -> dict[str, bytes]:
    """The Modelfile's parts as the files that Ollama reads from a repository of the hub (huggingface.co/docs/hub/ollama)."""
    if not path.is_file():
        return {}
    out: dict[str, bytes] = {}
    parameters: dict[str, Any] = {}
    for name, value in ollama.parse(path.read_text(encoding="utf-8")):
        if name in ("template", "system"):
            out[name] = value.encode()
        elif name == "stop":
            parameters.setdefault("stop", []).append(value)
        elif name in ollama.PARAMETERS:
            parameters[name] = ollama.PARAMETERS[name](value)
    return {**out, "params": (json.dumps(parameters, ensure_ascii=False) + "\n").encode()}


def _is_full(folder: Path) -> bool:
    """Whether the run trained the whole model: nothing was made of an adapter."""
    return not (folder / "adapter").is_dir()


def _proved(folder: Path, data: Mapping[str, Any], force: bool) -> None:
    for name, entry in data["outputs"].items():
        proof = entry.get("proof")
        if isinstance(proof, dict) and proof.get("ok") is False:
            hint = "export it again; what is wrong is never uploaded"
            raise ProofFailed(f"{name} in {folder} is not what was trained: it is not uploaded", hint=hint)
        if not isinstance(proof, dict) and not force:
            raise ProofFailed(
                f"{name} in {folder} was not proved", hint=f"tune export --verify {folder.parent} proves it"
            )


def _may_upload() -> None:
    from huggingface_hub import get_token

    if offline():
        raise UsageError(
            "HF_HUB_OFFLINE is set: nothing can be uploaded", hint="unset it, or add --dry-run to see what would be"
        )
    if not get_token():
        raise UsageError("there is no token for the hub", hint=LOGIN)
    if not reachable():
        raise UsageError("the hub cannot be reached", hint="check the network, and HF_ENDPOINT if you set it")


def _upload(repo: str, private: bool, found: Mapping[str, Path | bytes], message: str) -> str:
    """Makes the repository where it is not there, uploads all files in one commit, and returns the repository's address."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    api = HfApi(library_name="nothing-tune")
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise UsageError(
                f"{repo} is there already, and everybody can read it", hint="name another one, or add --public"
            )
        operations = [
            CommitOperationAdd(path, source if isinstance(source, bytes) else str(source))
            for path, source in sorted(found.items())
        ]
        api.create_commit(repo, operations, commit_message=f"Upload the {message} by nothing-tune")
    except UsageError:
        raise
    except Exception as error:  # the hub's client has many kinds, and a proxy in between has more
        raise _told(error, repo) from error
    return str(url)


def _told(error: BaseException, repo: str) -> UsageError | RunError:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status in (401, 403):
        return UsageError(f"the hub does not let you write to {repo}", hint=f"use a token with write access: {LOGIN}")
    if {type(e).__name__ for e in chain(error)} & OFFLINE:
        return UsageError("the hub cannot be reached", hint="check the network; what was uploaded is not sent again")
    said = (
        (str(getattr(error, "server_message", "") or "") or str(error) or type(error).__name__).strip().splitlines()[0]
    )
    return RunError(
        f"the upload to {repo} failed: {redact(said)[:200]}", hint="try again: what is there is not sent again"
    )


def _size(source: Path | bytes) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size
