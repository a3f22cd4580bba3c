"""The architecture of a recipe's base model: its config.json, from wherever it can be had without downloading the model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nothing_tune.data import hub
from nothing_tune.plan import Plan
from nothing_tune.recipe.model import lookup

REACH_S = 2.0
"""Longest wait, in seconds, for the hub's host."""
ABOUT = ("source", "as_of", "architecture")
"""Keys of `model.facts` that config.json has not, or not so."""


def config_of(plan: Plan, fetch: bool = True) -> tuple[dict[str, Any] | None, str]:
    """`(config.json, where it came from)` of the base model; `(None, why not)` where it cannot be had.

    Looked for in the model's folder, the local cache of the hub, the facts of the recipe's model layer, and, with `fetch`, on
    the hub.
    """
    name = str(plan.model.get("name_or_path") or "")
    if not name:
        return None, "the recipe names no model"
    folder = Path(os.path.expandvars(name)).expanduser()
    for path, source in ((folder / "config.json", "the model's folder"), (hub.cached_config(name), "the local cache")):
        if path is not None and path.is_file():
            config = _read(path)
            return (config, source) if config else (None, f"{path} cannot be read")
    facts = _facts(plan)
    if facts:
        return facts, f"facts of the library, as of {lookup(plan.values, 'model.facts.as_of') or 'an unknown date'}"
    if folder.is_dir():
        return None, f"{name} holds no config.json"
    if not fetch or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return None, f"there is no config.json of {name} on this machine"
    return _fetched(name, plan.model.get("revision"))


def _facts(plan: Plan) -> dict[str, Any] | None:
    """`model.facts` as config.json would say it; None where another layer has named another model since."""
    facts = lookup(plan.values, "model.facts")
    if not isinstance(facts, dict) or "hidden_size" not in facts:
        return None
    named, told = plan.why.get("model.name_or_path", ""), plan.why.get("model.facts.hidden_size", "")
    if named.split(" (")[0] != told.split(" (")[0]:
        return None
    return as_config(facts)


def as_config(facts: Mapping[str, Any]) -> dict[str, Any]:
    """`model.facts` in the words of config.json."""
    kind = str(facts.get("architecture", ""))
    kept = {key: value for key, value in facts.items() if key not in ABOUT}
    return {"model_type": kind.removesuffix("ForCausalLM").lower(), "architectures": [kind], **kept}


def _fetched(name: str, revision: Any) -> tuple[dict[str, Any] | None, str]:
    if hub.offline():
        return None, f"{name} is not in the local cache, and HF_HUB_OFFLINE is set"
    if not hub.reachable(REACH_S):
        return None, f"{name} is not in the local cache, and huggingface.co cannot be reached"
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(name, "config.json", revision=revision, etag_timeout=REACH_S)
    except Exception as error:  # the hub's own errors have no common root worth naming
        return None, hub.hub_problem(error, name, "model.name_or_path").what
    return _read(Path(path)), "the hub"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None
