"""Rules between fields of `export`; see `rules.py`."""

from __future__ import annotations

from collections.abc import Iterator

from nothing_tune.errors import Problem
from nothing_tune.recipe.view import View

NOT_MERGED = (
    "ADAPTION_PROMPT", "CARTRIDGE", "CPT", "LILY", "MULTITASK_PROMPT_TUNING", "POLY", "PREFIX_TUNING", "PROMPT_TUNING",
    "P_TUNING", "SHADOW", "XLORA",
)  # fmt: skip
"""PEFT types whose weights are no change of the base's own: peft 0.21.2 has no `merge` for them."""


def merging_is_possible(view: View) -> Iterator[Problem]:
    """Prompts that are learned, and adapters whose effect depends on the input, are no change of the base's weights."""
    kind = view.get("peft.peft_type")
    if kind not in NOT_MERGED:
        return
    for key in ("export.merge", "export.gguf"):
        if view.get(key):
            cure = "write export.adapter: true instead, or choose a method that merges, such as LORA"
            yield view.problem(key, f"{key}: {kind} cannot be merged into its base", cure)


def an_adapter_file_is_plain_lora(view: View) -> Iterator[Problem]:
    """llama.cpp adds `A B` times a scale to a weight, and its converter reads nothing else ("Unexpected name: Not a lora_A or
    lora_B tensor", convert_lora_to_gguf.py)."""
    key = "export.gguf_adapter"
    if not view.get(key):
        return
    why = ""
    if view.null("peft"):
        why = "peft is null, and there is no adapter"
    elif view.get("peft.peft_type") not in (None, "LORA"):
        why = f"the adapter is {view.get('peft.peft_type')}, and the file holds plain LoRA"
    elif view.get("peft.use_dora"):
        why = "the adapter is DoRA, and the file holds plain LoRA"
    elif view.get("peft.modules_to_save"):
        why = "peft.modules_to_save trains whole modules, and the file holds plain LoRA"
    elif view.get("peft.trainable_token_indices"):
        why = "peft.trainable_token_indices trains embeddings, and the file holds plain LoRA"
    elif view.get("peft.bias") not in (None, "none") or view.get("peft.lora_bias"):
        why = "the adapter trains biases, and the file holds plain LoRA"
    if why:
        yield view.problem(key, f"{key} is true: {why}", "write gguf: q4_k_m, which is made of the merged model")


def ollama_needs_a_file(view: View) -> Iterator[Problem]:
    """A Modelfile begins with the GGUF that it is about."""
    if view.get("export.ollama") and not view.get("export.gguf"):
        yield view.problem(
            "export.ollama",
            "export.ollama is true, and export.gguf names no type",
            "write gguf: q4_k_m, or another type",
        )


def the_best_is_known(view: View) -> Iterator[Problem]:
    """Which checkpoint is best is measured on rows that are held out."""
    silent = not view.evaluates or view.get("training.eval_strategy") == "no"
    if view.get("export.checkpoint") == "best" and silent:
        yield view.problem(
            "export.checkpoint",
            "export.checkpoint is best, and nothing is evaluated",
            "write last, or give data.eval a share",
        )


def uploads_are_your_own(view: View) -> Iterator[Problem]:
    """A layer that someone else wrote must not send a model anywhere, nor show it to everybody."""
    if not view.get("export.push"):
        return
    for key, does, cure in (
        ("export.push", "uploads the model", "export.push=ORG/NAME"),
        ("export.private", "lets everybody see the model", "export.private=false"),
    ):
        origin = view.origins.get(key)
        on = view.get("export.push") if key == "export.push" else view.get(key) is False
        if on and not (origin and origin.own):
            yield view.problem(
                key,
                f"{key} {does}, and a layer that the recipe includes sets it",
                f"write it in the recipe itself, or add {cure} to the command line",
            )


def settings_are_used(view: View) -> Iterator[Problem]:
    """What nothing reads would be believed to hold."""
    for key, idle, what, cure in (
        ("export.system", not view.get("export.ollama"), "only Ollama's Modelfile brings it", "write ollama: true"),
        (
            "export.adapter",
            view.null("peft"),
            "peft is null, and there is no adapter",
            "write merge: true, the whole model",
        ),
    ):
        origin = view.origins.get(key)
        if idle and view.get(key) and origin and origin.own:
            yield view.problem(key, f"{key} does nothing: {what}", f"{cure}, or remove the line", "advice")


RULES = (
    merging_is_possible,
    an_adapter_file_is_plain_lora,
    ollama_needs_a_file,
    the_best_is_known,
    uploads_are_your_own,
    settings_are_used,
)
"""Rules of this file, in the order in which problems are shown."""
