"""The job behind `tune chat`: answers messages over JSON lines, with the base and adapter of a run loaded as they trained.

    in:  {"messages": [{"role": "user", "content": "..."}], "max_new_tokens": 256, "temperature": 0.7, "top_p": 0.95, "seed": 1}
    out: {"type": "ready", ...}, then for each message {"type": "token", "text": ...} ... {"type": "done", "text": ..., "tokens": n}
    or   {"type": "error", "what": ..., "hint": ..., "exit_code": ...}

Temperature 0 is greedy. The job ends at the end of its input, or with an error while it loads.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from nothing_tune.artifacts import Run
from nothing_tune.engine import pickles
from nothing_tune.engine.job import claimed_stdout
from nothing_tune.engine.worker import ENVIRONMENT, with_environment
from nothing_tune.errors import UsageError
from nothing_tune.plan.model import Plan

MAX_NEW_TOKENS = 256
TEMPERATURE = 0.7


def main(path: Path, base: bool = False, lines: TextIO | None = None, out: TextIO | None = None) -> int:
    """Answers the lines of `lines` (stdin) on `out` (stdout) until they end; `base` leaves the adapter off. Returns the exit code."""
    lines = lines or sys.stdin
    out = out or claimed_stdout()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)

    def send(**fields: Any) -> None:
        print(json.dumps(fields, ensure_ascii=False), file=out, flush=True)

    try:
        model, tokenizer = load(Run(path.absolute()), base)
    except Exception as error:  # whatever it is, the other end of the pipe must be told
        from nothing_tune.engine.failures import explain

        known = explain(error)
        send(type="error", what=known.problems[0].what, hint=known.problems[0].hint, exit_code=known.exit_code)
        return known.exit_code
    send(type="ready", base=base, device=str(model.device))
    for line in lines:
        if not line.strip():
            continue
        try:
            request = json.loads(line)
            parts = []
            count = 0
            for text, total in reply(model, tokenizer, request):
                count = total
                if text:
                    parts.append(text)
                    send(type="token", text=text)
            send(type="done", text="".join(parts), tokens=count)
        except Exception as error:  # one bad message does not end the conversation
            send(
                type="error",
                what=f"{type(error).__name__}: {error}",
                hint="",
                exit_code=2 if isinstance(error, ValueError | KeyError) else 5,
            )
    return 0


def load(run: Run, base: bool) -> tuple[Any, Any]:
    """The model of `run`, with its adapter unless `base`, ready to generate, and its tokenizer."""
    plan = Plan.from_json(with_environment(run.plan()))
    if not base and not (run.adapter / "tokenizer_config.json").is_file():
        raise UsageError(
            f"run {run.id} has nothing to talk to yet: it is {run.state()}", hint=f"tune resume {run.id} finishes it"
        )
    if not base:
        pickles.refuse(run.adapter)
    import torch

    if plan.training.get("use_cpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import transformers
    from transformers import AutoTokenizer

    from nothing_tune.engine import build

    transformers.logging.set_verbosity_error()
    if not base and not plan.peft:
        plan = Plan.from_json(
            {**plan.to_json(), "model": {**plan.model, "name_or_path": str(run.adapter), "revision": None}}
        )
    model = build.model(plan)
    tokenizer = build.tokenizer(plan) if base or not plan.peft else AutoTokenizer.from_pretrained(run.adapter)
    if not base and plan.peft:
        from peft import PeftModel

        build.grow(model, tokenizer)
        model = PeftModel.from_pretrained(model, str(run.adapter))
    if torch.cuda.is_available() and not plan.quantization:
        model = model.to("cuda")
    model.eval()
    model.config.use_cache = True
    return model, tokenizer


def reply(model: Any, tokenizer: Any, request: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """The answer to `request` as it is generated: pieces of text, each with the number of tokens so far.

    Raises:
        ValueError: The request has no messages, or the settings cannot be used.
    """
    import torch
    from transformers import TextIteratorStreamer

    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("a request needs a list of messages")
    if tokenizer.chat_template:
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    else:
        inputs = tokenizer(messages[-1]["content"], return_tensors="pt", return_token_type_ids=False)
    inputs = {k: v.to(model.device) for k, v in inputs.items()}
    temperature = float(request.get("temperature", TEMPERATURE))
    settings: dict[str, Any] = {
        "max_new_tokens": int(request.get("max_new_tokens") or MAX_NEW_TOKENS),
        "do_sample": temperature > 0,
        "eos_token_id": _stops(model, tokenizer),
        "pad_token_id": tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    }
    if temperature > 0:
        settings |= {"temperature": temperature, "top_p": float(request.get("top_p", 1.0))}
    if request.get("seed") is not None:
        torch.manual_seed(int(request["seed"]))
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    done: dict[str, Any] = {"count": 0}

    def generate() -> None:
        try:
            with torch.inference_mode():
                ids = model.generate(**inputs, **settings, streamer=streamer)
            done["count"] = int(ids.shape[-1] - inputs["input_ids"].shape[-1])
        except Exception as error:  # raised again where the caller is
            done["error"] = error
            streamer.end()

    thread = threading.Thread(target=generate, name="generate", daemon=True)
    thread.start()
    for text in streamer:
        yield text, 0
    thread.join()
    if "error" in done:
        raise done["error"]
    yield "", done["count"]


def _stops(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the model's own, and the end of the turn that the tokenizer knows."""
    known = model.generation_config.eos_token_id if model.generation_config else None
    ids = [known] if isinstance(known, int) else list(known or [])
    return list(dict.fromkeys([*ids, *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])]))
