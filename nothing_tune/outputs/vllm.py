"""vLLM: the command line and the config file that serve base and adapter, or the merged model, and which GPU is worth it.

Read in vLLM 0.33.0: ranks (config/lora.py, `MaxLoRARanks`), what adapters it refuses (lora/peft_helper.py), families without
float16 (config/model.py), how `--config` becomes options (utils/argparse_utils.py). Lengths and eager mode by GPU: the source
document Nothing-GPT serves on a T4 with `--enforce-eager` and 1,024 tokens, and recommends an A10 without it and with 2,048.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nothing_tune.recipe.library import library_root, names
from nothing_tune.recipe.providers import ANY_GPU, Provider
from nothing_tune.recipe.reader import read_file

VERSION = "0.33.0"
"""Newest version on the package index when the options were read, 2026-11."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that `--max-lora-rank` takes."""
NO_FLOAT16 = frozenset({"gemma2", "gemma3", "gemma3_text", "glm4"})
"""Values of `model_type` for which vLLM refuses float16."""
PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Names in `init_lora_weights` after which a saved adapter is plain LoRA."""
SMALL_GB = 16
"""GPUs of so much memory or less are served as the source serves its T4."""
SMALL_LENGTH, LENGTH = 1024, 2048
CONVERSATION = 4096
"""Length of a conversation in tokens where neither the model nor the training says one."""
PORT = 8000


@dataclass(frozen=True)
class Serving:
    """What is served, as the command and the file both say it.

    Attributes:
        model: Hub id or path of the base, or of the merged model.
        options: Option without dashes -> value; True is a switch, a list has several words.
    """

    model: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Advice:
    """How fast one conversation can be answered on a GPU at most, and what that costs at least.

    Attributes:
        gpu: Name of the GPU's layer.
        memory_gb: 10^9 bytes.
        bandwidth_gbs: 10^9 bytes a second.
        tokens_per_s: Upper bound: bandwidth divided by the bytes of weights that are read for each token.
        usd_per_hour: The lowest price that is known; None for none.
        provider: Who asks it.
        usd_per_million: Lower bound of a million tokens for one conversation at a time; batches share the reading, and cost less.
        fits: Whether the weights leave a tenth of the memory free.
    """

    gpu: str
    memory_gb: float
    bandwidth_gbs: float
    tokens_per_s: float
    usd_per_hour: float | None
    provider: str
    usd_per_million: float | None
    fits: bool


def adapter(
    base: str,
    name: str,
    path: str,
    config: Mapping[str, Any],
    gpu: Mapping[str, Any],
    *,
    model_type: str = "",
    context: int | None = None,
    trained: int | None = None,
    revision: str | None = None,
    template: str | None = None,
    trust: bool = False,
) -> Serving:
    """Base and adapter.

    Args:
        base: Hub id or folder of the base.
        name: What requests call the adapter.
        path: The adapter's folder; its generation_config.json has the stops.
        config: Its adapter_config.json.
        gpu: Facts of the GPU that serves, as a recipe's `gpu` section.
        model_type: As config.json of the base says.
        context: The longest sequence of the base in tokens; None where unknown.
        trained: The longest sequence of the training in tokens; None where unknown.
        revision: Commit of the base on the hub.
        template: Path of the chat template; None for that of the base.
        trust: Whether the base brings code of its own.
    """
    options: dict[str, Any] = {
        "enable-lora": True,
        "lora-modules": [f"{name}={path}"],
        "max-lora-rank": max_rank(config),
    }
    if revision:
        options["revision"] = revision
    options |= _common(gpu, model_type, context, trained)
    options["generation-config"] = path
    if template:
        options["chat-template"] = template
    return Serving(base, options | ({"trust-remote-code": True} if trust else {}))


def merged(
    path: str,
    name: str,
    gpu: Mapping[str, Any],
    *,
    model_type: str = "",
    context: int | None = None,
    trained: int | None = None,
    trust: bool = False,
) -> Serving:
    """The merged model; arguments as for `adapter`."""
    options = {"served-model-name": name, **_common(gpu, model_type, context, trained)}
    return Serving(path, options | ({"trust-remote-code": True} if trust else {}))


def command(serving: Serving) -> str:
    """`vllm serve MODEL --option value ...` for a POSIX shell, an option a line."""
    parts = [f"vllm serve {shlex.quote(serving.model)}"]
    for option, value in serving.options.items():
        words = [] if value is True else [str(v) for v in (value if isinstance(value, list) else [value])]
        parts.append(" ".join([f"--{option}", *map(shlex.quote, words)]))
    return " \\\n  ".join(parts)


def config_file(serving: Serving, comments: Sequence[str] = ()) -> str:
    """The same as a file for `vllm serve --config FILE`."""
    lines = [*(f"# {comment}" for comment in comments), f"model: {json.dumps(serving.model)}"]
    for option, value in serving.options.items():
        if isinstance(value, list):
            lines += [f"{option}:", *(f"  - {json.dumps(one)}" for one in value)]
        else:
            lines.append(f"{option}: {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def max_rank(config: Mapping[str, Any]) -> int:
    """The least of `RANKS` that holds every rank of an adapter; the greatest where none does."""
    rank = max([int(config.get("r") or 1), *(int(r) for r in (config.get("rank_pattern") or {}).values())])
    return next((allowed for allowed in RANKS if allowed >= rank), RANKS[-1])


def refusal(config: Mapping[str, Any]) -> str:
    """Why vLLM cannot serve an adapter beside its base, one clause; empty where it can. The merged model can always be served."""
    kind = str(config.get("peft_type") or "LORA").upper()
    start = config.get("init_lora_weights")
    rank = max([int(config.get("r") or 1), *(int(r) for r in (config.get("rank_pattern") or {}).values())])
    wrong = (
        (kind != "LORA", f"it serves LoRA alone, this is {kind}"),
        (config.get("use_dora"), "it does not know DoRA"),
        (config.get("modules_to_save"), f"it takes no modules_to_save ({', '.join(config.get('modules_to_save') or [])})"),
        (config.get("trainable_token_indices"), "it takes no single tokens that were trained"),
        ((config.get("bias") or "none") != "none" or config.get("lora_bias"), "it takes no biases"),
        (config.get("layer_replication"), "it replicates no layers"),
        (isinstance(start, str) and start.lower() not in PLAIN_STARTS, f"it does not know the start {start}"),
        (rank > RANKS[-1], f"its rank {rank} is above {RANKS[-1]}"),
    )  # fmt: skip
    return next((why for when, why in wrong if when), "")


def _common(gpu: Mapping[str, Any], model_type: str, context: int | None, trained: int | None) -> dict[str, Any]:
    small = float(gpu.get("memory_gb") or 0) <= SMALL_GB
    length = max(SMALL_LENGTH if small else LENGTH, trained or 0)
    out: dict[str, Any] = {
        "max-model-len": min(length, context) if context else length,
        "dtype": dtype(gpu, model_type),
    }
    return out | ({"enforce-eager": True} if small else {}) | {"port": PORT}


def conversation(trained: int | None, context: int | None) -> int:
    """Tokens of a conversation that is served: what was trained, as far as the model reads (None where unknown)."""
    known = trained or CONVERSATION
    return min(known, context) if context else known


def dtype(gpu: Mapping[str, Any], model_type: str = "") -> str:
    """`bfloat16` where the GPU has it, else `half`; `float32` for families that overflow in float16."""
    if gpu.get("bf16"):
        return "bfloat16"
    return "float32" if model_type in NO_FLOAT16 else "half"


def gpu(name: str) -> dict[str, Any]:
    """Facts of a GPU of the library: the `gpu` section of `recipes/gpus/NAME.yaml`."""
    return dict(read_file(library_root() / "gpus" / f"{name}.yaml")[0].get("gpu") or {})


def advice(weight_bytes: int, providers: Iterable[Provider], model_type: str = "") -> list[Advice]:
    """Every CUDA GPU of the library whose bandwidth is known, cheapest million tokens first, then those without a price.

    Args:
        weight_bytes: Bytes of weights that are read for each token: those of the base in 16 bits, and of the adapter; of a
            mixture of experts those of the experts that are used.
        providers: Prices, see `recipe.providers`; your own GPU counts as none.
        model_type: As config.json says: in float32 twice the bytes are read.
    """
    known = [p for p in providers if p.name != "own"]
    out = []
    for name in names("gpus"):
        facts = gpu(name)
        memory, bandwidth = facts.get("memory_gb"), facts.get("memory_bandwidth_gbs")
        if facts.get("kind") != "cuda" or not memory or not bandwidth:
            continue
        size = weight_bytes * (2 if dtype(facts, model_type) == "float32" else 1)
        rate = bandwidth * 1e9 / size
        found = [(price.usd_per_hour, p.name) for p in known for price in p.prices if price.gpu in (name, ANY_GPU)]
        hourly, provider = min(found, default=(None, ""))
        cost = None if hourly is None else hourly / (rate * 3600) * 1e6
        fits = size <= 0.9 * memory * 1e9
        out.append(Advice(name, float(memory), float(bandwidth), rate, hourly, provider, cost, fits))
    return sorted(out, key=lambda a: (not a.fits, a.usd_per_million is None, a.usd_per_million or 0.0, -a.tokens_per_s))


def advice_rows(found: Sequence[Advice]) -> list[tuple[str, ...]]:
    """Cells of a table, its heading first; GPUs that the model does not fit on are left out."""
    rows: list[tuple[str, ...]] = [("GPU", "memory", "bandwidth", "tokens/s at most", "$/hour", "$/1M tokens at least")]
    for one in found:
        if one.fits:
            price = "-" if one.usd_per_hour is None else f"{one.usd_per_hour:.2f} {one.provider}"
            million = "-" if one.usd_per_million is None else f"{one.usd_per_million:.2f}"
            speed = f"{one.tokens_per_s:,.0f}"
            rows.append((one.gpu, f"{one.memory_gb:g} GB", f"{one.bandwidth_gbs:,.0f} GB/s", speed, price, million))
    return rows
