"""Smaller GGUF files from one of 16 bits, by llama.cpp's own quantisation in a process of its own."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nothing_tune.engine.export.gguf import process, sources
from nothing_tune.engine.job import Send
from nothing_tune.errors import RunError, StorageError, UsageError
from nothing_tune.outputs import gguf_file, quantizations

_LINE = re.compile(r"\[\s*(\d+)\s*/\s*(\d+)\]")


def quantize(src: Path, dst: Path, name: str, send: Send) -> None:
    """Writes `src` as type `name` to `dst`, which is there only when it is whole.

    Args:
        src: A GGUF file of `f32`, `f16` or `bf16`.
        dst: The file to make.
        name: One of `quantizations.TYPES`.
        send: Told of progress, by tensors.

    Raises:
        UsageError: There is no such type, llama-cpp-python is not installed, or `src` is quantised already.
        RunError: llama.cpp refused; its words are in the text.
        StorageError: The disk is full.
    """
    kind = quantizations.find(name)
    sources.installed()
    head = gguf_file.check(src)
    already = sorted({t.type for t in head.tensors} - set(quantizations.UNQUANTISED))
    if already:
        raise UsageError(
            f"{src.name} is quantised already ({already[0]}): quantising it again would lose more than the type says",
            hint="name a file of f16, bf16 or f32",
        )

    def told(event: dict[str, Any]) -> None:
        send(**event)

    with process.whole(dst) as path:
        request = {"src": str(src.absolute()), "dst": str(path.absolute()), "number": kind.number, "threads": threads()}
        process.run("quantize", request, on=told, where=dst.parent)


def threads() -> int:
    """Threads to quantise with: the cores that this process may use, no more than OMP_NUM_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(limit))) if limit.isdigit() and int(limit) else cores


def work(request: dict[str, Any], send: Callable[..., None]) -> dict[str, Any]:
    """The child: quantises, llama.cpp's lines to the log and counted as progress."""
    import llama_cpp

    said: list[str] = []

    @llama_cpp.llama_log_callback
    def log(_: int, text: bytes, __: Any) -> None:
        words = text.decode("utf-8", "replace")
        sys.stderr.write(words)
        said[:] = [*said[-9:], words]
        found = _LINE.match(words)
        if found:
            send(type="progress", stage="quantize", done=int(found[1]), total=int(found[2]), unit="tensors")

    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = request["number"], request["threads"]
    code = llama_cpp.llama_model_quantize(request["src"].encode(), request["dst"].encode(), ctypes.byref(params))
    sys.stderr.flush()
    if code:
        reason = next(
            (words.split("failed to quantize:")[1].strip() for words in said if "failed to quantize:" in words), ""
        )
        if "iostream" in reason:
            raise StorageError("the disk refused to write: it is full", hint=process.SPACE)
        raise RunError(
            f"llama.cpp did not quantise the model: {reason or 'it gave no reason'}", hint="the job's log has more"
        )
    return {}
