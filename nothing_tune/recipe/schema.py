"""The keys of a recipe that are our own: one table of types, values, ranges and meaning; and the JSON schema of recipes.

The keys of `training`, `peft` and `quantization` are upstream's: see `upstream.py`; what we say about them is in `names.py`
(managed, refused, renamed) and `ranges.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nothing_tune.recipe import duration
from nothing_tune.recipe.names import PEFT_RULES, TRAINING_RULES

__all__ = [
    "NULLABLE",
    "PEFT_RULES",
    "SECTIONS",
    "TOP",
    "TRAINING_RULES",
    "UPSTREAM",
    "Field",
    "field_of",
    "json_schema",
]


@dataclass(frozen=True)
class Field:
    """One key of ours.

    Attributes:
        types: As in `upstream.Option.types`.
        doc: One sentence: meaning, unit, what null or zero mean.
        default: Value of base/qlora, for the documentation.
        choices: Valid texts; empty when any will do.
        low: Smallest valid number; `above` excludes it.
        high: Largest valid number; `below` excludes it.
        fields: The keys below this one, for a nested mapping.
        pattern: Regular expression that the whole text must match; empty when any will do.
        example: A text that matches `pattern`, for messages.
    """

    types: tuple[str, ...]
    doc: str
    default: Any = None
    choices: tuple[str, ...] = ()
    low: float | None = None
    above: bool = False
    high: float | None = None
    below: bool = False
    fields: dict[str, Field] | None = None
    pattern: str = ""
    example: str = ""


STR, TEXT, NAMES = ("str",), ("str", "null"), ("list[str]",)
BOOL, MAYBE = ("bool",), ("bool", "null")
COUNT, NUMBER = ("int", "null"), ("float", "null")

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
    "data": {
        "train": Field(
            ("str", "list[str]", "null"), "Training rows: a file (.jsonl .json .csv .parquet), hub id, or list of them."
        ),
        "eval": Field(
            ("float", "str", "list[str]", "null"),
            "Held-out rows: a share of the training rows (0 to 1), a file or hub id of their own, or null for none.",
            0.1,
        ),
        "sample": Field(
            ("dict", "null"),
            "A small dataset of the same kind that ships with the recipe, for rehearsals.",
            fields={
                "train": Field(TEXT, "File of training rows."),
                "eval": Field(("float", "str", "null"), "Held-out rows: a file, or a share of the training rows."),
            },
        ),
        "format": Field(
            STR,
            "What rows look like; auto looks at the columns.",
            "auto",
            ("auto", "messages", "text", "prompt-completion"),
        ),
        "split_seed": Field(("int",), "Which rows a share holds out.", 42, low=0),
        "max_samples": Field(COUNT, "Training rows used at most; null is all of them.", low=1),
        "chat_template": Field(TEXT, "`chatml`, or a Jinja file; null is the model's own."),
    },
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
        "compute_capability": Field(TEXT, 'CUDA compute capability as text, such as "8.9".'),
        "bf16": Field(MAYBE, "Whether the hardware computes in bfloat16; emulated counts as no."),
        "flash_attention": Field(MAYBE, "Whether FlashAttention-2 runs on it."),
        "sources": Field(("dict", "null"), "Where each fact comes from."),
        "source": Field(TEXT, "Where the facts come from."),
        "as_of": Field(TEXT, "Date of the facts, YYYY-MM-DD."),
    },
}
"""Our own sections; all other sections are those of `UPSTREAM`."""

UPSTREAM = {"training": "SFTConfig", "quantization": "BitsAndBytesConfig", "peft": "the PEFT config"}
"""Sections whose keys are upstream's -> whose."""

NULLABLE = ("quantization", "peft", "tracking", "monitor", "checkpoint")
"""Sections that null switches off."""


def field_of(key: str) -> Field | None:
    """The table's entry of a dotted key of ours; None when it has none."""
    section, _, rest = key.partition(".")
    fields: dict[str, Field] | None = SECTIONS.get(section) if rest else TOP
    found = None
    for part in rest.split(".") if rest else [section]:
        found = (fields or {}).get(part)
        fields = found.fields if found else None
    return found


def json_schema() -> dict[str, Any]:
    """A JSON schema (draft-07, which YAML language servers understand best) of recipe and layer files."""
    from nothing_tune.recipe.json_schema import build

    return build()
