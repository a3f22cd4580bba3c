"""The parts of generation by themselves: filters, refusals, families, prompts, the ledger, the schedule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.engine.generate import family
from nothing_tune.engine.generate.filters import REASONS, Judge, artefact, other_language, trimmed
from nothing_tune.engine.generate.ledger import Ledger
from nothing_tune.engine.generate.prompts import BadPrompt, prompt
from nothing_tune.engine.generate.questions import Answer, Prompt, question
from nothing_tune.engine.generate.refusals import ANYWHERE, BEGIN, refusal
from nothing_tune.engine.generate.schedule import Schedule
from nothing_tune.errors import StorageError

FILTERS: dict[str, Any] = {
    "min_words": 2, "max_words": 30, "language": None, "refusals": True, "artefacts": True, "openings": None,
    "opening_words": 3, "near_duplicates": None, "unfinished": "trim",
}  # fmt: skip
LONG = "Il congiuntivo si usa dopo i verbi di opinione, di dubbio e di desiderio, mai da solo."


def make(n: int = 0, text: str = "Che cos'è un verbo?", group: str = "A1") -> Prompt:
    return Prompt(n, f"p.jsonl:{n + 1}", group, ({"role": "user", "content": text},))


@pytest.mark.parametrize(
    ("text", "finish", "settings", "reason", "detail"),
    [
        ("Un verbo dice che cosa fai.", "stop", {}, "", ""),
        ("  \n ", "stop", {}, "empty", "there is no text"),
        ("Sì.", "stop", {}, "short", "1 word"),
        ("Sì.", "stop", {"min_words": None}, "", ""),
        ("parola " * 29 + "fine finita.", "stop", {"artefacts": False}, "long", "31 words"),
        ("A whole sentence. Then it brea", "length", {}, "", ""),
        ("No end of it at all and so on and", "length", {}, "unfinished", "max_new_tokens cut it"),
        ("A whole sentence. Then it brea", "length", {"unfinished": "reject"}, "unfinished", "max_new_tokens cut it"),
        ("No end of it at all", "length", {"unfinished": "keep"}, "", ""),
        ("Whatever was here", "content_filter", {}, "refusal", "the endpoint's filter stopped it"),
        ("I'm sorry, but I can't do that.", "stop", {}, "refusal", "i'm sorry, but i"),
        ("I'm sorry, but I can't do that.", "stop", {"refusals": False}, "", ""),
        ("Certo!<|im_end|>", "stop", {}, "artefact", "a special token: <|im_end|>"),
        ("Certo, eccolo: {{nome}} va bene.", "stop", {}, "artefact", "a placeholder: {{nome}}"),
        ("Certo, eccolo: {{nome}} va bene.", "stop", {"artefacts": False}, "", ""),
        ("What is this in English, my friend?", "stop", {"language": "it"}, "language", "it reads as en"),
        (LONG, "stop", {"language": "it"}, "", ""),
        (LONG, "stop", {"language": "de"}, "language", "it reads as it"),
    ],
)
def test_filters(text: str, finish: str, settings: dict[str, Any], reason: str, detail: str) -> None:
    judge = Judge({**FILTERS, **settings}, {"A1": 10})
    verdict = judge.judge(make(), Answer(text, finish))
    assert (verdict.reason, verdict.detail) == (reason, detail)
    assert (verdict.text is None) is bool(reason)
    assert reason in ("", *REASONS)
    assert dict(judge.rejected.get("A1", {})) == ({reason: 1} if reason else {})
    if reason:
        assert judge.examples[reason][0]["why"] == detail


def test_openings_are_counted_by_group() -> None:
    judge = Judge({**FILTERS, "openings": 0.25, "opening_words": 2}, {"A1": 20, "B1": 4})
    said = [f"Bella domanda: risposta numero {n}." for n in range(8)]
    verdicts = [judge.judge(make(n), Answer(text)) for n, text in enumerate(said)]
    assert [v.reason for v in verdicts] == [""] * 5 + ["opening"] * 3
    assert verdicts[-1].detail == "bella domanda"
    others = [judge.judge(make(n, group="B1"), Answer(text)) for n, text in enumerate(said[:4])]
    assert [v.reason for v in others] == ["", "", "", "opening"], "a quarter of four is one; three are always allowed"
    assert judge.judge(make(9), Answer("BELLA  domanda!")).reason == "", "an answer that is no longer has no opening"


def test_near_duplicates_of_answers_and_of_authentic_ones() -> None:
    judge = Judge({**FILTERS, "near_duplicates": 0.8}, {"A1": 10})
    judge.know(LONG, "p.jsonl:7")
    assert judge.judge(make(1), Answer(LONG.upper())).detail == "nearly the answer of p.jsonl:7"
    words = "Questa è una risposta piuttosto lunga che parla del passato prossimo e dei suoi due verbi ausiliari."
    assert judge.judge(make(2), Answer(words)).text == words
    assert judge.judge(make(3), Answer(words + " Bene.")).detail == "nearly the answer of p.jsonl:3"
    assert judge.judge(make(4), Answer("Il gatto dorme sul divano vicino alla finestra.")).reason == ""


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("One. Two. Thr", "One. Two."),
        ("Ha detto «ciao». Poi è and", "Ha detto «ciao»."),
        ("Ha detto: «Ciao!» Poi", "Ha detto: «Ciao!»"),
        ("It costs 3.50 euros and", None),
        ("Yes. " + "and then " * 20, None),
        ("你好。我是", "你好。"),
        ("", None),
        ("Done?", "Done?"),
    ],
)
def test_trimming(text: str, whole: str | None) -> None:
    assert trimmed(text) == whole


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("Mi dispiace, ma non posso rispondere a questa domanda.", True),
        ("Mi dispiace che tu stia male. Si dice «ho mal di testa».", False),
        ("Come modello linguistico, non ho opinioni.", True),
        ("Non posso venire si traduce \u201cI can't come\u201d.", False),
        ("As an AI language model, I have no taste.", True),
        ("I\u2019m unable to open links.", True),
        ("**I cannot assist** with that.", True),
        ("Es tut mir leid, aber ich kann das nicht.", True),
        ("Lo siento, pero no puedo ayudarte.", True),
        ("Je suis désolé, mais je ne peux pas répondre.", True),
        ("Sinto muito, mas não posso ajudar.", True),
        ("\u00abI'm sorry\u00bb in italiano si dice \u00abmi dispiace\u00bb.", False),
        ("Sono un'insegnante, non un'attrice.", False),
    ],
)
def test_refusals(text: str, refused: bool) -> None:
    assert bool(refusal(text)) is refused


def test_phrases_of_refusals_are_written_as_they_are_compared() -> None:
    for phrases in (*BEGIN.values(), *ANYWHERE.values()):
        assert phrases
        for phrase in phrases:
            assert phrase == " ".join(phrase.lower().split()).replace("\u2019", "'"), phrase
            assert refusal(phrase + " x") != ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<think>Let me see</think> Ciao.", "a thought: <think>"),
        ("### Response:\nCiao, come stai?", "a heading of a prompt: ### Response:"),
        ("### Il congiuntivo\nSi usa così.", ""),
        ("Certo.\nUser: e poi?", "a turn of its own: User:"),
        ("Ciao [Your Name], come va?", "a placeholder: [Your Name]"),
        ("Ciao [il tuo nome], come va?", "a placeholder: [il tuo nome]"),
        ("Dopo [vedi sopra] viene altro.", ""),
        ("Che cos'è un verbo?", "it repeats the question"),
        ("e poi ancora una volta " * 12, "it goes round in circles"),
        ("[INST] Ciao [/INST]", "a special token: [INST]"),
        ("Se a < b e b > c, allora va bene.", ""),
    ],
)
def test_artefacts(text: str, found: str) -> None:
    assert artefact(text, "Che cos'è un verbo?") == found


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("Sì, giusto così, bravo davvero!", ""),
        ("«Ciao» is used with friends, and «buongiorno» with strangers in a shop.", "en"),
        ("La parola inglese «file» si dice file anche in italiano.", ""),
        ("El verbo ser es irregular en el presente, como ya sabes.", "es"),
    ],
)
def test_languages(text: str, other: str) -> None:
    assert other_language(text, "it") == other


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("sapienzanlp/Minerva-3B-base-v1.0", "Qwen/Qwen2.5-3B-Instruct", False),
        ("Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-7B-Instruct", True),
        ("Qwen/Qwen2.5-3B", "qwen2.5:3b", True),
        ("Qwen/Qwen3-4B", "Qwen/QwQ-32B", True),
        ("mistralai/Mistral-7B-v0.1", "sapienzanlp/Minerva-3B-base-v1.0", False),
        ("mistralai/Mistral-7B-v0.1", "mistralai/Mixtral-8x7B-Instruct-v0.1", True),
        ("meta-llama/Llama-3.2-3B-Instruct", "unsloth/Llama-3.2-1B-bnb-4bit", True),
        ("meta-llama/Llama-3.2-3B-Instruct", "llama3.2", True),
        ("meta-llama/Llama-3.2-3B", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", True),
        ("meta-llama/Llama-3.2-3B", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", True),
        ("Qwen/Qwen2.5-3B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", True),
        ("Qwen/Qwen2.5-3B", "gpt-4o-mini", False),
        ("google/gemma-3-4b-it", "claude-sonnet", False),
        ("openai-community/gpt2", "gpt-4o", None),
        ("EleutherAI/gpt-neo-125m", "gpt-4o", None),
        ("org/mymodel", "Qwen/Qwen2.5-3B", None),
        ("org/mymodel", "org/mymodel", True),
        ("", "Qwen/Qwen2.5-3B", None),
        ("org/philosophy-model", "microsoft/Phi-3-mini-4k-instruct", None),
    ],
)
def test_families(one: str, other: str, alike: bool | None) -> None:
    assert family.same({"name_or_path": one}, {"model": other, "kind": "transformers"})[0] is alike
    assert family.same({"name_or_path": other}, {"model": one, "kind": "transformers"})[0] is alike or not one


def test_configs_decide_where_names_are_silent(tmp_path: Path) -> None:
    for name, kind, size in (("a", "llama", 100), ("b", "llama", 100), ("c", "llama", 200), ("d", "mistral", 100)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": kind, "vocab_size": size}))

    def same(one: str, other: str, kind: str = "transformers") -> bool | None:
        return family.same({"name_or_path": str(tmp_path / one)}, {"model": str(tmp_path / other), "kind": kind})[0]

    assert [same("a", other) for other in "abcd"] == [True, True, False, False]
    assert same("a", "b", "openai") is None, "an endpoint's name is no folder of this machine"
    facts = {"architecture": "LlamaForCausalLM", "vocab_size": 100}
    assert family.same(
        {"name_or_path": "org/x", "facts": facts}, {"model": str(tmp_path / "b"), "kind": "transformers"}
    )[0]
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "config.json").write_text(json.dumps({"_name_or_path": "Qwen/Qwen2.5-3B"}))
    assert same("tuned", "a") is None
    found = family.same({"name_or_path": str(tmp_path / "tuned")}, {"model": "Qwen/Qwen2.5-7B", "kind": "openai"})
    assert found == (True, "both are Qwen models")


SETTINGS = {"prompt": "question", "answer": "answer", "group_by": "level"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": " Ciao? ", "level": "A1"}, ("A1", ["user"], None, {"level": "A1"})),
        ({"question": "x", "answer": "y", "level": 2, "id": 7}, ("2", ["user"], "y", {"level": 2, "id": 7})),
        ({"question": "x", "answer": " ", "level": "A1"}, ("A1", ["user"], None, {"level": "A1"})),
        ({"question": "x", "answer": None, "level": "A1", "tags": ["a"]}, ("A1", ["user"], None, {"level": "A1"})),
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "level": "A1"},
            ("A1", ["system", "user"], None, {"level": "A1"}),
        ),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "level": "A1"},
            ("A1", ["user"], "a", {"level": "A1"}),
        ),
        ({"question": [{"role": "user", "content": "q"}], "level": "A1"}, ("A1", ["user"], None, {"level": "A1"})),
        ({"question": "", "level": "A1"}, "its `question` is empty"),
        ({"question": 3, "level": "A1"}, "its `question` is no text"),
        ({"text": "x", "level": "A1"}, "it has no `question` and no `messages`, only `text`, `level`"),
        ({}, "it has no `question` and no `messages`, only nothing"),
        ({"question": "x"}, "it has no `level`, which generate.group_by names"),
        ({"question": "x", "level": ["A1"]}, "it has no `level`, which generate.group_by names"),
        ({"question": "x", "answer": 3, "level": "A1"}, "its `answer` is no text"),
        ({"messages": [], "level": "A1"}, "its `messages` does not end with a question of the user"),
        ({"messages": ["x"], "level": "A1"}, "message 1 of its `messages` has no role that a prompt may have"),
        ({"messages": [{"role": "user"}], "level": "A1"}, "message 1 of its `messages` has no text"),
        (
            {"messages": [{"role": "tool", "content": "x"}], "level": "A1"},
            "message 1 of its `messages` has no role that a prompt may have",
        ),
    ],
)
def test_rows_become_prompts(row: dict[str, Any], expected: Any) -> None:
    if isinstance(expected, str):
        with pytest.raises(BadPrompt) as caught:
            prompt(row, SETTINGS, 0, "p:1")
        assert str(caught.value) == expected
        return
    found = prompt(row, SETTINGS, 0, "p:1")
    assert (found.group, [m["role"] for m in found.messages], found.answer, found.columns) == expected


def asked(n: int, group: str = "A1", **sampling: Any) -> Any:
    settings = {"max_new_tokens": 9, "temperature": 0.5, "top_p": 1.0, "seed": 1, **sampling}
    return question(make(n, f"Domanda {n}", group), {"system": "S {group}", "sampling": settings}, {"model": "m"})


def test_keys_say_what_decides_an_answer() -> None:
    assert asked(1).key == asked(1).key
    assert (
        len({asked(1).key, asked(2).key, asked(1, "B1").key, asked(1, seed=2).key, asked(1, temperature=0.6).key}) == 5
    )
    assert asked(1).messages[0] == {"role": "system", "content": "S A1"}
    assert asked(1, seed=None).seed is None
    assert 0 <= asked(1).seed < 2**31
    own = Prompt(0, "p:1", "A1", ({"role": "system", "content": "mine"}, {"role": "user", "content": "q"}))
    assert question(own, {"system": "S", "sampling": {}}, {"model": "m"}).messages == own.messages


def test_a_ledger_survives_what_happens_to_files(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "out.jsonl"
    with Ledger(output) as first:
        first.add(asked(1), Answer("uno", "stop", 3, 4), True, "")
        first.add(asked(2), Answer(fault="status 500: x"), False, "")
        first.add(asked(3), Answer(fault="status 400: y", lasting=True), False, "")
        first.add(asked(2), Answer("due\u2028\ud800", "length", 1, 2), False, "short")
    path = first.path
    whole = path.read_bytes()
    path.write_bytes(whole + b'\xff\xfe\n[1]\n{"key": 3}\n\n{"key": "x", "text": "no end of line')
    with Ledger(output) as second:
        assert list(second.answers) == [asked(1).key, asked(2).key]
        assert second.answers[asked(1).key] == Answer("uno", "stop", 3, 4)
        assert second.answers[asked(2).key].finish == "length"
        assert list(second.faults) == [asked(3).key]
        assert second.faults[asked(3).key].lasting
        assert second.damaged == 4
        second.add(asked(4), Answer("quattro"), True, "")
    third = Ledger(output)
    third.read()
    assert asked(4).key in third.answers, "a torn line must not swallow the next one"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    made = Ledger(tmp_path / "out.jsonl")
    with made:
        made.add(asked(1), Answer("uno"), True, "")
        kept = made._file
        with open("/dev/full", "ab", buffering=0) as full:
            made._file = full
            with pytest.raises(StorageError) as caught:
                made.add(asked(2), Answer("due"), True, "")
        made._file = kept
    assert caught.value.problems[0].lines() == [
        f"error: cannot write {made.path}: No space left on device",
        "  hint: free some space or mend the permissions; every answer so far is kept, and the same command goes on",
    ]


def test_every_cut_of_a_ledger_keeps_whole_lines(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with Ledger(output) as made:
        for n in range(3):
            made.add(asked(n), Answer(f"risposta è {n}"), True, "")
    whole = made.path.read_bytes()
    for cut in range(len(whole) + 1):
        made.path.write_bytes(whole[:cut])
        again = Ledger(output)
        again.read()
        assert len(again.answers) == whole[:cut].count(b"\n")


def test_a_schedule_never_asks_for_more_than_there_is_room_for() -> None:
    have = {"A1": 1, "B1": 0}
    questions = [asked(n, "A1" if n % 2 == 0 else "B1") for n in range(10)]
    groups = {"": {"target": None}, "A1": {"target": 3}}
    schedule = Schedule(questions, groups, lambda g: have[g], 8)
    assert schedule.left() == {"A1": 2, "B1": 5}
    first = schedule.take(4)
    assert [q.prompt.index for q in first] == [0, 2], "one group a batch, and no more than its room"
    assert [q.prompt.index for q in schedule.take(3)] == [1, 3, 5]
    assert schedule.room("A1") == 0
    schedule.done(first[0])
    have["A1"] += 1
    schedule.done(first[1])  # it was not taken: there is room for another one
    assert [q.prompt.index for q in schedule.take(4)] == [4]
    assert [q.prompt.index for q in schedule.take(4)] == [7, 9]
    assert schedule.take(4) == [], "eight were asked"
    assert (schedule.asked, schedule.in_flight, schedule.waiting("A1")) == (8, 6, 2)
