"""The keys of a recipe that are our own: one table of types, values, ranges and meaning; and the JSON schema of recipes.

The keys of `training`, `peft` and `quantization` are upstream's: see `upstream.py`; what we say about them is in `names.py`
(managed, refused, renamed) and `ranges.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nothing_tune import formats
from nothing_tune.recipe import duration
from nothing_tune.recipe.advice import ADVICE
from nothing_tune.recipe.names import PEFT_RULES, TRAINING_RULES

__all__ = [
    "NULLABLE",
    "PEFT_RULES",
    "SECTIONS",
    "SOURCES",
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
        fields: The keys below this one, for a nested mapping and for each mapping in a list.
        each: `fields` are the keys below each value of this mapping, whose own keys are free names.
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
    each: bool = False
    pattern: str = ""
    example: str = ""


STR, TEXT, NAMES = ("str",), ("str", "null"), ("list[str]",)
BOOL, MAYBE = ("bool",), ("bool", "null")
COUNT, NUMBER = ("int", "null"), ("float", "null")
COLUMNS = ("dict[str]", "null")
FORMATS = ("auto", *formats.names())
"""What `data.format` takes: a new file in `nothing_tune/formats` is a new choice."""

SOURCE: dict[str, Field] = {
    "source": Field(STR, "A file, folder, glob or hub id."),
    "weight": Field(
        NUMBER, "Its part of the mixture, relative to the other weights; no row is used twice.", low=0, above=True
    ),
    "max_rows": Field(COUNT, "Its first so many rows are used; null is all of them.", low=1),
    "format": Field(TEXT, "What its rows look like; null is data.format.", choices=FORMATS),
    "columns": Field(COLUMNS, "As data.columns, for this source alone; null is data.columns."),
    "split": Field(TEXT, "Which split of a hub data set; null is train."),
    "revision": Field(TEXT, "Branch, tag or commit of a hub data set; null is its main branch."),
}
"""Keys of a source that is written as a mapping, in `data.train` and `data.eval`."""

SAMPLING: dict[str, Field] = {
    "max_new_tokens": Field(("int",), "Longest answer, in tokens.", 256, low=1),
    "temperature": Field(("float",), "0 takes the likeliest token each time; higher is more varied.", 0.7, low=0),
    "top_p": Field(
        ("float",), "Draws from the likeliest tokens that have this share together.", 1.0, low=0, above=True, high=1
    ),
    "seed": Field(COUNT, "Start of every prompt's own seed; null leaves chance to the generator.", 42, low=0),
}
"""How answers are drawn, in `generate.sampling` and in a group's own."""

GROUP: dict[str, Field] = {
    "target": Field(COUNT, "Rows of this group wanted, authentic ones included; null answers every prompt.", low=0),
    "system": Field(TEXT, "As generate.system, for this group."),
    "row_system": Field(TEXT, "As generate.row_system, for this group."),
    "sampling": Field(("dict",), "As generate.sampling, for this group.", fields=SAMPLING),
}
"""Keys of one group of `generate.groups`."""

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
            ("str", "dict", "list[source]", "null"),
            "Training rows: a file, folder, glob or hub id; a mapping with more about one; or a list of both.",
            fields=SOURCE,
        ),
        "eval": Field(
            ("float", "str", "dict", "list[source]", "null"),
            "Held-out rows: a share of each training source (0 to 1), before weights; sources as in train; or null for none.",
            0.1,
            fields=SOURCE,
        ),
        "sample": Field(
            ("dict", "null"),
            "A small dataset of the same kind that ships with the recipe, for rehearsals.",
            fields={
                "train": Field(TEXT, "File of training rows."),
                "eval": Field(("float", "str", "null"), "Held-out rows: a file, or a share of the training rows."),
                "prompts": Field(TEXT, "File of prompts, for a rehearsal of `tune data generate`."),
            },
        ),
        "format": Field(STR, "What rows look like; auto looks at them.", "auto", FORMATS),
        "columns": Field(
            COLUMNS, "For files whose columns are called otherwise: the format's column, then the file's column."
        ),
        "transcript": Field(
            ("dict",),
            "How a chat log becomes conversations (format transcript).",
            fields={
                "speaker": Field(TEXT, "Whose lines are the assistant's; the format transcript needs one."),
                "turns": Field(("int",), "Turns in one conversation at most.", 8, low=2),
                "stride": Field(COUNT, "Turns from the start of one conversation to the next; null is turns.", low=1),
            },
        ),
        "split_seed": Field(("int",), "Which rows a share holds out, and which ones weights leave out.", 42, low=0),
        "group_by": Field(TEXT, "Column whose equal values stay on one side of a share; null splits row by row."),
        "stratify_by": Field(TEXT, "Column of whose every value a share holds out the same part."),
        "max_samples": Field(COUNT, "Training rows used at most; null is all of them.", low=1),
        "max_bad_rows": Field(
            ("float",),
            "Share of rows that may be unreadable and are then left out; above it, nothing starts.",
            0.0,
            low=0,
            high=1,
        ),
        "dedupe": Field(
            STR,
            "Which repeated rows are left out: exact ones, near ones too, or none.",
            "exact",
            ("none", "exact", "near"),
        ),
        "near_duplicates": Field(
            ("float",),
            "From which likeness on rows are near duplicates (Jaccard of their word triples); for dedupe: near.",
            0.85,
            low=0,
            above=True,
            high=1,
        ),
        "leakage": Field(
            STR, "Training rows that are evaluation rows too: left out, or kept.", "drop", ("drop", "keep")
        ),
        "min_tokens": Field(COUNT, "Rows of fewer tokens are left out.", low=1),
        "max_tokens": Field(COUNT, "Rows of more tokens are left out, before anything is cut.", low=1),
        "truncation": Field(
            TEXT,
            "Rows above training.max_length: left out, cut at the left or right end, or split into several; null is "
            "split with packing_strategy bfd_split, else right.",
            choices=("drop", "left", "right", "split"),
        ),
        "chat_template": Field(TEXT, "`chatml`, or a Jinja file; null is the model's own."),
    },
    "generate": {
        "prompts": Field(
            ("str", "dict", "list[source]", "null"),
            "Prompts to answer: sources as in data.train, with a column of prompts, or `messages` without an answer.",
            fields=SOURCE,
        ),
        "prompt": Field(STR, "Column of the prompts.", "prompt"),
        "answer": Field(TEXT, "Column of authentic answers: a row that has one is kept as it is, and not asked."),
        "group_by": Field(TEXT, "Column that names a row's group, such as level; null is one group."),
        "output": Field(TEXT, "JSON lines file of the finished conversations, which data.train may name."),
        "generator": Field(
            ("dict",),
            "The model that answers.",
            fields={
                "kind": Field(
                    STR,
                    "transformers runs it here; openai asks an OpenAI-compatible endpoint.",
                    "transformers",
                    ("transformers", "openai"),
                ),
                "model": Field(TEXT, "A hub id or folder, or the endpoint's name of a model."),
                "revision": Field(TEXT, "Hub branch, tag or commit; null is the newest of the main branch."),
                "dtype": Field(
                    STR,
                    "Type of its weights; auto is the one they are stored in.",
                    "auto",
                    ("auto", "float32", "bfloat16", "float16"),
                ),
                "quantization": Field(
                    TEXT, "Bits of its weights, with bitsandbytes; null leaves them.", choices=("4bit", "8bit")
                ),
                "batch_size": Field(("int",), "Prompts that transformers answers at once.", 8, low=1),
                "base_url": Field(STR, "The endpoint.", "http://localhost:8000/v1"),
                "api_key_env": Field(
                    TEXT,
                    "Name of the environment variable that holds the endpoint's key; null sends none.",
                    "OPENAI_API_KEY",
                    pattern=r"[A-Za-z_][A-Za-z0-9_]*",
                    example="OPENAI_API_KEY",
                ),
                "usd_per_million_input_tokens": Field(NUMBER, "Price of what is asked; null is unknown.", low=0),
                "usd_per_million_output_tokens": Field(NUMBER, "Price of what is answered; null is unknown.", low=0),
                "extra": Field(("dict", "null"), "More fields of each request, as the endpoint knows them."),
            },
        ),
        "system": Field(TEXT, "System message of each question; {group} is the row's group. null sends none."),
        "row_system": Field(
            TEXT, "System message of the written rows instead of the one that was sent; {group} is the row's group."
        ),
        "keep_system": Field(BOOL, "false writes rows without a system message.", True),
        "sampling": Field(("dict",), "How answers are drawn.", fields=SAMPLING),
        "groups": Field(
            ("dict", "null"), "What is different for a group: its name, then the keys.", fields=GROUP, each=True
        ),
        "concurrency": Field(("int",), "Requests that an endpoint gets at once.", 8, low=1),
        "retries": Field(("int",), "Times that a request is sent again after a fault that may pass.", 5, low=0),
        "timeout_s": Field(("float",), "Seconds that one answer may take.", 120, low=0, above=True),
        "filters": Field(
            ("dict",),
            "Which answers are not taken.",
            fields={
                "min_words": Field(COUNT, "Answers of fewer words; null takes them.", 1, low=1),
                "max_words": Field(COUNT, "Answers of more words; null takes them.", low=1),
                "language": Field(TEXT, "Answers in another language than this one (it, en, ...); null takes any."),
                "refusals": Field(BOOL, "Answers that refuse, or speak of being a language model.", True),
                "artefacts": Field(BOOL, "Answers with leftovers of a template, or that repeat themselves.", True),
                "openings": Field(
                    NUMBER,
                    "Largest share of a group's answers that begin with the same words; null takes any.",
                    0.02,
                    low=0,
                    above=True,
                    high=1,
                ),
                "opening_words": Field(("int",), "Words that make an opening.", 5, low=1),
                "near_duplicates": Field(
                    NUMBER,
                    "From which likeness on an answer repeats another (Jaccard of word triples); null takes them.",
                    0.85,
                    low=0,
                    above=True,
                    high=1,
                ),
                "unfinished": Field(
                    STR,
                    "Answers that max_new_tokens cut: trimmed to their last whole sentence, rejected, or kept.",
                    "trim",
                    ("trim", "reject", "keep"),
                ),
            },
        ),
        "same_family": Field(BOOL, "true allows a generator of the family of the trained model.", False),
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
        "usd_per_hour": Field(
            NUMBER,
            "What an hour of one GPU costs you, in US dollars, for the plan's costs; null is nothing: your own GPU.",
            low=0,
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

NULLABLE = ("quantization", "peft", "generate", "tracking", "monitor", "checkpoint")
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
