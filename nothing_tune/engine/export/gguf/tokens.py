"""A child: has llama.cpp tokenise texts with the vocabulary of a GGUF file, one way of splitting after another.

in:  {"file": path, "texts": [...], "pres": ["qwen2", ...]}       "" leaves the file's own
out: {"type": "ids", "pre", "bare": [[...]], "whole": [[...]]}    null for both where llama.cpp cannot load it that way
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

_ERROR = 4
PRE = b"tokenizer.ggml.pre"


def work(request: dict[str, Any], send: Callable[..., None]) -> dict[str, Any]:
    """Sends the ids of all texts, without and with what the model puts around a text, for each way."""
    import llama_cpp

    @llama_cpp.llama_log_callback
    def log(level: int, text: bytes, _: Any) -> None:
        if level >= _ERROR:
            sys.stderr.write(text.decode("utf-8", "replace"))

    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    texts = [text.encode() for text in request["texts"]]
    for pre in request["pres"]:
        model = _load(llama_cpp, request["file"], pre)
        if not model:
            send(type="ids", pre=pre, bare=None, whole=None)
            continue
        vocab = llama_cpp.llama_model_get_vocab(model)
        bare, whole = ([_ids(llama_cpp, vocab, text, special) for text in texts] for special in (False, True))
        send(type="ids", pre=pre, bare=bare, whole=whole)
        llama_cpp.llama_model_free(model)
    return {}


def _load(llama_cpp: Any, file: str, pre: str) -> Any:
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    if pre:
        overrides = (llama_cpp.llama_model_kv_override * 2)()
        overrides[0].key = PRE
        overrides[0].tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR
        overrides[0].value.val_str = pre.encode()
        overrides[1].key = b""
        params.kv_overrides = overrides
    return llama_cpp.llama_model_load_from_file(file.encode(), params)


def _ids(llama_cpp: Any, vocab: Any, text: bytes, special: bool) -> list[int]:
    room = len(text) + 16
    while True:
        found = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(vocab, text, len(text), found, room, special, True)
        if count >= 0:
            return list(found[:count])
        room = -count
