"""The keys of a recipe that are about rows: which ones train and evaluate, and how they are made. Part of `schema`."""

from __future__ import annotations

from nothing_tune import formats
from nothing_tune.recipe.field import BOOL, COUNT, NUMBER, STR, TEXT, Field

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

DATA: dict[str, Field] = {
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
    "leakage": Field(STR, "Training rows that are evaluation rows too: left out, or kept.", "drop", ("drop", "keep")),
    "min_tokens": Field(COUNT, "Rows of fewer tokens are left out.", low=1),
    "max_tokens": Field(COUNT, "Rows of more tokens are left out, before anything is cut.", low=1),
    "truncation": Field(
        TEXT,
        "Rows above training.max_length: left out, cut at the left or right end, or split into several; null is "
        "split with packing_strategy bfd_split, else right.",
        choices=("drop", "left", "right", "split"),
    ),
    "chat_template": Field(TEXT, "`chatml`, or a Jinja file; null is the model's own."),
}
"""Which rows train and evaluate."""

GENERATE: dict[str, Field] = {
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
}
"""How rows are made."""
