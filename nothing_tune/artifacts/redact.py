"""Takes secrets out of texts before they are written down: values of the environment's secrets, and what looks like one.

A library's exception may quote an address with a password, a header with a token, a command line with a key. Events, results
and engine.log go through here; a plan does not, as recipes with secrets are refused.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TextIO, cast

MASK = "***"
SECRET_NAME = re.compile(r"(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.I)
"""Names of environment variables that hold secrets, by their end."""
SHORTEST = 8
"""Shorter values are words: they are no secret worth a text full of stars."""
TOKENS = (
    (r"\bhf_[A-Za-z0-9_]{16,}", "a Hugging Face token", "HF_TOKEN"),
    (r"\b(?:sk|pk|rk)-[A-Za-z0-9_-]{20,}", "an API key", "the variable that its tool reads"),
    (r"\bwandb_v\d_[A-Za-z0-9_]{20,}", "a Weights & Biases key", "WANDB_API_KEY"),
    (
        r"\bgh[opsu]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{30,}",
        "a GitHub token",
        "the variable that its tool reads",
    ),
    (r"\bAKIA[0-9A-Z]{16}", "an AWS key", "AWS_ACCESS_KEY_ID"),
    (r"\bxox[abprs]-[A-Za-z0-9-]{10,}", "a Slack token", "the variable that its tool reads"),
    (r"-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*", "a private key", "a file that only you can read"),
    (r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)", "a password in an address", "the variable that its tool reads"),
)
"""What secrets look like: pattern, what it is, where it belongs."""
_ALONE = (r"(?i:(?<=bearer )[A-Za-z0-9._~+/-]{16,}=*)", r"(?i:(?:wandb|key|token)\W{0,12})\b[0-9a-f]{40}\b")
SHAPES = re.compile("|".join([*(pattern for pattern, _, _ in TOKENS), *_ALONE]))
_PLAIN = frozenset({"type", "state", "phase", "path"})
"""Fields of an event that hold our own words and nothing else."""


def redact(text: str, env: Mapping[str, str] | None = None) -> str:
    """`text` with every secret replaced by `***`; `env` is the process's environment when None."""
    for value in _secrets(os.environ if env is None else env):
        if value in text:
            text = text.replace(value, MASK)
    return SHAPES.sub(MASK, text)


def redact_all(data: Any, env: Mapping[str, str] | None = None) -> Any:
    """`redact` of every text in plain data, but for an event's `type`, `state`, `phase` and `path`; keys stay."""
    if isinstance(data, str):
        return redact(data, env)
    if isinstance(data, dict):
        return {k: v if k in _PLAIN and isinstance(v, str) else redact_all(v, env) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [redact_all(v, env) for v in data]
    return data


class Redacted:
    """A text stream that writes to another one without secrets; everything else is the other's."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._write: Callable[[str], int] = stream.write

    def write(self, text: str) -> int:
        """Writes `text` without secrets; says that all of it was written."""
        self._write(redact(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Writes each line without secrets."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_output() -> None:
    """From here on what this process prints is without secrets: tracebacks, logs, progress. Call it before libraries are imported."""
    sys.stdout, sys.stderr = cast(TextIO, Redacted(sys.stdout)), cast(TextIO, Redacted(sys.stderr))


def _secrets(env: Mapping[str, str]) -> tuple[str, ...]:
    return _sorted(frozenset(v for k, v in env.items() if len(v) >= SHORTEST and SECRET_NAME.search(k)))


@lru_cache(maxsize=8)
def _sorted(values: frozenset[str]) -> tuple[str, ...]:
    """Longest first, so that a secret that holds another one is gone as a whole; a value and what is within its lines."""
    found = {part for v in values for part in (v, v.strip(), *v.splitlines()) if len(part) >= SHORTEST}
    return tuple(sorted(found, key=len, reverse=True))
