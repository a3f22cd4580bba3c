"""What stands behind the words of libraries: the key to change and the cure, for rehearsal and simulation. Light and pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from nothing_tune.errors import Problem

CAUSES: tuple[tuple[str, str, str], ...] = (
    (
        r"does not support an attention implementation|does not support Flash Attention",
        "model.attn_implementation",
        "set model.attn_implementation=eager",
    ),
    (
        r"ParamWrapper does not work with lora_dropout",
        "peft.lora_dropout",
        "set peft.lora_dropout=0: the experts' weights are one parameter, which PEFT adapts without dropout",
    ),
    (
        r"Target modules .* not found",
        "peft.target_modules",
        "all-linear takes every linear layer; or name layers that the model has",
    ),
    (
        r"pad_token.*(not found|not in)|[Pp]adding token",
        "training.pad_token",
        "leave training.pad_token out, or name a token that the tokenizer knows",
    ),
    (
        r"eos_token.*(not found|not in)",
        "training.eos_token",
        "leave training.eos_token out, or name a token that the tokenizer knows",
    ),
    (
        r"index out of range in self|IndexError|indices.*out of bounds",
        "model.name_or_path",
        "a token or a position has a number beyond the model's embeddings: take the model's tokenizer, or a smaller training.max_length",
    ),
    (
        r"[Oo]ptimi[sz]er|optim_target_modules|OptimizerNames|galore|apollo|lomo|schedule.?free",
        "training.optim",
        "adamw_torch_fused is always there; others need their package, or arguments in training.optim_args",
    ),
    (
        r"lr_scheduler|[Ss]cheduler",
        "training.lr_scheduler_type",
        "cosine and linear need no arguments; others take theirs from training.lr_scheduler_kwargs",
    ),
    (r"neftune", "training.neftune_noise_alpha", "leave it out, or set 5"),
    (
        r"attn_implementation|scaled_dot_product_attention|flash",
        "model.attn_implementation",
        "sdpa is there on every device",
    ),
    (
        r"gradient_?checkpointing|gradient checkpointing|activation_checkpointing",
        "training.activation_checkpointing",
        "set it to false",
    ),
    (
        r"[Bb]itsandbytes|bnb_|Linear4bit|load_in_\dbit",
        "quantization",
        "set quantization to null, or mend its options",
    ),
    (r"packing|padding_free|padding-free", "training.packing", "set training.packing=false"),
    (
        r"trust_remote_code",
        "model.trust_remote_code",
        "set it to true if you trust the code that the model brings",
    ),
    (
        r"chat.?template|jinja|Template",
        "data.chat_template",
        "set data.chat_template to chatml or to a file of your own",
    ),
    (
        r"ia3|IA3|feedforward_modules|LoRA|Lora|lora|adapter|PEFT|peft",
        "peft",
        "leave out what was changed last in peft",
    ),
)
"""`(pattern of the words, key, cure)`; the first that is found counts."""
INSPECT = "tune data inspect RECIPE"
"""Stands in hints for the command that shows the rows; who knows what was typed puts that in its place."""
STAGES = {
    "libraries": ("model.name_or_path", "name a model that the installed transformers knows"),
    "data": ("data", f"{INSPECT} shows the rows as the model sees them"),
    "model": ("model.name_or_path", "name a model that the installed transformers knows"),
    "adapter": ("peft", "leave out what was changed last in peft"),
    "start": ("training", "leave out what was changed last in training"),
    "training": ("training", "leave out what was changed last in training"),
    "evaluation": ("training.eval_strategy", "leave out what was changed last about evaluation"),
    "checkpoint": ("checkpoint", "leave out what was changed last in checkpoint"),
    "hand-over": ("peft", "leave out what was changed last in peft"),
    "resume": ("training.save_steps", "please report it with the recipe"),
    "reload": ("peft", "leave out what was changed last in peft"),
    "merge": ("peft", "leave out what was changed last in peft"),
}
"""Where to look where nothing is known but the stage."""
RESUMES = re.compile(r"[;,]?\s*(the checkpoints committed so far are whole, and )?tune resume [^;]*")


def cured(problem: Problem, stage: str) -> Problem:
    """`problem` with the key and the cure that its words ask for, else those of the stage; a key of its own stays."""
    for pattern, key, cure in CAUSES:
        if re.search(pattern, problem.what):
            return replace(problem, key=problem.key or key, hint=cure)
    key, cure = STAGES.get(stage, ("", ""))
    return replace(problem, key=problem.key or key, hint=cure)


def told_once(problems: Sequence[Problem], stage: str) -> list[Problem]:
    """As `named` for each of several problems, but what is said of the stage alone is said once, at the end."""
    own = [named(p, stage) if p.hint else p for p in problems]
    last = named(problems[-1], stage)
    if len(problems) == 1 or all(p.hint for p in own[:-1]):
        return [*own[:-1], last]
    cure = STAGES.get(stage, ("", ""))[1]
    return [*own[:-1], last if cure in last.hint else replace(last, hint=f"{last.hint}; {cure}" if cure else last.hint)]


def named(problem: Problem, stage: str) -> Problem:
    """`problem` with a key and a cure: its own where it has them, else those of the words, else those of the stage."""
    hint = RESUMES.sub("", problem.hint).strip("; ")
    log = "engine.log" in hint
    if problem.key and hint and not log:
        return replace(problem, hint=hint)
    if log:
        return cured(problem, stage)
    key, cure = STAGES.get(stage, ("", ""))
    return replace(problem, key=problem.key or key, hint=hint or cure)
