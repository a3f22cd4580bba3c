"""The gate's rules, one table: facts -> the exact finding. Pure functions of a report."""

from __future__ import annotations

from typing import Any

import pytest

from nothing_tune.engine.prepare.gate import RULES, Facts, findings

SIDE = {
    "rows": 100, "tokens": 10_000, "roles": {"user": 100, "assistant": 100},
    "cut": {"rows": 0, "tokens": 0, "supervised_tokens": 0, "answers": 0}, "lengths": {"max": 700},
}  # fmt: skip
DROPPED = dict.fromkeys(
    ("duplicates", "near_duplicates", "leaked", "too_short", "too_long", "over_max_length", "unsupervised", "capped"), 0
)


def facts(report: dict[str, Any] | None = None, **changes: Any) -> Facts:
    """Facts with nothing wrong, changed."""
    whole = {
        "train": SIDE, "eval": None, "dropped": DROPPED, "max_length": 512, "truncation": "right",
        "duplicates": {"examples": []}, "leaked": {"count": 0, "kept": False, "examples": []},
        "bad_rows": {"read": 100, "count": 0, "share": 0.0, "examples": []},
    }  # fmt: skip
    fine: dict[str, Any] = {
        "report": {**whole, **(report or {})}, "kind": "messages", "assistant_only": True, "end": "<|im_end|>",
        "ends_learned": 100, "pad": "<|pad|>", "eos": "<|im_end|>", "spare_pad": "", "largest_id": 399, "vocabulary": 400,
    }  # fmt: skip
    return Facts(**{**fine, **changes})


def cut(answers: int, tokens: int, **more: Any) -> dict[str, Any]:
    side = {**SIDE, "cut": {"rows": answers, "tokens": tokens, "supervised_tokens": tokens, "answers": answers}}
    return {"train": side, **more}


def test_nothing_wrong_nothing_said() -> None:
    assert findings(facts()) == []


CASES = {
    "something_is_left": (
        facts({"train": {**SIDE, "rows": 0}, "dropped": {**DROPPED, "too_long": 7, "leaked": 1}}, ends_learned=0),
        (
            "error",
            "no training row is left: 1 leaked, 7 too long",
            "raise data.max_tokens, or give shorter rows",
            "data.max_tokens",
        ),
    ),
    "something_is_left to evaluate on": (
        facts({"eval": {**SIDE, "rows": 0}}),
        (
            "error",
            "no evaluation row is left",
            "give more rows, a larger data.eval, or set training.eval_strategy=no",
            "data.eval",
        ),
    ),
    "rows_teach": (
        facts({"dropped": {**DROPPED, "unsupervised": 3}}, unsupervised=["rows.jsonl:4", "rows.jsonl:9"]),
        (
            "warning",
            "3 rows teach nothing: no token of them is learned within 512 tokens",
            "raise training.max_length, shorten the prompts, or take these rows out",
            "data.train",
        ),
    ),
    "rows_teach, most do not": (
        facts({"dropped": {**DROPPED, "unsupervised": 101}}),
        (
            "error",
            "101 rows teach nothing: no token of them is learned within 512 tokens",
            "raise training.max_length, shorten the prompts, or take these rows out",
            "data.train",
        ),
    ),
    "the_end_is_learned": (
        facts(ends_learned=0),
        (
            "error",
            "the end of the turn, <|im_end|>, is never learned: the model would not learn to stop",
            "move it inside {% generation %} in the chat template, or raise training.max_length if every answer is cut",
            "data.chat_template",
        ),
    ),
    "answers_are_whole": (
        facts(cut(4, 321)),
        (
            "warning",
            "4 of 100 answers are cut at 512 tokens: 321 tokens of them are lost",
            "training.max_length=704 keeps all; data.truncation=drop leaves such rows out",
            "training.max_length",
        ),
    ),
    "answers_are_whole, most are not": (
        facts(cut(51, 4_000)),
        (
            "error",
            "51 of 100 answers are cut at 512 tokens: 4000 tokens of them are lost",
            "training.max_length=704 keeps all; data.truncation=drop leaves such rows out",
            "training.max_length",
        ),
    ),
    "answers_are_whole, split": (
        facts(cut(60, 0, truncation="split")),
        (
            "warning",
            "60 of 100 answers are split between sequences of 512 tokens",
            "training.max_length=704 keeps all; data.truncation=drop leaves such rows out",
            "training.max_length",
        ),
    ),
    "tokens_are_in_the_vocabulary": (
        facts(largest_id=400),
        (
            "error",
            "the rows hold token 400, and the model knows 400 tokens (0 to 399)",
            "the tokenizer does not belong to this model; use the model's own, or resize its embeddings",
            "model.name_or_path",
        ),
    ),
    "tokens_are_in_the_vocabulary, added ones": (
        facts(largest_id=401, added=("<|im_start|>", "<|im_end|>")),
        (
            "advice",
            "<|im_start|>, <|im_end|> are new to the model: embeddings are resized, and their rows are trained and saved",
            "",
            "data.chat_template",
        ),
    ),
    "padding_is_no_end": (
        facts(pad="</s>", eos="</s>"),
        (
            "advice",
            "the padding token is the end token </s>",
            "safe here, where padding is told by its place; other tools may take every end for padding",
            "training.pad_token",
        ),
    ),
    "padding_is_no_end, another is free": (
        facts(pad="</s>", eos="</s>", spare_pad="<unk>"),
        (
            "advice",
            "the padding token is the end token </s>",
            "training.pad_token='<unk>' is free in this vocabulary",
            "training.pad_token",
        ),
    ),
    "one_start": (
        facts(doubled_start=1),
        (
            "warning",
            "1 row begins with two start tokens",
            "the text and the tokenizer both add one: take it out of the text",
            "data.train",
        ),
    ),
    "text_is_known": (
        facts(unknown=11),
        (
            "warning",
            "11 of 10000 tokens are unknown to the tokenizer",
            "another language or script than the model's? choose a model whose tokenizer knows it",
            "model.name_or_path",
        ),
    ),
    "no_special_tokens_in_text": (
        facts(typed=["rows.jsonl:7"], typed_rows=1),
        (
            "warning",
            "the text of 1 row holds special tokens, which the model reads as such",
            "rendered text in a column of plain text? convert it back to turns, or take them out",
            "data.train",
        ),
    ),
    "answers_are_whole, longer than the model reads": (
        facts(cut(4, 321), context=512),
        (
            "warning",
            "4 of 100 answers are cut at 512 tokens: 321 tokens of them are lost",
            "the longest row has 700 tokens, and the model reads 512; data.truncation=drop leaves such rows out",
            "training.max_length",
        ),
    ),
    "prompts_end_where_completions_begin": (
        facts(merged=["rows.csv:2"], merged_rows=12),
        (
            "warning",
            "in 12 rows the end of the prompt runs into the completion, and is learned with it",
            "begin the completions with a space or a line break, or end the prompts with a line break",
            "data.train",
        ),
    ),
    "the_template_shows_all": (
        facts(passed_over={"the chat template leaves out message 1 (system), or a part of it": 60, "another": 1}),
        (
            "warning",
            "the chat template leaves out message 1 (system), or a part of it; so, or alike, in 61 of the first 64 rows at most",
            "another template may show it: data.chat_template=chatml, or a file of your own",
            "data.chat_template",
        ),
    ),
    "duplicates_are_few": (
        facts({"dropped": {**DROPPED, "duplicates": 1}, "duplicates": {"examples": [["a.jsonl:2", "a.jsonl:1"]]}}),
        ("warning", "1 row was left out as a duplicate", "data.dedupe=none keeps them", "data.dedupe"),
    ),
    "duplicates_are_few, leaked": (
        facts({"leaked": {"count": 2, "kept": True, "examples": [["a.jsonl:2", "b.jsonl:1"]]}}),
        (
            "warning",
            "2 rows of the training data stand in the evaluation data too: the evaluation is too good",
            "data.leakage=drop leaves them out of training",
            "data.leakage",
        ),
    ),
    "bad_rows_are_told": (
        facts({"bad_rows": {"read": 200, "count": 1, "share": 0.005, "examples": [["a.jsonl:3", "not JSON"]]}}),
        (
            "warning",
            "1 row could not be used (0.50%)",
            "mend them, or leave them: data.max_bad_rows allows that share",
            "data.max_bad_rows",
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_rule_says(name: str) -> None:
    given, expected = CASES[name]
    [finding] = findings(given)
    assert (finding["severity"], finding["what"], finding["hint"], finding["key"]) == expected


def test_every_rule_has_a_case() -> None:
    assert {name.split(",")[0].split(" ")[0] for name in CASES} == {rule.__name__ for rule in RULES}


def test_rows_are_named_and_errors_come_first() -> None:
    found = findings(
        facts(
            {"dropped": {**DROPPED, "unsupervised": 9}}, unsupervised=[f"a.jsonl:{n}" for n in range(9)], ends_learned=0
        )
    )
    assert [f["severity"] for f in found] == ["error", "warning"]
    assert found[1]["rows"] == ["a.jsonl:0", "a.jsonl:1", "a.jsonl:2", "a.jsonl:3", "a.jsonl:4"]


def test_plain_text_has_no_turn_to_end() -> None:
    assert findings(facts(kind="text", ends_learned=0)) == []
