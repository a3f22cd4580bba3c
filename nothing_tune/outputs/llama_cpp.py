"""llama.cpp: command lines of its server, and of the one that llama-cpp-python brings.

Options as in llama.cpp (tools/server/README.md) and llama-cpp-python 0.3.36 (llama_cpp/server/settings.py), read 2026-11.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

PORT = 8080
BEST_FIRST = (
    "q8_0",
    "q6_k",
    "q5_k_m",
    "q5_k_s",
    "q5_1",
    "q5_0",
    "q4_k_m",
    "q4_k_s",
    "q4_1",
    "q4_0",
    "iq4_nl",
    "iq4_xs",
)
"""GGUF types in the order in which one is taken to be served: the closest to the model among the quantised ones."""

PENALTY = "this server takes repeat_penalty as 1.1, at temperature 0 too, unless a request says 1.0"
"""What answers of `python_server` differ by from those of the others (llama_cpp/server/types.py; it has no setting for it)."""


def server(gguf: str, context: int, alias: str, lora: str = "") -> str:
    """`llama-server`: the chat template of the file, the adapter beside it where `lora` names one.

    Args:
        gguf: The model's file.
        context: Tokens of a conversation, prompt and answer together.
        alias: What requests call the model.
        lora: An adapter's GGUF; empty for none.
    """
    parts = ["llama-server", "-m", gguf, *(["--lora", lora] if lora else []), "-c", str(context), "--jinja"]
    return _line([*parts, "--alias", alias, "--port", str(PORT)])


def python_server(gguf: str, context: int, alias: str, lora: str = "") -> str:
    """`python -m llama_cpp.server`, of `pip install 'llama-cpp-python[server]'`; arguments as `server`.

    The format is named because the server guesses one from the file's template otherwise, and falls back to that of Llama 2.
    A request that names no `repeat_penalty` is served with 1.1, see `PENALTY`.
    """
    parts = ["python", "-m", "llama_cpp.server", "--model", gguf, *(["--lora_path", lora] if lora else [])]
    parts += ["--chat_format", "chat_template.default", "--n_ctx", str(context)]
    return _line([*parts, "--model_alias", alias, "--port", str(PORT)])


def _line(parts: Sequence[str]) -> str:
    return " ".join(map(shlex.quote, parts))
