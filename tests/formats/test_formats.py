"""One suite over all row formats: each knows its own rows and no other's, converts them, and is detected among the rest."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nothing_tune import formats
from nothing_tune.errors import UsageError
from nothing_tune.formats import preference
from tests.formats.conversions import CONVERSIONS, PAIR, assistant, function, said, user

OPTIONS = {"transcript": {"speaker": "JERRY", "turns": 8, "stride": None}}


def converted(name: str, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Canonical rows of one raw row, joined where the format joins."""
    own = formats.find(name)
    pieces = own.convert(row, OPTIONS)
    return (
        [value for _, value in own.join(((1, p) for p in pieces), OPTIONS)]
        if isinstance(own, formats.Joining)
        else pieces
    )


def test_every_file_is_a_format() -> None:
    files = {p.stem.replace("_", "-") for p in Path(formats.__file__).parent.glob("[!_]*.py")}
    assert files == {f.NAME for f in formats.FORMATS}
    assert len(files) == 9
    assert set(formats.names()) == files - {"preference"} == {name for name, *_ in CONVERSIONS}
    for f in formats.FORMATS:
        assert f.WANTS
        assert f.KIND in (*formats.KINDS, "")
        assert set(f.OVER) <= files


@pytest.mark.parametrize(
    ("name", "raw", "row"), [pytest.param(n, a, b, id=f"{n}: {what}") for n, what, a, b in CONVERSIONS]
)
def test_conversion(name: str, raw: dict[str, Any], row: dict[str, Any]) -> None:
    before = copy.deepcopy(raw)
    assert converted(name, raw) == [row]
    assert raw == before, "the raw row is changed"
    assert formats.detect([raw]) is formats.find(name)
    kind = formats.find(name).KIND
    assert formats.check(kind, row) is None
    assert formats.find(kind).convert(row, {})[0].keys() == row.keys()


def test_a_format_takes_no_rows_of_another() -> None:
    for name, what, raw, _ in CONVERSIONS:
        mine = formats.find(name)
        for other in formats.FORMATS:
            if other is not mine and other.NAME not in mine.OVER and name not in other.OVER:
                assert not other.matches(raw), f"{other.NAME} takes {name}, {what}"
        for other in formats.FORMATS:
            assert not other.matches({})
            assert not other.matches({"other": "x"})


def test_formats_that_read_anothers_rows_convert_them_alike() -> None:
    for name, _, raw, row in CONVERSIONS:
        if name == "messages":
            assert converted("openai", raw) == [row]


def test_unknown_names() -> None:
    for name in ("chatml", "preference"):
        with pytest.raises(UsageError) as caught:
            formats.find(name)
        assert str(caught.value).splitlines() == [
            f"error: there is no data format {name!r}",
            "  hint: data.format is one of auto, messages, openai, prompt-completion, text, alpaca, sharegpt, glaive, transcript",
        ]


def refusal(*rows: Mapping[str, Any]) -> tuple[str, str]:
    """What `detect` says of `rows`, and its hint up to the list of what all formats want."""
    with pytest.raises(UsageError) as caught:
        formats.detect(rows, "d.jsonl")
    (problem,) = caught.value.problems
    return problem.what, problem.hint.split("rows need one of: ")[0].removesuffix("; ")


def test_several_rows_decide() -> None:
    weighed = {"messages": [user("a"), assistant("b", weight=0), assistant("c")]}
    assert formats.detect([{"messages": PAIR}, weighed]).NAME == "openai"
    assert formats.detect([{"messages": "[{'role': 'user', 'content': 'a'}]"}]) is formats.find("messages")
    assert formats.detect([{"conversations": "[{'from': 'human', 'value': 'a'}]"}]) is formats.find("sharegpt")
    assert formats.detect([{}, {"messages": None}, {"messages": PAIR}]).NAME == "messages"
    assert formats.detect([{"messages": PAIR}] * formats.SAMPLE + [{"text": "a"}]).NAME == "messages"
    assert (
        formats.detect([{"prompt": None, "completion": "x"}, {"prompt": "a", "completion": "b"}]).NAME
        == "prompt-completion"
    )


@pytest.mark.parametrize(
    ("rows", "what", "hint"),
    [
        (
            [{"messages": PAIR, "text": "a"}],
            "messages (every row) and text (every row)",
            "data.format=messages or data.format=text",
        ),
        (
            [{"messages": PAIR}, {"messages": PAIR}, {"text": "a"}],
            "messages (2 of 3 rows) and text (1 of 3 rows)",
            "data.format=messages or data.format=text",
        ),
        (
            [{"author": "a", "text": "b"}, {"author": "c", "text": "d"}],
            "text (all 2 rows looked at) and transcript (all 2 rows looked at)",
            "data.format=text or data.format=transcript",
        ),
        (
            [{"messages": PAIR, "conversations": said(("human", "a"), ("gpt", "b"))}],
            "messages (every row) and sharegpt (every row)",
            "data.format=messages or data.format=sharegpt",
        ),
        (
            [{"instruction": "a", "output": "b", "prompt": "c", "completion": "d"}],
            "prompt-completion (every row) and alpaca (every row)",
            "data.format=prompt-completion or data.format=alpaca",
        ),
        (
            [{"messages": [*PAIR, assistant("x", weight=1)], "text": "a"}],
            "openai (every row) and text (every row)",
            "data.format=openai or data.format=text",
        ),
    ],
)
def test_ambiguity_names_the_candidates(rows: list[dict[str, Any]], what: str, hint: str) -> None:
    assert refusal(*rows) == (f"the rows of d.jsonl fit more than one format: {what}", hint)


TEXTS = "to train on the chosen texts, set data.columns={text: chosen} and data.format=text"
ANSWERS = "to train on the chosen answers, set data.columns={completion: chosen} and data.format=prompt-completion"
WHOLE = "to train on the chosen answers, set data.columns={messages: chosen} and data.format=messages"


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, ANSWERS),
        ({"prompt": [user("a")], "chosen": [assistant("b")], "rejected": [assistant("c")]}, ANSWERS),
        ({"chosen": PAIR, "rejected": PAIR}, WHOLE),
        ({"prompt": "a", "chosen": PAIR, "rejected": PAIR}, WHOLE),
        ({"chosen": "Human: a", "rejected": "Human: b"}, TEXTS),
        (
            {"prompt": "a", "chosen": PAIR, "rejected": PAIR, "messages": PAIR},
            f"{WHOLE}; to train on what messages reads, set data.format=messages",
        ),
        (
            {
                "input": {"messages": [user("a")]},
                "preferred_output": [assistant("b")],
                "non_preferred_output": [assistant("c")],
            },
            "to train on the preferred answers, set data.columns={prompt: input, completion: preferred_output}",
        ),
        (
            {"prompt": "a", "completion": "b", "label": "False"},
            "to train on the good answers, keep the rows whose label is true and set data.format=prompt-completion",
        ),
        (
            {"prompt": "a", "completion": "b", "label": False},
            "to train on the good answers, keep the rows whose label is true and set data.format=prompt-completion",
        ),
    ],
)
def test_preferences_are_refused_with_a_way_on(row: dict[str, Any], hint: str) -> None:
    what = "d.jsonl holds preference rows (answers side by side), and tune trains on answers, not on comparisons"
    assert refusal(row) == (what, hint)
    with pytest.raises(formats.BadRow, match=r"^this is a preference row, and tune trains"):
        preference.convert(row, {})


def test_the_way_on_leads_there() -> None:
    """What the hints say, done: the column renamed, the rows are of the format that the hint names."""
    dpo = {"prompt": "a", "completion": "b", "rejected": "c"}
    assert formats.detect([dpo]).convert(dpo, {}) == [{"prompt": "a", "completion": "b", "rejected": "c"}]
    openai = {"prompt": {"messages": [user("a")], "tools": [function("f")]}, "completion": [assistant("b")]}
    assert formats.detect([openai]).NAME == "prompt-completion"
    assert formats.detect([{"prompt": "a", "completion": "b", "label": "good"}]).NAME == "prompt-completion"


NAMELESS = "name its columns with data.columns={FORMAT'S COLUMN: YOURS}"


@pytest.mark.parametrize(
    ("row", "columns", "hint"),
    [
        (
            {"question": "a", "answer": "b"},
            "question, answer",
            "perhaps data.columns={prompt: question, completion: answer}",
        ),
        (
            {"Question": "a", "Answer": "b"},
            "Question, Answer",
            "perhaps data.columns={prompt: Question, completion: Answer}",
        ),
        ({"prompt": "a", "response": "b"}, "prompt, response", "perhaps data.columns={completion: response}"),
        (
            {"instruction": "a", "answer": "b"},
            "instruction, answer",
            "perhaps data.columns={prompt: instruction, completion: answer}",
        ),
        ({"input": "a", "output": "b"}, "input, output", "perhaps data.columns={prompt: input, completion: output}"),
        ({"title": "t", "body": "b"}, "title, body", "perhaps data.columns={text: body}"),
        ({"chat": PAIR}, "chat", "perhaps data.columns={messages: chat}"),
        ({"dialog": said(("human", "a"))}, "dialog", "perhaps data.columns={conversations: dialog}"),
        ({"a": 1, "b": 2}, "a, b", NAMELESS),
        ({"speaker": "a"}, "speaker", NAMELESS),
        ({"messages": 5}, "messages", NAMELESS),
        ({f"c{n}": n for n in range(23)}, ", ".join(f"c{n}" for n in range(20)) + " and 3 more", NAMELESS),
    ],
)
def test_unknown_columns_are_listed_with_a_guess(row: dict[str, Any], columns: str, hint: str) -> None:
    assert refusal(row) == (f"d.jsonl has no format that is known: its columns are {columns}", hint)


def test_unknown_columns_say_what_each_format_wants() -> None:
    with pytest.raises(UsageError) as caught:
        formats.detect([{"a": 1}])
    for f in formats.FORMATS:
        assert (f"{f.NAME}: {f.WANTS}" in caught.value.problems[0].hint) == bool(f.KIND)
    assert refusal({}) == ("d.jsonl has no row with columns", "")
    assert refusal() == ("d.jsonl has no row with columns", "")


def test_check_says_what_is_wrong_with_a_canonical_row() -> None:
    assert formats.check("text", {"text": ""}) == "`text` is empty"
    assert (
        formats.check("messages", {"messages": [user("a")]})
        == "no message is the assistant's, so there is nothing to learn"
    )
    assert (
        formats.check("messages", {"messages": PAIR, "tools": [{"name": "f"}]})
        == "`tools` is not in its canonical form"
    )
    assert formats.check("prompt-completion", {"prompt": "a"}) == "there is no `completion`"
