"""Judges: what ships, what is wrong with a broken one, how strictly a verdict is read, and that none is taken for a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from nothing_tune.errors import RecipeError, UsageError
from nothing_tune.recipe.judges import find_judge, read_judge
from nothing_tune.recipe.library import JUDGES, names

BAD = """name: mine
kind: pairwise
promt: x
prompt: "{answer_a} or {reply}?"
verdict: {pattern: "([AB]", first: A, second: B}
sampling: {temperature: warm}
"""


def test_what_ships_reads_verdicts_strictly() -> None:
    assert names(JUDGES) == ["pairwise", "score"]
    assert [name for name in names("recipes") if name.startswith(JUDGES)] == []
    pair, score = find_judge("pairwise"), find_judge("score")
    filled = pair.prompt.format(conversation="{x}", reference="r", answer_a="one {0}", answer_b="two")
    assert "one {0}" in filled
    for text, verdict in (
        ("Because.\n[[A]]", "first"), ("[[B]]\n\n", "second"), (" [[C]] ", "tie"), ("[[A]] it is", None), ("[[D]]", None), ("", None),
        ("[[A]]\nor rather not", None), ("Both [[A]] and [[B]]", None),
    ):  # fmt: skip
        assert pair.verdict(text) == verdict, text
    for text, value in (("So.\n[[7]]", 7.0), ("[[11]]", None), ("[[0]]", None), ("7", None), ("[[7]].", None)):
        assert score.verdict(text) == value, text


def test_every_problem_of_a_file_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(BAD, encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        read_judge(path)
    assert [(p.place.line if p.place else 0, p.what, p.hint) for p in error.value.problems] == [
        (3, "promt is not a key of a judge", "did you mean prompt?"),
        (4, "prompt names {reply}, which is none of conversation, reference, answer_a, answer_b", ""),
        (4, "prompt does not name {answer_b}, without which there is nothing to judge", ""),
        (5, "verdict.pattern is no regular expression: missing ), unterminated subpattern at position 0", ""),
        (6, "sampling.temperature must be a number", ""),
    ]
    with pytest.raises(UsageError) as unknown:
        find_judge("pairwize")
    assert unknown.value.problems[0].hint == "did you mean pairwise?"
