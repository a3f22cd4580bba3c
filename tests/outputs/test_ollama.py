"""The Modelfile, and the Go template's text: written, read again, and what cannot be written."""

from __future__ import annotations

import pytest

from nothing_tune.errors import UsageError
from nothing_tune.outputs import go_template, ollama
from nothing_tune.outputs.go_template import Pieces

CHATML = Pieces(
    "<s>", "<|im_start|>system\nBe nice.<|im_end|>\n", "own", ("<|im_start|>system\n", "<|im_end|>\n"),
    ("<|im_start|>user\n", "<|im_end|>\n"), ("<|im_start|>assistant\n", "<|im_end|>\n"), "<|im_start|>assistant\n",
)  # fmt: skip


def test_a_modelfile() -> None:
    text = ollama.modelfile(
        "../gguf/x-q8_0.gguf", CHATML, ["<|im_end|>", "\n### User"], "Be brief.", {"num_ctx": 1024, "temperature": 0.7},
        notes=["x"], comments={"num_ctx": "trained on 1,024"},
    )  # fmt: skip
    assert text.startswith(
        '# x\nFROM ../gguf/x-q8_0.gguf\nTEMPLATE """{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n'
    )
    assert text.endswith(
        'SYSTEM "Be brief."\nPARAMETER stop "<|im_end|>"\nPARAMETER stop """\n### User"""\n# trained on 1,024\n'
        "PARAMETER num_ctx 1024\nPARAMETER temperature 0.7\n"
    )
    found = ollama.parse(text)
    assert [name for name, _ in found] == ["from", "template", "system", "stop", "stop", "num_ctx", "temperature"]
    assert "<s>" not in text  # the GGUF has the BOS token added
    assert ollama.parse(ollama.modelfile("x", CHATML, [], adds_bos=False))[1][1].startswith("<s>{{ if .System }}")
    assert ollama.modelfile("x", None, []) == "FROM x\n"


def test_texts_survive_quoting_or_are_refused() -> None:
    for text in (
        "plain",
        'He said "no".\nThen "yes".',
        'ends in "',
        '"""start',
        " spaces ",
        "a\nb\n",
        "# no comment",
        "tab\there",
    ):
        assert ollama.parse(f"FROM x\nSYSTEM {ollama.quoted(text, 'x', always=True)}\n") == [
            ("from", "x"),
            ("system", text),
        ]
    for text, why in (
        ('a"""\nb"\nc', "a line of it ends with quotation marks"), ("no\u00a0break", "it drops '\\xa0'"), ("\x07", "it drops '\\x07'"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="a Modelfile cannot hold the system prompt as it is") as told:
            ollama.modelfile("x", None, [], text)
        assert told.value.problems[0].what.endswith(why)
    for parameters, what in (
        ({"num_ctxt": 1}, "num_ctxt is no parameter of a Modelfile"),
        ({"num_ctx": 1.5}, "the Modelfile's num_ctx is 1.5, it takes a whole number"),
        ({"temperature": True}, "the Modelfile's temperature is True, it takes a number"),
        ({"stop": "x"}, "stop is no parameter of a Modelfile"),
    ):  # fmt: skip
        with pytest.raises(UsageError) as told:
            ollama.modelfile("x", None, [], None, parameters)
        assert told.value.problems[0].what == what


def test_the_grammar() -> None:
    text = '# c\nfrom llama3\n\nPARAMETER temperature 1\r\nMESSAGE user "Hi\nyou"\nLICENSE """\nMIT\n"""\nADAPTER ./a.gguf\n'
    assert ollama.parse(text) == [
        ("from", "llama3"), ("temperature", "1"), ("message", "user: Hi\nyou"), ("license", "\nMIT\n"), ("adapter", "./a.gguf"),
    ]  # fmt: skip
    for wrong, why in (
        ("SYSTEM x\n", "the Modelfile has no FROM line"), ("FROM x\nTOOLS y\n", "line 2 of the Modelfile: 'TOOLS' is no instruction"),
        ('FROM x\nSYSTEM "y\n', "line 2 of the Modelfile: a quotation mark is never closed"),
        ("FROM x\nMESSAGE robot hi\n", "line 2 of the Modelfile: 'robot' is no role"),
        ("FROM", "line 1 of the Modelfile: an instruction, a space and its value are expected"),
    ):  # fmt: skip
        with pytest.raises(UsageError) as told:
            ollama.parse(wrong)
        assert told.value.problems[0].what == why


def test_what_go_would_read_is_escaped() -> None:
    assert go_template.text("<|im_end|>\n{x}") == "<|im_end|>\n{x}"
    assert go_template.text("{{x}}") == '{{ "{" }}{{ "{" }}x{{ "}" }}{{ "}" }}'
    assert go_template.text("a\u00a0b") == 'a{{ "\\u00a0" }}b'
    assert '"""' not in go_template.text('say """')


def test_rendering_as_ollama_does() -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    whole = "<s><|im_start|>system\nBe nice.<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb"
    assert go_template.rendered(CHATML, talk) == whole  # the answer goes on
    assert go_template.rendered(CHATML, [*talk, talk[0]]).endswith(
        "b<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    )
