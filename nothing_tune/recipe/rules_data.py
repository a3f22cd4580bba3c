"""Rules between fields of `data`, and between it and `training`; see `rules.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nothing_tune import formats
from nothing_tune.errors import Problem
from nothing_tune.recipe.schema import SOURCES
from nothing_tune.recipe.values import near
from nothing_tune.recipe.view import View

USUAL_LIKENESS = 0.85
"""`data.near_duplicates` of base/qlora."""


def sources_have_names(view: View) -> Iterator[Problem]:
    """A mapping says more about a source, which it must name."""
    for key, source in _sources(view):
        if not str(source.get("source") or "").strip():
            yield view.problem(
                key, f"{key} names no source", "write source: FILE, folder, glob or hub id beside its settings"
            )


def weights_are_complete(view: View) -> Iterator[Problem]:
    """A weight is a part of a whole: a source without one has no part, and one source alone is the whole."""
    for name in SOURCES:
        value = view.get(name)
        entries = value if isinstance(value, list) else [value]
        weighed = [n for n, entry in enumerate(entries) if isinstance(entry, dict) and entry.get("weight") is not None]
        without = [n for n in range(len(entries)) if n not in weighed]
        if weighed and len(entries) == 1:
            key = f"{name}.0.weight" if isinstance(value, list) else f"{name}.weight"
            yield view.problem(
                key, f"{key} weighs one source against no other", "write max_rows for fewer of its rows", "advice"
            )
        elif weighed and without:
            yield view.problem(
                f"{name}.{without[0]}",
                f"{name}.{without[0]} has no weight, and other sources have one",
                "write a weight for each source, or for none: then all rows are used",
            )


def splits_are_named_once(view: View) -> Iterator[Problem]:
    """`ID:SPLIT` and `split` both name the split of a hub data set."""
    for key, source in _sources(view):
        name, split = str(source.get("source") or ""), source.get("split")
        repo, colon, inside = name.rpartition(":")
        if split and colon and "/" not in inside and inside != split:
            yield view.problem(
                f"{key}.split", f"{key}.split is {split}, and its source says {inside}", f"write source: {repo}"
            )


def transcripts_have_a_speaker(view: View) -> Iterator[Problem]:
    """In a chat log nobody is the assistant until one is named; of what is no chat log, no speaker is asked."""
    key, used = "data.transcript.speaker", _formats(view)
    speaker, turns = view.get(key), view.number("data.transcript.turns")
    if "transcript" in used.values() and not speaker:
        where = next(k for k, name in used.items() if name == "transcript")
        yield view.problem(
            where,
            f"{where} is transcript, and {key} names nobody",
            "write data.transcript: {speaker: NAME}: whose lines are the assistant's",
        )
    elif speaker and used and not {"transcript", "auto"} & {*used.values()}:
        yield view.problem(
            key,
            f"{key} does nothing: data.format is {view.get('data.format')}",
            "write data.format: transcript",
            "advice",
        )
    stride = view.number("data.transcript.stride")
    if stride is not None and turns is not None and stride > turns:
        yield view.problem(
            view.latest("data.transcript.stride", "data.transcript.turns"),
            f"data.transcript.stride is {stride:g}, above turns {turns:g}: the turns between would be in no conversation",
            "write at most turns, or null, which is turns",
        )


def columns_are_the_formats(view: View) -> Iterator[Problem]:
    """The left side of data.columns is the name that the format looks for; one that almost is such a name is misspelt."""
    for key, source in (("data", view.get("data", {})), *_sources(view)):
        columns, name = source.get("columns"), source.get("format") or view.get("data.format", "auto")
        known = COLUMNS.get(name, ())
        for written in columns or {}:
            alike = near(written, [c for c in known if c not in columns], 0.75)
            if written not in known and alike:
                yield view.problem(
                    f"{key}.columns.{written}",
                    f"{key}.columns.{written} is no column of the format {name}",
                    f"did you mean {alike[0]}?",
                    "advice",
                )


def likeness_is_for_near_duplicates(view: View) -> Iterator[Problem]:
    """Only `near` compares rows by likeness."""
    key, kind = "data.near_duplicates", view.get("data.dedupe", "exact")
    if kind != "near" and view.number(key) not in (None, USUAL_LIKENESS):
        yield view.problem(
            view.latest(key, "data.dedupe"),
            f"{key} does nothing: data.dedupe is {kind}",
            "write dedupe: near",
            "advice",
        )


def splits_have_a_share(view: View) -> Iterator[Problem]:
    """Groups and strata say how a share is held out; a source of its own is what it is."""
    group, strata = view.get("data.group_by"), view.get("data.stratify_by")
    if group and group == strata:
        yield view.problem(
            view.latest("data.group_by", "data.stratify_by"),
            f"data.group_by keeps rows of one {group} together, and data.stratify_by holds out a part of each",
            "write one of the two",
        )
    elif view.number("data.eval") is None:
        for name in ("group_by", "stratify_by"):
            if view.get(f"data.{name}"):
                yield view.problem(
                    f"data.{name}",
                    f"data.{name} does nothing: data.eval is no share of the training rows",
                    "write data.eval: 0.1, or remove the line",
                    "advice",
                )


def lengths_leave_rows(view: View) -> Iterator[Problem]:
    """Rows between the shortest and the longest that are kept must be possible."""
    low, high, length = (view.number(k) for k in ("data.min_tokens", "data.max_tokens", "training.max_length"))
    if low is not None and high is not None and low > high:
        key = view.latest("data.min_tokens", "data.max_tokens")
        yield view.problem(
            key, f"data.min_tokens is {low:g}, above data.max_tokens {high:g}: no row is left", "swap them"
        )
    if view.get("data.truncation") != "drop" or length is None:
        return
    if low is not None and low > length:
        yield view.problem(
            view.latest("data.min_tokens", "data.truncation"),
            f"data.min_tokens is {low:g}, and data.truncation drops rows above training.max_length {length:g}: no row is left",
            "raise max_length, or lower min_tokens",
        )
    elif high is not None and high > length:
        yield view.problem(
            view.latest("data.max_tokens", "data.truncation"),
            f"data.max_tokens {high:g} does nothing: data.truncation drops rows above training.max_length {length:g}",
            "remove the line, or raise max_length",
            "advice",
        )


def truncation_has_one_voice(view: View) -> Iterator[Problem]:
    """data.truncation says what upstream spreads over truncation_mode and packing_strategy; they must not contradict it."""
    policy, side = view.get("data.truncation"), view.get("training.truncation_mode")
    if side == "keep_end" and policy in (None, "left"):
        yield view.problem(
            "training.truncation_mode",
            "training.truncation_mode keep_end is deprecated",
            "write data.truncation: left",
            "advice",
        )
    elif side == "keep_end":
        yield view.problem(
            view.latest("data.truncation", "training.truncation_mode"),
            f"training.truncation_mode is keep_end, and data.truncation {policy}, which decides",
            "remove truncation_mode, or write data.truncation: left",
        )
    if (
        view.get("training.packing")
        and view.get("training.packing_strategy") == "bfd_split"
        and policy not in (None, "split")
    ):
        yield view.problem(
            view.latest("data.truncation", "training.packing_strategy"),
            f"training.packing_strategy bfd_split splits long rows, and data.truncation is {policy}",
            "write packing_strategy: bfd, or data.truncation: split",
        )
    if policy is not None and view.null("training.max_length"):
        yield view.problem(
            view.latest("data.truncation", "training.max_length"),
            f"data.truncation {policy} does nothing: training.max_length is null, and no row is too long",
            "write max_length, or remove the line",
            "advice",
        )


def loss_fits_rows(view: View) -> Iterator[Problem]:
    """The loss is masked by conversation turn or by completion; plain text has neither."""
    for key, name in _formats(view).items():
        kind = "" if name == "auto" else formats.find(name).KIND
        if view.get("training.assistant_only_loss") and kind == "text":
            yield view.problem(
                "training.assistant_only_loss",
                f"training.assistant_only_loss needs conversations, and {key} is {name}",
                "remove the line",
            )
        if view.get("training.completion_only_loss") and kind in ("text", "messages"):
            yield view.problem(
                "training.completion_only_loss",
                f"training.completion_only_loss needs prompt and completion, and {key} is {name}",
                "write assistant_only_loss: true" if kind == "messages" else "remove the line",
            )


def _sources(view: View) -> Iterator[tuple[str, dict[str, Any]]]:
    """`(dotted key, mapping)` of each source that is written as a mapping."""
    for key in SOURCES:
        value = view.get(key)
        if isinstance(value, dict):
            yield key, value
        elif isinstance(value, list):
            yield from ((f"{key}.{n}", entry) for n, entry in enumerate(value) if isinstance(entry, dict))


def _formats(view: View) -> dict[str, str]:
    """Dotted key -> format, of each key that says one and of `data.format` where a source has none of its own."""
    own = {f"{key}.format": source["format"] for key, source in _sources(view) if source.get("format")}
    written = [e for key in SOURCES for e in _entries(view.get(key)) if not isinstance(e, int | float)]
    if len(own) < len(written) or not written:
        own["data.format"] = view.get("data.format", "auto")
    return own


def _entries(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


COLUMNS: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "tools"),
    "openai": ("messages", "tools", "functions"),
    "prompt-completion": ("prompt", "completion", "tools"),
    "text": ("text",),
    "alpaca": ("instruction", "input", "output", "system", "history"),
    "sharegpt": ("conversations", "system", "tools"),
    "glaive": ("system", "chat"),
}
"""Format -> the columns that it reads."""

RULES = (
    sources_have_names,
    weights_are_complete,
    splits_are_named_once,
    transcripts_have_a_speaker,
    columns_are_the_formats,
    likeness_is_for_near_duplicates,
    splits_have_a_share,
    lengths_leave_rows,
    truncation_has_one_voice,
    loss_fits_rows,
)
"""Rules of this file, in the order in which problems are shown."""
