"""Which server a model is served with, and by which command: vLLM, llama.cpp or transformers' own. Nothing is started here."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run, read_json
from nothing_tune.errors import LaunchError, UsageError
from nothing_tune.outputs import manifest, vllm
from nothing_tune.outputs.subjects import Subject

SERVERS = ("transformers", "vllm", "llama.cpp")
AUTO = "auto"
NEEDS = {
    "transformers": ("fastapi", "uvicorn", "openai", "pydantic"),
    "vllm": ("vllm",),
    "llama.cpp": ("llama_cpp", "fastapi", "uvicorn", "sse_starlette", "starlette_context", "pydantic_settings"),
}
"""Modules that each server needs; those of transformers' are what its `is_serve_available` asks for (5.23)."""
INSTALL = {
    "transformers": 'pip install "nothing-tune[serve]"',
    "vllm": "pip install vllm",
    "llama.cpp": 'pip install "nothing-tune[gguf]"',
}
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
"""What `transformers serve` takes for --attn-implementation (5.23)."""
LOFTQ = "a LoftQ adapter fits only the base as LoftQ rounded it, which no server makes"
MERGE = "tune export RUN_ID --merge, then tune serve the merged folder; or --server transformers"
CONTEXT = 8192
"""Most tokens of context that a GGUF file is served with: the cache for a long one would take gigabytes."""


@dataclass(frozen=True)
class Server:
    """A server that can be started.

    Attributes:
        name: `transformers`, `vllm` or `llama.cpp`.
        command: Its command line.
        env: Variables that it needs besides the environment.
        url: Where its API begins: `http://127.0.0.1:8000/v1`.
        health: What is asked to see whether it answers.
        model: What clients call the model.
        folder: Its working directory; None is the current one.
        notes: What is worth saying of how it was chosen.
    """

    name: str
    command: tuple[str, ...]
    url: str
    health: str
    model: str
    env: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None
    notes: tuple[str, ...] = ()


def model_name(subject: Subject, wanted: str | None) -> str:
    """What clients call the model: `wanted`, else the run's id, an exported folder's plan's name, or the folder's or file's name.

    Raises:
        UsageError: It cannot be a name.
    """
    if wanted is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", wanted):
        raise UsageError(f"{wanted!r} cannot be a model's name", hint="use letters, digits, dots, dashes, underscores")
    name = wanted or re.sub(r"[^A-Za-z0-9._-]+", "-", _plan_name(subject) or subject.name).strip("-.")
    return re.sub(r"-{2,}", "-", name)[:96] or "model"


def _plan_name(subject: Subject) -> str:
    """The name of the plan whose run made an exported folder, as its other files have it; empty for what is none, or lies elsewhere."""
    if subject.kind not in ("model", "adapter") or not manifest.read(subject.path):
        return ""
    plan = read_json(subject.path.parents[2] / "plan.json") if len(subject.path.parents) > 2 else None
    return str(plan.get("name") or "") if isinstance(plan, dict) else ""


def choose(subject: Subject, wanted: str, gpu: bool) -> str:
    """The server for `subject`.

    Args:
        wanted: One of `SERVERS`, or `auto`: llama.cpp for a GGUF file; else vLLM where it is installed and there is a GPU, else
            transformers.
        gpu: Whether there is a CUDA GPU.

    Raises:
        UsageError: The server cannot serve this.
        LaunchError: It is not installed.
    """
    if wanted not in (AUTO, *SERVERS):
        raise UsageError(f"there is no server {wanted!r}", hint=f"one of {', '.join((AUTO, *SERVERS))}")
    if subject.kind == "gguf":
        if wanted not in (AUTO, "llama.cpp"):
            raise UsageError(f"{wanted} is not asked to serve GGUF files", hint="--server llama.cpp, or leave it out")
        chosen = "llama.cpp"
    elif wanted == "llama.cpp":
        raise UsageError(
            "llama.cpp serves GGUF files",
            hint=f"tune export {subject.name if subject.kind == 'run' else 'RUN_ID'} --gguf q4_k_m makes one",
        )
    elif wanted == AUTO:
        chosen = "vllm" if gpu and not missing("vllm") else "transformers"
    else:
        chosen = wanted
    if lacking := missing(chosen):
        raise LaunchError(f"{chosen} cannot serve here: {', '.join(lacking)} is not installed", hint=INSTALL[chosen])
    return chosen


def missing(server: str) -> list[str]:
    """Modules that `server` needs and that are not installed; nothing is imported."""
    if server == "llama.cpp" and shutil.which("llama-server"):
        return []
    return [name for name in NEEDS[server] if importlib.util.find_spec(name) is None]


def planned(subject: Subject) -> dict[str, Any]:
    """What `engine.chat.served` would tell of `subject`, as far as transformers' command needs it; nothing is laid out, and no weights
    are looked at. `UsageError` for LoftQ, which no server makes."""
    auto = {"dtype": "auto", "attention": None, "cpu": False, "trust_remote_code": False, "quantization": None}
    if subject.kind != "run":
        return auto
    plan = Run(subject.path).plan()
    model, peft = plan.get("model") or {}, plan.get("peft") or {}
    if str(peft.get("init_lora_weights") or "").lower() == "loftq":
        raise UsageError(LOFTQ, hint=f"tune export {subject.name} --merge, then tune serve the folder that it names")
    init = model.get("init") or {}
    return {
        "dtype": str(init.get("dtype") or "auto"),
        "attention": init.get("attn_implementation"),
        "cpu": bool((plan.get("training") or {}).get("use_cpu")),
        "trust_remote_code": bool(model.get("trust_remote_code")),
        "quantization": plan.get("quantization") if peft else None,
    }


def plan_of(
    server: str, laid: Mapping[str, Any], folder: Path, model: str, host: str, port: int, gpu: Mapping[str, Any]
) -> Server:
    """The command for what `engine.chat.served` laid out in `folder`.

    Args:
        server: `transformers` or `vllm`.
        laid: Its event: `model`, `base`, `adapter`, `quantization`, `dtype`, `attention`, `cpu`, `trust_remote_code`, `context`.
        model: The model's name.
        gpu: Facts of this machine's GPU, as a recipe's `gpu` section; empty without one.

    Raises:
        UsageError: The server cannot load this adapter.
    """
    if server == "vllm":
        return _vllm(laid, folder, model, host, port, gpu)
    return _transformers(laid, folder, model, host, port)


def _transformers(laid: Mapping[str, Any], folder: Path, model: str, host: str, port: int) -> Server:
    command = [
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        model,
        "--host",
        host,
        "--port",
        str(port),
    ]
    command += ["--dtype", str(laid.get("dtype") or "auto")]
    if laid.get("cpu"):
        command += ["--device", "cpu"]
    if laid.get("attention") in ATTENTIONS:
        command += ["--attn-implementation", str(laid["attention"])]
    if laid.get("trust_remote_code"):
        command += ["--trust-remote-code"]
    four, note = _four_bits(laid.get("quantization"))
    command += ["--quantization", four] if four else []
    # the model is a folder below the working directory, called as clients call it; the list of models is that of the cache
    env = {
        "HF_HUB_CACHE": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
    }
    root = f"http://{_reachable(host)}:{port}"
    return Server(
        "transformers", tuple(command), f"{root}/v1", f"{root}/health", model, env, folder, (note,) if note else ()
    )


def _four_bits(quantization: Mapping[str, Any] | None) -> tuple[str, str]:
    """`(--quantization of transformers serve, a note)`: the base as it trained where the server can make it so, else in 16 bits."""
    if not quantization:
        return "", ""
    nf4 = quantization.get("bnb_4bit_quant_type") == "nf4" and quantization.get("bnb_4bit_use_double_quant")
    if quantization.get("load_in_4bit") and nf4:
        return "bnb-4bit", "the base is served in 4 bits, as it trained"
    if quantization.get("load_in_8bit"):
        return "bnb-8bit", "the base is served in 8 bits, as it trained"
    return "", "the base is served unquantised: the server has no quantization like that of the run"


def _vllm(laid: Mapping[str, Any], folder: Path, model: str, host: str, port: int, gpu: Mapping[str, Any]) -> Server:
    """As `outputs.vllm` writes it, for the GPU of this machine."""
    adapter, context = laid.get("adapter"), laid.get("context")
    kind = str((read_json(Path(laid["model"]) / "config.json") or {}).get("model_type") or "")
    trust = bool(laid.get("trust_remote_code"))
    notes: tuple[str, ...] = ()
    if adapter:
        settings = read_json(Path(adapter) / "adapter_config.json") or {}
        if why := vllm.refusal(settings):
            raise UsageError(f"vLLM cannot serve this adapter beside its base: {why}", hint=MERGE)
        own = Path(adapter) / "chat_template.jinja"
        template = str(own) if own.is_file() else None
        serving = vllm.adapter(
            str(laid["base"]), model, str(adapter), settings, gpu, model_type=kind, context=context, template=template, trust=trust
        )  # fmt: skip
        options = {**serving.options, "tokenizer": str(adapter), "served-model-name": f"{model}-base"}
        if laid.get("quantization"):
            notes = ("the base is served in 16 bits; it trained quantised, so that answers differ a little",)
    else:
        serving = vllm.merged(str(laid["model"]), model, gpu, model_type=kind, context=context, trust=trust)
        options = {**serving.options, "generation-config": str(laid["model"])}
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", serving.model]
    for option, value in {**options, "host": host, "port": port}.items():
        words = [] if value is True else [str(v) for v in (value if isinstance(value, list) else [value])]
        command += [f"--{option}", *words]
    root = f"http://{_reachable(host)}:{port}"
    env = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    return Server("vllm", tuple(command), f"{root}/v1", f"{root}/health", model, env, folder, notes)


def llama_cpp(path: Path, model: str, host: str, port: int, gpu: bool) -> Server:
    """llama.cpp's server for a GGUF file: `llama-server` where it is installed, else the one of llama-cpp-python.

    The file's own chat template is used, never one that is guessed from it. That of llama-cpp-python is started by a module of ours,
    so that a request that names no `repeat_penalty` is served without one.
    """
    from nothing_tune.outputs import gguf_file

    facts = gguf_file.check(path).facts
    kind = str(facts.get("general.type") or "model")
    if kind != "model":
        raise UsageError(f"{path.name} is no model but of type {kind}", hint="name the GGUF file of a whole model")
    limit = int(facts.get(f"{facts.get('general.architecture')}.context_length") or CONTEXT)
    size = min(limit, CONTEXT)
    notes = (f"context of {size:,} of {limit:,} tokens",) if size < limit else ()
    root = f"http://{_reachable(host)}:{port}"
    own = shutil.which("llama-server")
    if own:
        words = [
            own,
            "--model",
            str(path),
            "--alias",
            model,
            "--host",
            host,
            "--port",
            str(port),
            "--ctx-size",
            str(size),
        ]
        words += ["--jinja", *(["--n-gpu-layers", "999"] if gpu else [])]
        return Server("llama.cpp", tuple(words), f"{root}/v1", f"{root}/health", model, notes=notes)
    words = [
        sys.executable,
        "-m",
        "nothing_tune.engine.llama_server",
        "--model",
        str(path),
        "--model_alias",
        model,
        "--host",
        host,
    ]
    words += ["--port", str(port), "--n_ctx", str(size), "--n_gpu_layers", "-1" if gpu else "0"]
    words += ["--interrupt_requests", "false"]
    if facts.get("tokenizer.chat_template"):
        words += ["--chat_format", "chat_template.default"]
    return Server("llama.cpp", tuple(words), f"{root}/v1", f"{root}/v1/models", model, notes=notes)


def _reachable(host: str) -> str:
    """The host under which this machine reaches a server that listens on `host`."""
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
