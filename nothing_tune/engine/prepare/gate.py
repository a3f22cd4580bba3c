"""The gate: what is wrong or unwise about the prepared rows, told before a model is loaded. Pure: it reads a report and facts.

Each rule is one function from `Facts` to findings. An error stops `tune train`; a warning and an advice are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

SEVERITIES = ("error", "warning", "advice")
SHOWN = 5
"""Places of rows that a finding names."""
MANY = 0.5
"""Share of the answers that may be cut, and of rows that may teach nothing, before it is an error."""
ROWS_TRIED = 64
"""Rows on which templates are tried, see `chat_templates.ROWS`."""
REPLACED = 0.001
"""Share of tokens that are the tokenizer's `unknown` from which it is worth a warning."""

NO_ROWS = ("name a source in data.train that holds rows", "data.train")
LEFT_OUT = {
    "unsupervised": (
        "raise training.max_length, shorten the prompts, or give rows with an answer",
        "training.max_length",
    ),
    "over_max_length": ("raise training.max_length, or set data.truncation=right", "training.max_length"),
    "too_long": ("raise data.max_tokens, or give shorter rows", "data.max_tokens"),
    "too_short": ("lower data.min_tokens, or give longer rows", "data.min_tokens"),
    "duplicates": ("give rows that differ, or set data.dedupe=none", "data.dedupe"),
    "near_duplicates": ("give rows that differ, or set data.dedupe=none", "data.dedupe"),
    "leaked": ("evaluate on other rows (data.eval), or set data.leakage=keep", "data.leakage"),
}
"""The cure and the key where no row is left, by what most were left out for."""


@dataclass(frozen=True)
class Facts:
    """What the rules look at.

    Attributes:
        report: The report of the prepared rows, see `prepare`.
        kind: `messages`, `prompt-completion` or `text`.
        assistant_only: Whether only the assistant's words are learned.
        end: The token that ends a turn, or a text, as the tokenizer names it; empty when there is none.
        ends_learned: Sequences in which an end token is learned.
        pad: The token that pads.
        eos: The tokenizer's end token.
        spare_pad: A token of the vocabulary that nobody uses and that could pad; empty when there is none.
        largest_id: The largest token id in the rows.
        vocabulary: Rows of the model's embedding; None when its config does not say.
        context: Tokens that the model was made to read at most; None when its config does not say.
        added: Tokens that the run adds to the model, embeddings resized and trained.
        unknown: Tokens of the rows that are the tokenizer's unknown one.
        doubled_start: Sequences that begin with two start tokens.
        typed: Places of rows whose text holds a special token, the first of them.
        typed_rows: How many there are.
        merged: Places of rows in which the end of the prompt and the beginning of the completion are one token, the first of them.
        merged_rows: How many there are.
        unsupervised: Places of rows of which nothing is learned.
        cut_answers: Places of rows with a cut answer.
        passed_over: What the chat template leaves out of the first rows without a word, and of how many.
    """

    report: dict[str, Any]
    kind: str
    assistant_only: bool
    end: str
    ends_learned: int
    pad: str
    eos: str
    spare_pad: str
    largest_id: int
    vocabulary: int | None
    context: int | None = None
    added: tuple[str, ...] = ()
    unknown: int = 0
    doubled_start: int = 0
    typed: list[str] = field(default_factory=list)
    typed_rows: int = 0
    merged: list[str] = field(default_factory=list)
    merged_rows: int = 0
    unsupervised: list[str] = field(default_factory=list)
    cut_answers: list[str] = field(default_factory=list)
    passed_over: Mapping[str, int] = field(default_factory=dict)


Finding = dict[str, Any]


def findings(facts: Facts) -> list[Finding]:
    """All findings, errors first."""
    found = [finding for rule in RULES for finding in rule(facts)]
    return sorted(found, key=lambda f: SEVERITIES.index(f["severity"]))


def _finding(severity: str, what: str, hint: str, key: str = "", rows: list[str] | None = None) -> Finding:
    return {"severity": severity, "what": what, "hint": hint, "key": key, "rows": (rows or [])[:SHOWN]}


def something_is_left(facts: Facts) -> Iterator[Finding]:
    """Nothing to train on."""
    if facts.report["train"]["rows"] == 0:
        dropped = {name: n for name, n in facts.report["dropped"].items() if n}
        why = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in dropped.items())
        most = max(dropped, key=lambda name: dropped[name], default="")
        hint, key = LEFT_OUT.get(most, NO_ROWS)
        rows = facts.unsupervised if most == "unsupervised" else []
        yield _finding("error", f"no training row is left{f': {why}' if why else ''}", hint, key, rows)
    elif facts.report["eval"] is not None and facts.report["eval"]["rows"] == 0:
        yield _finding(
            "error",
            "no evaluation row is left",
            "give more rows, a larger data.eval, or set training.eval_strategy=no",
            "data.eval",
        )


def rows_teach(facts: Facts) -> Iterator[Finding]:
    """A row without a supervised token takes room and teaches nothing (TRL leaves such rows out without a word)."""
    count, rows = facts.report["dropped"]["unsupervised"], facts.report["train"]["rows"]
    if not count or not rows:  # where none is left, that is said
        return
    within = f" within {facts.report['max_length']} tokens" if facts.report["max_length"] else ""
    what = f"{_rows(count)} {'teaches' if count == 1 else 'teach'} nothing: no token of them is learned{within}"
    hint = "raise training.max_length, shorten the prompts, or take these rows out"
    yield _finding(
        "error" if count > MANY * (rows + count) else "warning", what, hint, "data.train", facts.unsupervised
    )


def the_end_is_learned(facts: Facts) -> Iterator[Finding]:
    """A model that never learns the end of its turn never stops (TRL #5988, #6044)."""
    if facts.report["train"]["rows"] and not facts.ends_learned and facts.kind != "text":
        yield _finding(
            "error",
            f"the end of the turn, {facts.end or 'an end token'}, is never learned: the model would not learn to stop",
            "move it inside {% generation %} in the chat template, or raise training.max_length if every answer is cut",
            "data.chat_template",
        )


def answers_are_whole(facts: Facts) -> Iterator[Finding]:
    """An answer that is cut teaches the model to break off, and its end is not learned."""
    side = facts.report["train"]
    cut = side["cut"]["answers"]
    if not cut:
        return
    answers = max(side["roles"].get("assistant", 0), side["rows"])
    lost, longest = side["cut"]["supervised_tokens"], side["lengths"]["max"]
    if facts.report["truncation"] == "split":
        what = f"{cut} of {answers} answers are split between sequences of {facts.report['max_length']} tokens"
    else:
        what = (
            f"{cut} of {answers} answers are cut at {facts.report['max_length']} tokens: {lost} tokens of them are lost"
        )
    enough = _round_up(longest)
    keeps = f"training.max_length={enough} keeps all"
    if facts.context is not None and enough > facts.context:
        keeps = f"the longest row has {longest} tokens, and the model reads {facts.context}"
    hint = f"{keeps}; data.truncation=drop leaves such rows out"
    severity = "error" if cut > MANY * answers and facts.report["truncation"] != "split" else "warning"
    yield _finding(severity, what, hint, "training.max_length", facts.cut_answers)


def tokens_are_in_the_vocabulary(facts: Facts) -> Iterator[Finding]:
    """A token id beyond the embedding ends the run with an index error, on a GPU with a device assertion."""
    if facts.vocabulary is None:
        return
    if facts.largest_id >= facts.vocabulary and not facts.added:
        yield _finding(
            "error",
            f"the rows hold token {facts.largest_id}, and the model knows {facts.vocabulary} tokens (0 to {facts.vocabulary - 1})",
            "the tokenizer does not belong to this model; use the model's own, or resize its embeddings",
            "model.name_or_path",
        )
    elif facts.added:
        yield _finding(
            "advice",
            f"{', '.join(facts.added)} {'is' if len(facts.added) == 1 else 'are'} new to the model: "
            "embeddings are resized, and their rows are trained and saved",
            "",
            "data.chat_template",
        )


def padding_is_no_end(facts: Facts) -> Iterator[Finding]:
    """Training masks padding by its place, so it is safe here; what serves the model may mask the end token with it (TRL #1623)."""
    if facts.pad and facts.pad == facts.eos:
        hint = (
            f"training.pad_token={facts.spare_pad!r} is free in this vocabulary"
            if facts.spare_pad
            else "safe here, where padding is told by its place; other tools may take every end for padding"
        )
        yield _finding("advice", f"the padding token is the end token {facts.eos}", hint, "training.pad_token")


def one_start(facts: Facts) -> Iterator[Finding]:
    """A start token in the text and another by the tokenizer: the model never sees that when it serves."""
    if facts.doubled_start:
        yield _finding(
            "warning",
            f"{_rows(facts.doubled_start)} {'begins' if facts.doubled_start == 1 else 'begin'} with two start tokens",
            "the text and the tokenizer both add one: take it out of the text",
            "data.train",
        )


def text_is_known(facts: Facts) -> Iterator[Finding]:
    """Characters that the tokenizer does not know are all the same to the model."""
    total = facts.report["train"]["tokens"]
    if total and facts.unknown > REPLACED * total:
        yield _finding(
            "warning",
            f"{facts.unknown} of {total} tokens are unknown to the tokenizer",
            "another language or script than the model's? choose a model whose tokenizer knows it",
            "model.name_or_path",
        )


def no_special_tokens_in_text(facts: Facts) -> Iterator[Finding]:
    """Text that spells a special token becomes that token: an end of turn in the middle of a turn."""
    if facts.typed_rows:
        yield _finding(
            "warning",
            f"the text of {_rows(facts.typed_rows)} holds special tokens, which the model reads as such",
            "rendered text in a column of plain text? convert it back to turns, or take them out",
            "data.train",
            facts.typed,
        )


def prompts_end_where_completions_begin(facts: Facts) -> Iterator[Finding]:
    """Where a prompt's last letters and a completion's first are one token, it is learned, and a served prompt ends otherwise."""
    if facts.merged_rows:
        yield _finding(
            "warning",
            f"in {_rows(facts.merged_rows)} the end of the prompt runs into the completion, and is learned with it",
            "begin the completions with a space or a line break, or end the prompts with a line break",
            "data.train",
            facts.merged,
        )


def the_template_shows_all(facts: Facts) -> Iterator[Finding]:
    """A template may pass over a system message or a tool's result in silence: the model then learns answers without their cause."""
    if facts.passed_over:
        what = max(facts.passed_over, key=lambda name: facts.passed_over[name])
        yield _finding(
            "warning",
            f"{what}; so, or alike, in {sum(facts.passed_over.values())} of the first {ROWS_TRIED} rows at most",
            "another template may show it: data.chat_template=chatml, or a file of your own",
            "data.chat_template",
        )


def duplicates_are_few(facts: Facts) -> Iterator[Finding]:
    """What was left out as duplicate, or as part of the evaluation rows, and why."""
    dropped = facts.report["dropped"]
    both = dropped["duplicates"] + dropped["near_duplicates"]
    if both:
        places = [f"{a} = {b}" for a, b in facts.report["duplicates"]["examples"]]
        yield _finding(
            "warning",
            f"{_rows(both)} {'was' if both == 1 else 'were'} left out as {'a duplicate' if both == 1 else 'duplicates'}",
            "data.dedupe=none keeps them",
            "data.dedupe",
            places,
        )
    leaked = facts.report["leaked"]["count"]
    if leaked:
        places = [f"{a} = {b}" for a, b in facts.report["leaked"]["examples"]]
        kept = facts.report["leaked"]["kept"]
        yield _finding(
            "warning",
            f"{_rows(leaked)} of the training data {'stands' if leaked == 1 else 'stand'} in the evaluation data too"
            + (": the evaluation is too good" if kept else ", and were left out of training"),
            "data.leakage=drop leaves them out of training"
            if kept
            else "data.leakage=keep trains on them all the same",
            "data.leakage",
            places,
        )


def bad_rows_are_told(facts: Facts) -> Iterator[Finding]:
    """Rows that could not be read, within what `data.max_bad_rows` allows."""
    bad = facts.report["bad_rows"]
    if bad["count"]:
        yield _finding(
            "warning",
            f"{_rows(bad['count'])} could not be used ({bad['share']:.2%})",
            "mend them, or leave them: data.max_bad_rows allows that share",
            "data.max_bad_rows",
            [f"{place}: {why}" for place, why in bad["examples"]],
        )


RULES: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    something_is_left,
    rows_teach,
    the_end_is_learned,
    answers_are_whole,
    tokens_are_in_the_vocabulary,
    padding_is_no_end,
    one_start,
    text_is_known,
    no_special_tokens_in_text,
    prompts_end_where_completions_begin,
    the_template_shows_all,
    duplicates_are_few,
    bad_rows_are_told,
)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _round_up(tokens: int) -> int:
    """The next multiple of 64, at least 64."""
    return max(64, -(-tokens // 64) * 64)
