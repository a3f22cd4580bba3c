"""Recognises values that look like keys and tokens, so that none is kept, shown or stored."""

from __future__ import annotations

import re
from typing import Any

from nothing_tune.artifacts.redact import TOKENS

_HEX40 = re.compile(r"\b[0-9a-f]{40}\b")
"""What an older Weights & Biases key looks like; also a git commit, which keys named `revision` may hold."""
SECRET_NAME = re.compile(r"(?:^|_)(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(?:$|_)", re.I)
"""Names of environment variables that hold secrets."""


def found(key: str, value: Any) -> tuple[str, str] | None:
    """`(what it looks like, where it belongs)` when a text, or a text in a list or mapping, looks like a secret; None otherwise."""
    if isinstance(value, list):
        return next((hit for item in value if (hit := found(key, item))), None)
    if isinstance(value, dict):
        return next((hit for name, item in value.items() if (hit := found(f"{key}.{name}", item))), None)
    if not isinstance(value, str):
        return None
    for pattern, what, where in TOKENS:
        if re.search(pattern, value):
            return what, where
    if _HEX40.search(value) and "revision" not in key and not key.startswith(("model.facts", "gpu.sources")):
        return "a Weights & Biases key", "WANDB_API_KEY"
    return None


def masked(value: Any) -> str:
    """`repr` of a value without anything that looks like a secret, at most 80 characters long."""
    text = repr(value)
    for pattern, _, _ in TOKENS:
        text = re.sub(pattern, "***", text)
    text = _HEX40.sub("***", text)
    return text if len(text) <= 80 else f"{text[:77]}..."
