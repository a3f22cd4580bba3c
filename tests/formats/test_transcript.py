"""Chat logs: who is the assistant, where conversations end, and windows that learn every line once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nothing_tune import formats
from nothing_tune.errors import UsageError
from nothing_tune.formats import transcript
from tests.formats.conversions import assistant, user

Row = dict[str, Any]


def lines(text: str, **more: Any) -> list[Row]:
    """One row for each `A: x` in `text`, parted by bars."""
    pairs = (line.split(":", 1) for line in text.split("|"))
    return [{"speaker": who.strip(), "text": said.strip(), **more} for who, said in pairs]


def joined(rows: list[Row], **options: Any) -> list[tuple[Any, Row]]:
    """The windows of `rows`, each with the number of its first row; JERRY is the assistant."""
    return [(place, row) for place, row in given_back(rows, **options) if not isinstance(row, formats.LeftOut)]


def given_back(rows: list[Row], **options: Any) -> list[tuple[Any, Row | formats.LeftOut]]:
    """All that `join` gives for `rows`, windows and what is left out."""
    settings = {"transcript": {"speaker": "JERRY", "turns": 8, "stride": None, **options}}
    pieces = [(n, piece) for n, row in enumerate(rows, 1) for piece in transcript.convert(row, settings)]
    return list(transcript.join(pieces, settings))


def windows(text: str, **options: Any) -> list[list[Row]]:
    return [row["messages"] for _, row in joined(lines(text), **options)]


def test_lines_of_one_speaker_are_one_turn() -> None:
    assert windows("G: a | G: b | JERRY: c | Jerry: d | G: e | jerry: f") == [
        [user("a\nb"), assistant("c\nd"), user("e"), assistant("f")]
    ]


def test_several_others_keep_their_names() -> None:
    assert windows("G: a | G: b | E: c | JERRY: d | K: e | JERRY: f") == [
        [user("G: a\nb\nE: c"), assistant("d"), user("K: e"), assistant("f")]
    ]


def test_what_answers_nothing_and_what_nobody_answers_is_left_out() -> None:
    assert windows("JERRY: a | G: b | JERRY: c | G: d") == [[user("b"), assistant("c")]]
    assert windows("JERRY: a | JERRY: b") == []
    assert windows("JERRY: a | G: b") == []


def test_lines_that_open_a_conversation_are_given_as_left_out() -> None:
    rows = [
        *lines("JERRY: a | jerry: b | G: c | JERRY: d", scene=1),
        *lines("G: e | JERRY: f", scene=2),
        *lines("JERRY: g", scene=3),
        {"transcript": "JERRY: h\nG: i\nJERRY: j"},
    ]
    opens = formats.LeftOut("the speaker's line opens the conversation")
    assert [
        (place, row if isinstance(row, formats.LeftOut) else row["messages"]) for place, row in given_back(rows)
    ] == [
        (1, opens),
        (2, opens),
        (3, [user("c"), assistant("d")]),
        (5, [user("e"), assistant("f")]),
        (7, opens),
        (8, opens),
        (8, [user("i"), assistant("j")]),
    ]


LONG = " | ".join(f"G: q{n} | JERRY: a{n}" for n in range(5))


def asked(window: list[Row]) -> str:
    """A window in short: the numbers of its answers, those that are only context in brackets."""
    said = [(m["content"][1:], m.get("weight", 1)) for m in window if m["role"] == "assistant"]
    return " ".join(f"({n})" if weight == 0 else n for n, weight in said)


@pytest.mark.parametrize(
    ("turns", "stride", "expected"),
    [
        (8, None, ["0 1 2 3", "4"]),
        (4, None, ["0 1", "2 3", "4"]),
        (2, None, ["0", "1", "2", "3", "4"]),
        (5, None, ["0 1", "2 3", "4"]),
        (20, None, ["0 1 2 3 4"]),
        (4, 4, ["0 1", "2 3", "4"]),
        (4, 2, ["0 1", "(1) 2", "(2) 3", "(3) 4"]),
        (6, 2, ["0 1 2", "(1) (2) 3", "(2) (3) 4"]),
        (6, 4, ["0 1 2", "(2) 3 4"]),
        (4, 1, ["0 1", "(1) 2", "(2) 3", "(3) 4"]),
    ],
)
def test_windows(turns: int, stride: int | None, expected: list[str]) -> None:
    assert [asked(window) for window in windows(LONG, turns=turns, stride=stride)] == expected


def test_scenes_part_conversations_and_stay_as_columns() -> None:
    rows = [
        *lines("G: a | JERRY: b", scene=1, episode="The Chair"),
        *lines("E: c | JERRY: d", scene=2, episode="The Chair"),
        *lines("JERRY: e | K: f", scene=3, episode="The Desk"),
        *lines("K: g | JERRY: h", scene=1, episode="The Chair"),
    ]
    for number, row in enumerate(rows):
        row["line_number"] = number
        row["season"] = 4
    assert joined(rows) == [
        (1, {"messages": [user("a"), assistant("b")], "scene": 1, "episode": "The Chair", "season": 4}),
        (3, {"messages": [user("c"), assistant("d")], "scene": 2, "episode": "The Chair", "season": 4}),
        (7, {"messages": [user("g"), assistant("h")], "scene": 1, "episode": "The Chair", "season": 4}),
    ]


def test_a_row_with_a_whole_transcript_is_a_conversation_of_its_own() -> None:
    one = {
        "script": "[A café. Noon.]\nGEORGE: Hello.\n\nJERRY: Hi,\n  there.\n(He sits.)\nMR. PITT: Note: none.\nJERRY: So.",
        "id": 1,
    }
    two = {
        "transcript": [
            {"speaker": "JERRY", "text": "a"},
            {"speaker": "E", "text": "b"},
            {"speaker": "Jerry", "text": "c"},
        ]
    }
    assert joined([one, two, *lines("JERRY: x | G: y | JERRY: z")]) == [
        (
            1,
            {
                "messages": [
                    user("GEORGE: Hello."),
                    assistant("Hi,\nthere."),
                    user("MR. PITT: Note: none."),
                    assistant("So."),
                ],
                "id": 1,
            },
        ),
        (2, {"messages": [user("b"), assistant("c")]}),
        (4, {"messages": [user("y"), assistant("z")]}),
    ]


def test_capitals_decide_who_speaks_where_most_speakers_have_them() -> None:
    text = "GEORGE: I say\nThis: not a speaker.\nJERRY: Well:\nYes."
    assert transcript.convert({"transcript": text}, {})[0]["utterances"] == [
        {"speaker": "GEORGE", "text": "I say\nThis: not a speaker."},
        {"speaker": "JERRY", "text": "Well:\nYes."},
    ]
    names = transcript.convert({"transcript": "Ann Lee: x\nBob: y 10:30\nhttp://z"}, {})[0]["utterances"]
    assert names == [{"speaker": "Ann Lee", "text": "x"}, {"speaker": "Bob", "text": "y 10:30\nhttp://z"}]


@pytest.mark.parametrize(
    ("columns", "detected"),
    [
        (("speaker", "text"), "transcript"),
        (("character", "line"), "transcript"),
        (("name", "dialogue"), "transcript"),
        (("author", "message"), "transcript"),
        (("from_user", "utterance"), "transcript"),
        (("name", "content"), "transcript"),
    ],
)
def test_columns(columns: tuple[str, str], detected: str) -> None:
    rows = [dict(zip(columns, said, strict=True)) for said in (("G", "a"), ("JERRY", "b"))]
    assert formats.detect(rows) is formats.find(detected)
    assert joined(rows) == [(1, {"messages": [user("a"), assistant("b")]})]


@pytest.mark.parametrize(
    ("options", "what", "key", "hint"),
    [
        (
            {"speaker": None},
            "no speaker is chosen whose lines are learned",
            "data.transcript.speaker",
            "set data.transcript.speaker to one of those who speak: G (2 lines), E (1 line)",
        ),
        (
            {"speaker": "KRAMER"},
            "'KRAMER' speaks nowhere in the transcript",
            "data.transcript.speaker",
            "set data.transcript.speaker to one of those who speak: G (2 lines), E (1 line)",
        ),
        (
            {"turns": 1},
            "a window of 1 turn has no room for a question and its answer",
            "data.transcript.turns",
            "set data.transcript.turns to 2 or more",
        ),
        (
            {"turns": 4, "stride": 6},
            "windows of 4 turns that start 6 turns apart lose the lines between them",
            "data.transcript.stride",
            "set data.transcript.stride to no more than data.transcript.turns, or to null",
        ),
    ],
)
def test_settings_that_cannot_be(options: Row, what: str, key: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        joined(lines("G: a | E: b | G: c"), **options)
    (problem,) = caught.value.problems
    assert (problem.what, problem.key, problem.hint) == (what, key, hint)


def test_many_speakers_are_cut_short_and_no_rows_are_no_error() -> None:
    with pytest.raises(UsageError, match=r"P0 \(1 line\).*P7 \(1 line\) and 3 more$"):
        joined(lines("|".join(f"P{n}: x" for n in range(11))))
    assert joined([]) == []


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["JERRY", "G", "E"]), st.integers(0, 2)), max_size=30),
    st.integers(2, 9),
    st.none() | st.integers(1, 9),
)
def test_every_answer_is_learned_exactly_once(script: list[tuple[str, int]], turns: int, stride: int | None) -> None:
    if not any(who == "JERRY" for who, _ in script) or (stride or 0) > turns:
        return
    rows = [{"speaker": who, "text": f"{who}{n}", "scene": scene} for n, (who, scene) in enumerate(script)]
    whole = given_back(rows, turns=turns, stride=stride)
    out = [(place, row) for place, row in whole if not isinstance(row, formats.LeftOut)]
    lines_said = sum(who == "JERRY" for who, _ in script)
    learned = [
        m["content"] for _, row in out for m in row["messages"] if m["role"] == "assistant" and m.get("weight") != 0
    ]
    expected = [row["text"] for n, row in enumerate(rows) if row["speaker"] == "JERRY" and opened(rows, n)]
    assert "\n".join(learned).split("\n") == (expected or [""])
    assert len(whole) - len(out) == lines_said - len(expected)
    for _, row in out:
        roles = [m["role"] for m in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert len(roles) <= turns
        assert formats.check("messages", row) is None


def opened(rows: list[Row], number: int) -> bool:
    """Whether somebody else has spoken before row `number` in its conversation."""
    while number and rows[number - 1]["scene"] == rows[number]["scene"]:
        number -= 1
        if rows[number]["speaker"] != "JERRY":
            return True
    return False
