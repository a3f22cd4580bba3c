"""A LoRA adapter alone as a GGUF file, for llama.cpp beside its base."""

from __future__ import annotations

import json
import math
import runpy
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nothing_tune.engine.export.gguf import process, sources
from nothing_tune.engine.job import Send
from nothing_tune.errors import UsageError

MERGE = "export the merged model as GGUF: tune export RUN --gguf q8_0"
_PARTS = (".lora_A.weight", ".lora_B.weight")


def convert_adapter(adapter: Path, base: Path, out: Path, send: Send) -> None:
    """Writes the adapter in `adapter` to `out` as f16.

    llama.cpp scales every matrix by alpha / rank of that matrix; what PEFT scales otherwise (rsLoRA, patterns of ranks and alphas) is
    written into the matrices.

    Args:
        adapter: Folder with adapter_config.json and adapter_model.safetensors.
        base: Folder with the config.json of the model that it belongs to.
        out: The file; it is there only when it is whole.
        send: Told of progress.

    Raises:
        UsageError: GGUF has no form for it: DoRA, whole modules, embeddings, biases, or no LoRA at all.
        RunError, StorageError: As `convert`.
    """
    config = read(adapter)
    tree = sources.tree()
    send(type="progress", stage="adapter", done=0, total=1, unit="tensors")
    with process.whole(out) as path:
        request = {
            "adapter": str(adapter.absolute()),
            "base": str(base.absolute()),
            "out": str(path.absolute()),
            "config": config,
        }
        process.run(
            "adapter", {**request, "tree": str(tree)}, on=lambda event: send(**event), source=tree, where=out.parent
        )
    send(type="progress", stage="adapter", done=1, total=1, unit="tensors")


def read(adapter: Path) -> dict[str, Any]:
    """adapter_config.json, of an adapter that GGUF has a form for.

    Raises:
        UsageError: It has none; the text says which part.
    """
    try:
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{adapter} holds no adapter", hint="name a folder with adapter_config.json") from error
    reason = refusal(config)
    if reason:
        raise UsageError(f"GGUF has no form for an adapter with {reason}", hint=MERGE)
    return dict(config)


def refusal(config: Mapping[str, Any]) -> str:
    """What in an adapter's config has no form in GGUF; empty where all of it has."""
    kind = str(config.get("peft_type") or "")
    if kind != "LORA":
        return f"the method {kind or 'of no name'}"
    if config.get("use_dora"):
        return "DoRA"
    if config.get("modules_to_save"):
        return f"whole modules ({', '.join(sorted(config['modules_to_save']))})"
    if config.get("trainable_token_indices"):
        return "trained tokens (trainable_token_indices)"
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        return "biases"
    if config.get("target_parameters"):
        return "parameters (target_parameters)"
    if config.get("alora_invocation_tokens"):
        return "aLoRA"
    return ""


def scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    """The factor that PEFT multiplies B·A of `module` with: alpha / rank, or alpha / √rank for rsLoRA."""
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    key = get_pattern_key(list(patterns), module)
    alpha = float(patterns.get(key, config["lora_alpha"]))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def work(request: dict[str, Any], send: Callable[..., None]) -> dict[str, Any]:
    """The child: puts PEFT's factors into the matrices, then runs llama.cpp's script for adapters."""
    from safetensors.torch import load_file, save_file

    config, adapter = request["config"], Path(request["adapter"])
    weights = load_file(adapter / "adapter_model.safetensors")
    strange = sorted(name for name in weights if not name.endswith(_PARTS))
    if strange:
        part = (
            "LoRA on embeddings"
            if any("lora_embedding" in n for n in strange)
            else strange[0].removeprefix("base_model.model.")
        )
        raise UsageError(f"GGUF has no form for an adapter with {part}", hint=MERGE)
    alpha = float(config["lora_alpha"]) or 1.0
    for name in [n for n in weights if n.endswith(_PARTS[1])]:
        rank = weights[name].shape[1]
        module = name.removesuffix(_PARTS[1]).removeprefix("base_model.model.")
        factor = scaling(config, module, rank) * rank / alpha
        if not math.isclose(factor, 1.0, rel_tol=1e-9):
            weights[name] = (weights[name].float() * factor).to(weights[name].dtype)
    with tempfile.TemporaryDirectory(prefix="adapter-") as folder:
        save_file(weights, Path(folder) / "adapter_model.safetensors")
        plain = {**config, "lora_alpha": alpha, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
        (Path(folder) / "adapter_config.json").write_text(json.dumps(plain), encoding="utf-8")
        sys.argv = [
            "convert_lora_to_gguf.py", "--outtype", "f16", "--outfile", request["out"], "--base", request["base"], folder,
        ]  # fmt: skip
        try:
            runpy.run_path(str(Path(request["tree"]) / "convert_lora_to_gguf.py"), run_name="__main__")
        except SystemExit as error:
            if error.code:
                raise UsageError("llama.cpp's converter has no form for this adapter", hint=MERGE) from None
    return {}
