"""What each family supervises: every answer with the end of its turn, exactly, and nothing of anybody else."""

from __future__ import annotations

import copy
import functools
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nothing_tune.engine import template_probes, tool_text
from nothing_tune.engine.chat_templates import Choice, choose
from nothing_tune.engine.prepare.tokens import IGNORED, Encoder, encode, render
from tests.engine.families import FAMILIES, Family, own_template, tokenizer

DATE = "26 Jul 2024"
SYSTEM = {"role": "system", "content": "Sii gentile 🙂."}
TALK = [
    {"role": "user", "content": "alpha please"},
    {"role": "assistant", "content": "però βeta 🎉 gamma"},
    {"role": "user", "content": "  delta\n"},
    {"role": "assistant", "content": "nothing again \n"},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Looks at a place.",
            "parameters": {"type": "object", "properties": {"at": {"type": "string"}, "n": {"type": "integer"}}},
        },
    }
]
FUNCTION = {"name": "look", "arguments": {"at": "Città di 🏰", "n": 2}}
WITH_TOOLS = [
    {"role": "user", "content": "alpha please"},
    {"role": "assistant", "tool_calls": [{"type": "function", "function": FUNCTION}]},
    {"role": "tool", "content": '{"seen": "a cat"}'},
    {"role": "assistant", "content": "everything"},
]


@functools.cache
def prepared(name: str) -> tuple[Any, Choice, Encoder]:
    tok = tokenizer(name)
    choice = choose(tok, None, conversational=True, masked=True, rows=[{"messages": TALK}], date=DATE)
    return tok, choice, Encoder(tok, choice, assistant_only=True, completion_only=False)


def learned(name: str, row: dict[str, Any]) -> list[str]:
    """The supervised stretches of a row, as characters of what the template renders."""
    tok, _, encoder = prepared(name)
    [encoded] = encode([row], encoder)
    assert not isinstance(encoded, str), encoded
    text = render(row, encoder)
    batch = tok(text, add_special_tokens=False, return_offsets_mapping=True)
    assert batch["input_ids"] == encoded.ids
    assert all(label in (IGNORED, token) for label, token in zip(encoded.labels, encoded.ids, strict=True))
    stretches: list[list[int]] = []
    for index, ((start, end), label) in enumerate(zip(batch["offset_mapping"], encoded.labels, strict=True)):
        if label == IGNORED:
            continue
        if stretches and stretches[-1][2] == index - 1:
            stretches[-1][1:] = [max(end, stretches[-1][1]), index]
        else:
            stretches.append([start, end, index])
    return [text[start:end] for start, end, _ in stretches]


def expected(family: Family, answers: list[str]) -> list[str]:
    said = [a.strip() if family.trims else a for a in answers]
    out = [family.before + a + family.end + family.after for a in said]
    out[-1] += family.last
    return out


def talk(family: Family) -> list[dict[str, Any]]:
    return TALK if family.refuses else [SYSTEM, *TALK]


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_and_the_ends_of_their_turns_are_learned_and_nothing_else(name: str) -> None:
    family = FAMILIES[name]
    tok, choice, encoder = prepared(name)
    assert (choice.source, choice.tools, choice.roles) == (family.source, family.tools, family.roles)
    row = {"messages": talk(family)}
    assert learned(name, row) == expected(family, [TALK[1]["content"], TALK[3]["content"]])
    [encoded] = encode([row], encoder)
    assert not isinstance(encoded, str)
    assert encoded.ids.count(tok.bos_token_id) == family.bos
    if family.bos:
        assert encoded.ids[0] == tok.bos_token_id
    said = [encoded.ids[end - 1] for _, end in encoded.answers]
    stop = tok.convert_tokens_to_ids(family.last or family.end)
    assert stop in (said[-1], encoded.ids[encoded.answers[-1][1] - 2])


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_what_the_models_own_template_says_behind_a_generation_prompt(name: str) -> None:
    """An independent reading: the text behind each prompt, up to the end of the turn, as the model itself would be asked."""
    family = FAMILIES[name]
    tok, choice, _ = prepared(name)
    own = own_template(name) or choice.own
    assert own is not None
    own = re.sub(r"strftime_now\(.*?\)", f"'{DATE}'", own)
    messages = TALK if family.drops_system else talk(family)
    whole, _ = template_probes.rendered(tok, own, messages)
    answers = []
    for place, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt, _ = template_probes.rendered(tok, own, messages[:place], prompt=True)
            assert whole.startswith(prompt)
            answers.append(whole[len(prompt) : whole.index(family.end, len(prompt)) + len(family.end)])
    found = learned(name, {"messages": messages})
    if family.rewrites:
        found = [found[0].removeprefix(family.before), found[1]]
    header = "\n" if family.before == "\n" else ""
    tails = [family.after, family.after + family.last]
    assert [f.removeprefix(header).removesuffix(t) for f, t in zip(found, tails, strict=True)] == answers
    if not family.rewrites:
        assert render({"messages": messages}, prepared(name)[2]) == whole


@pytest.mark.parametrize("name", FAMILIES)
def test_calls_are_learned_and_functions_and_results_are_seen(name: str) -> None:
    family = FAMILIES[name]
    row = {"messages": WITH_TOOLS, "tools": TOOLS}
    before = copy.deepcopy(row)
    found = learned(name, row)
    call = family.call
    if "{id}" in call:
        call = call.replace("{id}", re.findall(r'"id": "([0-9a-z]{9})"', found[0])[0])
    want = expected(family, [call, "everything"])
    if call.startswith("[TOOL_CALLS]"):
        want[0] = want[0].removeprefix(family.before)
    assert found == want
    text = render(row, prepared(name)[2])
    assert "Looks at a place." in text
    assert "a cat" in text
    assert row == before
    if family.tools == "text":
        assert tool_text.FUNCTIONS in text
        assert ("FUNCTION RESPONSE: " in text) == ("tool" not in family.roles)


@pytest.mark.parametrize("name", FAMILIES)
def test_special_tokens_that_a_user_types_move_no_mask(name: str) -> None:
    family = FAMILIES[name]
    headers = "<|im_start|>assistant\n <|start_header_id|>assistant<|end_header_id|>\n\n<start_of_turn>model\n<|assistant|>\n [/INST]"
    typed = f"nothing {family.end} {headers} please{family.end}\n"
    row = {"messages": [{"role": "user", "content": typed}, TALK[1], {"role": "user", "content": typed}, TALK[3]]}
    assert learned(name, row) == expected(family, [TALK[1]["content"], TALK[3]["content"]])


@pytest.mark.parametrize("name", FAMILIES)
def test_odd_answers_and_empty_systems(name: str) -> None:
    family = FAMILIES[name]
    for answer in (
        "",
        "a",
        "🙂",
        "   spaced",
        "trailing\t \n\n",
        "line\n\nline",
        "e\u0301 ﷽ 漢字 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    ):
        row = {"messages": [TALK[0], {"role": "assistant", "content": answer}]}
        answer = answer.lstrip() if family.strips else answer  # such a tokenizer drops it: the model can never say it
        assert learned(name, row) == expected(family, [answer]), answer
    if not family.refuses:
        row = {"messages": [{"role": "system", "content": ""}, *TALK]}
        assert learned(name, row) == expected(family, [TALK[1]["content"], TALK[3]["content"]])


@pytest.mark.parametrize("name", FAMILIES)
def test_refusals_say_why(name: str) -> None:
    family = FAMILIES[name]
    tok, choice, _ = prepared(name)
    assert choice.text is not None
    asked, said = TALK[0], TALK[1]

    def why(*messages: dict[str, Any]) -> str | None:
        return template_probes.refusal(tok, choice.text or "", {"messages": list(messages)})

    assert why(asked, said) is None
    assert why(SYSTEM, asked, said) == (family.refuses or None)
    twice = "the chat template wants user and assistant in turn, messages 1 and 2 are both user"
    assert why(asked, asked, said) == (twice if family.alternates else None)
    first = "the chat template wants the user to begin, message 1 is the assistant's"
    assert why(said, asked, said) == (first if family.alternates else None)
    if family.refuses:
        assert encode([{"messages": [SYSTEM, *TALK]}], prepared(name)[2]) == [family.refuses]


def test_one_call_a_turn_is_said_so() -> None:
    tok, choice, _ = prepared("llama-3.2")
    call = {"type": "function", "function": FUNCTION}
    row = {
        "messages": [WITH_TOOLS[0], {"role": "assistant", "content": "", "tool_calls": [call, call]}, *WITH_TOOLS[2:]]
    }
    assert (
        template_probes.refusal(tok, choice.text or "", row)
        == "the chat template takes one tool call a turn, message 2 has 2"
    )


def test_what_a_template_passes_over_is_said() -> None:
    encoder = prepared("mistral-instruct-v0.3")[2]
    row = {"messages": [SYSTEM, *TALK]}
    assert template_probes.left_out(render(row, encoder), row) == (
        "the chat template leaves out message 1 (system), or a part of it"
    )
    for name in FAMILIES:
        row = {"messages": WITH_TOOLS, "tools": TOOLS}
        encoder = prepared(name)[2]
        assert template_probes.left_out(render(row, encoder), {"messages": WITH_TOOLS[:1], "tools": TOOLS}) is None
        assert template_probes.left_out(render({"messages": TALK}, encoder), {"messages": TALK}) is None
    assert template_probes.left_out("alpha please", row) == "the chat template leaves out the tool call in message 2"


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=30)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(turns=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3))
def test_whatever_is_said_only_the_answers_are_learned(name: str, turns: list[tuple[str, str]]) -> None:
    family = FAMILIES[name]
    row = {
        "messages": [
            {"role": role, "content": words}
            for pair in turns
            for role, words in zip(("user", "assistant"), pair, strict=True)
        ]
    }
    answers = [answer.lstrip() if family.strips else answer for _, answer in turns]
    if family.rewrites:
        answers = [answer.lstrip("\n") for answer in answers]
    assert learned(name, row) == expected(family, answers)
