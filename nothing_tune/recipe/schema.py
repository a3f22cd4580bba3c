"""The keys of a recipe that are our own: one table of types, values, ranges and meaning; and the JSON schema of recipes.

The keys of `training`, `peft` and `quantization` are upstream's: see `upstream.py`; what we say about them is in `names.py`
(managed, refused, renamed) and `ranges.py`.
"""

from __future__ import annotations

from typing import Any

from nothing_tune.recipe import duration
from nothing_tune.recipe.advice import ADVICE
from nothing_tune.recipe.field import BOOL, COUNT, MAYBE, NAMES, NUMBER, STR, TEXT, Field
from nothing_tune.recipe.names import PEFT_RULES, TRAINING_RULES
from nothing_tune.recipe.schema_rows import DATA, GENERATE, SOURCE

__all__ = [
    "GGUF_TYPES",
    "HANDED_OVER",
    "NULLABLE",
    "PEFT_RULES",
    "SECTIONS",
    "SOURCE",
    "SOURCES",
    "TOP",
    "TRAINING_RULES",
    "UPSTREAM",
    "Field",
    "field_of",
    "json_schema",
]

GGUF_TYPES = (
    "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "iq4_nl", "iq4_xs",
    "q4_1", "q4_0", "q3_k_l", "q3_k_m", "q3_k_s", "iq3_m", "iq3_s", "q2_k",
)  # fmt: skip
"""What `export.gguf` takes, most bits first: the types of `outputs.quantizations`."""
HANDED_OVER = "handed-over"
"""The weights that the run hands over, as `export.checkpoint` calls them."""

TOP: dict[str, Field] = {
    "name": Field(STR, "Name of the recipe; runs, folders and the tracker's run are named after it."),
    "description": Field(TEXT, "One line that `tune list` shows."),
    "layers": Field(NAMES, "Files or library names (`methods/qlora`) that this file builds on; later ones win."),
    "replace": Field(NAMES, "Sections that this file starts anew instead of merging into."),
    "gpus": Field(("dict", "null"), "What this recipe changes on a GPU: its name, then any of the sections."),
    "scenarios": Field(("dict", "null"), "What this recipe changes in a scenario: its name, then any of the sections."),
}
"""Keys at the top of a recipe that are no sections."""

SECTIONS: dict[str, dict[str, Field]] = {
    "model": {
        "name_or_path": Field(TEXT, "Base model: a hub id or a folder."),
        "revision": Field(TEXT, "Hub branch, tag or commit; null is the newest of the main branch."),
        "trust_remote_code": Field(BOOL, "true runs Python code that the model's repository ships.", False),
        "dtype": Field(
            STR,
            "Type of the weights that are not quantised; auto follows the GPU.",
            "auto",
            ("auto", "float32", "bfloat16", "float16"),
        ),
        "attn_implementation": Field(
            STR,
            "Attention code; auto is the GPU layer's, else sdpa. A hub kernel is `owner/name`.",
            "auto",
            ("auto", "eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4"),
        ),
        "use_kernels": Field(BOOL, "true swaps in layers from the Hub; needs the `kernels` package.", False),
        "parameters_b": Field(NUMBER, "Fact: size in 10^9 parameters.", low=0, above=True),
        "license": Field(TEXT, "Fact: the model's licence."),
        "gated": Field(MAYBE, "Fact: whether the Hub asks to accept conditions first."),
        "facts": Field(("dict", "null"), "Facts of its architecture (`hidden_size`, ...), with source and date."),
    },
    "data": DATA,
    "generate": GENERATE,
    "tracking": {
        "tracker": Field(STR, "Where metrics go.", "none", ("none", "tensorboard", "wandb")),
        "project": Field(TEXT, "Project at the tracker.", "nothing-tune"),
        "group": Field(TEXT, "Runs of one experiment, shown together."),
        "tags": Field(("list[str]", "null"), "Words to find the run by."),
        "mode": Field(STR, "offline keeps everything on disk.", "online", ("online", "offline")),
        "entity": Field(TEXT, "Account or team at the tracker; null is the key's own."),
        "notes": Field(TEXT, "Free text kept with the run."),
    },
    "monitor": {
        "early_stopping_patience": Field(
            COUNT, "Evaluations without improvement before the run ends; null never ends it early.", low=1
        ),
        "early_stopping_threshold": Field(NUMBER, "A smaller gain in the metric is no improvement.", 0.0, low=0),
        "non_finite_steps": Field(
            ("int",), "Steps in a row with a loss or gradient that is not finite, after which the run ends.", 3, low=1
        ),
        "loss_spike": Field(
            NUMBER,
            "Warns when a logged loss is this many times the median of the last 50; null never warns.",
            3.0,
            low=1,
            above=True,
        ),
        "rehearse": Field(
            ("str", "bool"),
            "Whether the longest batch runs once forward and backward before the first step; auto does so on a GPU.",
            "auto",
            ("auto",),
        ),
        "hang_minutes": Field(
            NUMBER,
            "Minutes without a step after which the run counts as hung; null waits forever.",
            30,
            low=0,
            above=True,
        ),
    },
    "checkpoint": {
        "keep": Field(COUNT, "Newest checkpoints kept; the best one is kept besides.", 2, low=1),
        "max_loss_minutes": Field(
            NUMBER,
            "Minutes of training that a crash may cost: saves at least that often besides save_steps; null saves by steps "
            "alone.",
            10,
            low=0,
            above=True,
        ),
        "max_overhead": Field(
            ("float",),
            "Share of training time that saving by time may take; it saves less often where a save costs more.",
            0.01,
            low=0,
            above=True,
            high=1,
        ),
        "deadline": Field(
            TEXT,
            "Time after which the engine must have stopped, from its start: 23h50m, 90m, 45s; it saves and exits 75 before. "
            "null is none.",
            pattern=duration.PATTERN,
            example="23h50m, 90m or 45s",
        ),
        "on_commit": Field(
            TEXT,
            "Command that runs after each saved checkpoint, for storage that must be told; words as in a shell, but no shell "
            "runs it. null is none.",
        ),
    },
    "launch": {
        "processes": Field(
            ("int",), "Processes that train together, one on each GPU; the global batch stays as written.", 1, low=1
        ),
        "usd_per_hour": Field(
            NUMBER,
            "What an hour of one GPU costs you, in US dollars, for the plan's costs; null is nothing: your own GPU.",
            low=0,
        ),
    },
    "export": {
        "adapter": Field(BOOL, "true writes the adapter, with tokenizer and card.", False),
        "merge": Field(BOOL, "true merges the adapter into the 16-bit base: one model that needs no PEFT.", False),
        "gguf": Field(
            ("list[str]", "str", "null"),
            "GGUF files for llama.cpp and Ollama, made of the merged model: a type, or a list of types; null is none.",
            choices=GGUF_TYPES,
        ),
        "gguf_adapter": Field(
            BOOL, "true writes the adapter alone as GGUF, for llama.cpp beside a GGUF of the base.", False
        ),
        "ollama": Field(BOOL, "true writes a Modelfile for Ollama, around the GGUF.", False),
        "vllm": Field(BOOL, "true writes commands and a YAML file that serve it with vLLM.", False),
        "push": Field(
            TEXT,
            "Repository on the hub that everything is uploaded to; null uploads nothing.",
            pattern=r"[\w.-]+/[\w.-]+",
            example="ORG/NAME",
        ),
        "private": Field(BOOL, "Whether a repository that is made for it is private.", True),
        "prove": Field(
            BOOL, "true compares each output with the run, and fails with exit code 7 where they differ.", True
        ),
        "system": Field(
            TEXT, "System prompt that the Modelfile brings; null is that of the data, an empty text is none."
        ),
        "checkpoint": Field(
            STR,
            "Which weights: those that the run hands over, the best ones, or the last ones.",
            HANDED_OVER,
            (HANDED_OVER, "best", "last"),
        ),
    },
    "advice": {
        "accept": Field(
            ("dict", "null"),
            "Advice of `tune plan` that this recipe does not follow: the rule, and the reason, which is shown with it.",
            fields={
                name: Field(STR, f"Why this is as it should be: {doc[0].lower()}{doc[1:]}")
                for name, doc in ADVICE.items()
            },
        ),
    },
    "gpu": {
        "name": Field(STR, "Name of the GPU layer, such as l4."),
        "slug": Field(STR, "The GPU in run names, such as tesla-t4."),
        "vendor_names": Field(NAMES, "What the driver calls it."),
        "kind": Field(STR, "Device type.", choices=("cuda", "cpu", "mps")),
        "memory_gb": Field(NUMBER, "Memory in 10^9 bytes, as on the data sheet.", low=0, above=True),
        "memory_bandwidth_gbs": Field(NUMBER, "Memory bandwidth in 10^9 bytes a second.", low=0, above=True),
        "tflops_fp16": Field(NUMBER, "Dense float16 throughput in 10^12 operations a second.", low=0, above=True),
        "tflops_bf16": Field(NUMBER, "Dense bfloat16 throughput in 10^12 operations a second.", low=0, above=True),
        "efficiency": Field(
            ("dict", "null"),
            "Share of that throughput which large matrix products reach; null is unknown.",
            fields={
                "value": Field(("float",), "As expected.", low=0, above=True, high=1),
                "low": Field(("float",), "The least that is likely.", low=0, above=True, high=1),
                "high": Field(("float",), "The most that is likely.", low=0, above=True, high=1),
                "measured": Field(BOOL, "Whether it was measured on this GPU; false is an assumption."),
                "source": Field(TEXT, "Where it comes from."),
                "as_of": Field(TEXT, "Date of that, YYYY-MM-DD."),
            },
        ),
        "compute_capability": Field(TEXT, 'CUDA compute capability as text, such as "8.9".'),
        "bf16": Field(MAYBE, "Whether the hardware computes in bfloat16; emulated counts as no."),
        "flash_attention": Field(MAYBE, "Whether FlashAttention-2 runs on it."),
        "sources": Field(("dict", "null"), "Where each fact comes from."),
        "source": Field(TEXT, "Where the facts come from."),
        "as_of": Field(TEXT, "Date of the facts, YYYY-MM-DD."),
    },
}
"""Our own sections; all other sections are those of `UPSTREAM`."""

SOURCES = ("data.train", "data.eval")
"""Keys that name sources: a text, a mapping of `SOURCE`, or a list of both."""
PROMPTS = "generate.prompts"
"""Names sources, too; of prompts, not of rows that train."""

UPSTREAM = {"training": "SFTConfig", "quantization": "BitsAndBytesConfig", "peft": "the PEFT config"}
"""Sections whose keys are upstream's -> whose."""

NULLABLE = ("quantization", "peft", "generate", "tracking", "monitor", "checkpoint", "export")
"""Sections that null switches off."""


def field_of(key: str) -> Field | None:
    """The table's entry of a dotted key of ours; None when it has none."""
    section, _, rest = key.partition(".")
    fields: dict[str, Field] | None = SECTIONS.get(section) if rest else TOP
    found, named = None, False
    for part in rest.split(".") if rest else [section]:
        if found is not None and found.each and not named:
            named = True  # a free name: the keys of `fields` stand below it
            continue
        found, named = (fields or {}).get(part), False
        fields = found.fields if found else None
    return found


def json_schema() -> dict[str, Any]:
    """A JSON schema (draft-07, which YAML language servers understand best) of recipe and layer files."""
    from nothing_tune.recipe.json_schema import build

    return build()
