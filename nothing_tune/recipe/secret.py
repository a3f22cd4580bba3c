"""Recognises values that look like keys and tokens, so that none is kept, shown or stored."""

from __future__ import annotations

import re
from typing import Any

_TOKENS = (
    (r"hf_[A-Za-z0-9]{20,}", "a Hugging Face token", "HF_TOKEN"),
    (r"(?:sk|pk|rk)-[A-Za-z0-9_-]{20,}", "an API key", "the variable that its tool reads"),
    (r"wandb_v\d_[A-Za-z0-9_]{20,}", "a Weights & Biases key", "WANDB_API_KEY"),
    (r"gh[opsu]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}", "a GitHub token", "the variable that its tool reads"),
    (r"AKIA[0-9A-Z]{16}", "an AWS key", "AWS_ACCESS_KEY_ID"),
    (r"xox[abprs]-[A-Za-z0-9-]{10,}", "a Slack token", "the variable that its tool reads"),
    (r"-----BEGIN [A-Z ]*PRIVATE KEY-----", "a private key", "a file that only you can read"),
    (r"(?<=://)[^/\s:@]+:[^/\s:@]+(?=@)", "a password in an address", "the variable that its tool reads"),
)
_HEX40 = re.compile(r"\b[0-9a-f]{40}\b")
"""What an older Weights & Biases key looks like; also a git commit, which keys named `revision` may hold."""
SECRET_NAME = re.compile(r"(?:^|_)(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(?:$|_)", re.I)
"""Names of environment variables that hold secrets."""


def found(key: str, value: Any) -> tuple[str, str] | None:
    """`(what it looks like, where it belongs)` when a text, or a text in a list, looks like a secret; None otherwise."""
    if isinstance(value, list):
        return next((hit for item in value if (hit := found(key, item))), None)
    if not isinstance(value, str):
        return None
    for pattern, what, where in _TOKENS:
        if re.search(pattern, value):
            return what, where
    if _HEX40.search(value) and "revision" not in key and not key.startswith(("model.facts", "gpu.sources")):
        return "a Weights & Biases key", "WANDB_API_KEY"
    return None


def masked(value: Any) -> str:
    """`repr` of a value without anything that looks like a secret, at most 80 characters long."""
    text = repr(value)
    for pattern, _, _ in _TOKENS:
        text = re.sub(pattern, "***", text)
    text = _HEX40.sub("***", text)
    return text if len(text) <= 80 else f"{text[:77]}..."
