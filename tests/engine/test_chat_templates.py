# ruff: noqa: E501
"""Which template trains: it renders the model's own text, marks the assistant's words, and ends them with the end of the turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nothing_tune.engine import chat_templates
from nothing_tune.engine.chat_templates import FOLDER, MARKERS, choose, render
from nothing_tune.engine.template_probes import Abilities, abilities
from nothing_tune.errors import UsageError
from tests.engine.support import CHATML, tiny_tokenizer

TURNS = [
    {"role": "user", "content": "alpha please"},
    {"role": "assistant", "content": "beta gamma"},
    {"role": "user", "content": " delta\n"},
    {"role": "assistant", "content": " nothing again "},
]
SYSTEM = [{"role": "system", "content": "Be kind."}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Looks.",
            "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
        },
    }
]
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"type": "function", "id": "abcdefghi", "function": {"name": "look", "arguments": {"at": "it", "n": 2}}}
    ],
}
ANSWER = {"role": "tool", "content": "a cat", "tool_call_id": "abcdefghi"}
PLAIN_CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    + ("{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
)
MISTRAL_V1 = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
    "{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
MISTRAL_V1_SPACED = MISTRAL_V1.replace("+ eos_token}}", "+ eos_token + ' ' }}")
MISTRAL_V1_SYSTEM = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}{%- else %}"
    "{%- set loop_messages = messages %}{%- endif %}{{- bos_token }}{%- for message in loop_messages %}"
    "{%- if message['role'] == 'user' %}{%- if loop.first and system_message is defined %}{{- ' [INST] ' + system_message + '\n\n' + message['content'] + ' [/INST]' }}"
    "{%- else %}{{- ' [INST] ' + message['content'] + ' [/INST]' }}{%- endif %}{%- elif message['role'] == 'assistant' %}"
    "{{- ' ' + message['content'] + eos_token}}{%- endif %}{%- endfor %}"
)
MISTRAL_V3 = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}{%- else %}"
    "{%- set loop_messages = messages %}{%- endif %}{{- bos_token }}{%- for message in loop_messages %}{%- if message['role'] == 'user' %}"
    "{%- if loop.last and system_message is defined %}{{- '[INST] ' + system_message + '\n\n' + message['content'] + '[/INST]' }}{%- else %}"
    "{{- '[INST] ' + message['content'] + '[/INST]' }}{%- endif %}{%- elif message['role'] == 'assistant' %}"
    "{{- ' ' + message['content']|trim + eos_token}}{%- endif %}{%- endfor %}"
)
LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|pad|>")
MISTRAL = ("<s>", "</s>", "[INST]", "[/INST]", "<pad>")
GEMMA = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<pad>")


def trl_template(name: str) -> str:
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def family(name: str) -> tuple[Any, str]:
    """A tokenizer with the special tokens of a family, and the family's own template."""
    if name.startswith("llama"):
        tok = tiny_tokenizer(LLAMA, bos_token=LLAMA[0], eos_token="<|eot_id|>", pad_token="<|pad|>")
        own = trl_template(name.removesuffix("-spaced")) + ("\n" if name.endswith("-spaced") else "")
    elif name.startswith("nemotron"):
        tok = tiny_tokenizer(LLAMA, bos_token=LLAMA[0], eos_token="<|eot_id|>", pad_token="<|pad|>")
        own = (Path(__file__).parent / "families" / f"{name}.jinja").read_text(encoding="utf-8")
    elif name.startswith("qwen"):
        tok = tiny_tokenizer()
        own = trl_template(name.removesuffix("-spaced")) + ("{# #}" if name.endswith("-spaced") else "")
    elif name.startswith("mistral"):
        tok = tiny_tokenizer(MISTRAL, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
        own = globals()[name.upper()]
    elif name.startswith("gemma"):
        tok = tiny_tokenizer(GEMMA, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
        own = trl_template(name.removesuffix("-changed"))
        if name.endswith("-changed"):
            own = own.replace("Conversation roles must alternate", "Roles must alternate")
    else:
        tok = tiny_tokenizer()
        own = PLAIN_CHATML
    tok.chat_template = own
    return tok, own


FAMILIES = {
    "llama3": "trl", "llama3-spaced": "llama3", "llama3_1": "llama3_1", "llama3_2": "llama3_2", "mistral_v1": "mistral_v1",
    "mistral_v1_spaced": "mistral_v1_spaced", "mistral_v1_system": "mistral_v1_system", "mistral_v3": "mistral_v3", "gemma": "trl",
    "gemma-changed": "gemma", "gemma3": "trl", "gemma3-changed": "gemma3", "chatml": "chatml", "nemotron_nano": "nemotron_nano",
    "qwen2_5": "trl", "qwen2_5-spaced": "trl",
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_trains_with_its_own_text_and_the_end_of_the_turn(name: str) -> None:
    tok, own = family(name)
    choice = choose(tok, None, conversational=True, masked=True, date="26 Jul 2024")
    assert (choice.source, choice.own, choice.added) == (FAMILIES[name], own, ())
    training = choice.text
    assert training
    assert MARKERS.search(training)
    for row in ({"messages": TURNS}, {"messages": TURNS[:1]}, {"messages": SYSTEM + TURNS}):
        expected = render(tok, own.replace('strftime_now("%d %b %Y")', '"26 Jul 2024"'), row)
        if expected is not None:
            assert render(tok, training, row) == expected
    out = tok.apply_chat_template(TURNS, chat_template=training, return_dict=True, return_assistant_tokens_mask=True)
    learned = [i for i, m in zip(out["input_ids"], out["assistant_masks"], strict=True) if m]
    text = tok.decode(learned)
    end = {"llama": "<|eot_id|>", "mistr": "</s>", "gemma": "<end_of_turn>", "nemot": "<|eot_id|>"}.get(
        name[:5], "<|im_end|>"
    )
    assert text.count(end) == 2
    assert "beta gamma" in text
    assert "nothing again" in text
    assert "alpha" not in text
    assert "delta" not in text


@pytest.mark.parametrize("name", ["llama3_1", "llama3_2"])
def test_llama_tool_calls_render_alike_and_only_the_call_is_learned(name: str) -> None:
    tok, own = family(name)
    training = choose(tok, None, conversational=True, masked=True, date="26 Jul 2024").text
    assert training
    row = {"messages": [*TURNS[:1], CALL, {**ANSWER, "role": "tool"}, TURNS[1]], "tools": TOOLS}
    assert render(tok, training, row) == render(tok, own.replace('strftime_now("%d %b %Y")', '"26 Jul 2024"'), row)
    out = tok.apply_chat_template(
        row["messages"], tools=TOOLS, chat_template=training, return_dict=True, return_assistant_tokens_mask=True
    )
    text = tok.decode([i for i, m in zip(out["input_ids"], out["assistant_masks"], strict=True) if m])
    assert '"parameters"' in text
    assert "cat" not in text
    assert text.count("<|eot_id|>") == 2
    assert "Given the following" not in text


def test_every_template_of_ours_is_tried() -> None:
    assert sorted(p.stem for p in FOLDER.glob("*.jinja")) == sorted({s for s in FAMILIES.values() if s != "trl"})


def test_the_models_own_markers_win() -> None:
    tok = tiny_tokenizer()
    tok.chat_template = CHATML
    choice = choose(tok, None, conversational=True, masked=True)
    assert (choice.text, choice.own, choice.source) == (CHATML, CHATML, "the model")


def test_a_base_without_a_template_gets_chatml_and_its_tokens() -> None:
    tok = tiny_tokenizer(("<|pad|>", "<|endoftext|>"), pad_token="<|pad|>", eos_token="<|endoftext|>")
    before = len(tok)
    choice = choose(tok, None, conversational=True, masked=True)
    assert choice.added == ("<|im_start|>", "<|im_end|>")
    assert len(tok) == before + 2
    assert tok.eos_token == "<|im_end|>"
    assert choice.own
    assert not MARKERS.search(choice.own)
    assert render(tok, choice.own, {"messages": SYSTEM + TURNS}) == render(
        tok, PLAIN_CHATML, {"messages": SYSTEM + TURNS}
    )


def test_chatml_writes_tools_and_calls() -> None:
    tok = tiny_tokenizer()
    text = render(
        tok, (FOLDER / "chatml.jinja").read_text(), {"messages": [TURNS[0], CALL, ANSWER, TURNS[1]], "tools": TOOLS}
    )
    assert text is not None
    assert text.startswith("<|im_start|>system\n<tools>\n{")
    assert (
        '<tool_call>\n{"arguments": {"at": "it", "n": 2}, "name": "look"}\n</tool_call><|im_end|>' in text
        or '"name": "look"' in text
    )


def test_an_unknown_template_is_a_clear_error() -> None:
    tok = tiny_tokenizer()
    tok.chat_template = "{% for m in messages %}{{ '# ' + m['role'] + '\n' + m['content'] + '\n\n' }}{% endfor %}"
    with pytest.raises(UsageError, match="none of ours renders the same text") as caught:
        choose(tok, None, conversational=True, masked=True)
    assert "assistant_only_loss=false" in caught.value.problems[0].hint
    assert choose(tok, None, conversational=True, masked=False).text == tok.chat_template


def test_a_template_that_never_learns_to_stop_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.jinja"
    path.write_text(
        CHATML.replace(
            "{{ m['content'] + '<|im_end|>' }}{% endgeneration %}",
            "{{ m['content'] }}{% endgeneration %}{{ '<|im_end|>' }}",
        )
    )
    tok = tiny_tokenizer()
    with pytest.raises(UsageError, match="would not learn to stop"):
        choose(tok, str(path), conversational=True, masked=True)
    with pytest.raises(UsageError, match="no chat template at"):
        choose(tok, str(tmp_path / "none.jinja"), conversational=True, masked=True)


def test_rows_decide_where_probes_agree() -> None:
    tok, own = family("mistral_v3")
    other = own.replace("|trim", "")
    assert not chat_templates.same(tok, own, other, [{"messages": TURNS}])


def test_the_day_in_llama_3_2_is_the_day_the_run_was_made() -> None:
    tok, _ = family("llama3_2")
    training = choose(tok, None, conversational=True, masked=True, date="03 Mar 2025").text
    assert training
    assert "Today Date: 03 Mar 2025" in (render(tok, training, {"messages": TURNS}) or "")


PHI = "{% for m in messages %}{% if m['role'] in ['user', 'assistant'] %}{{ '<' + m['role'] + '>' + m['content'] }}{% endif %}{% endfor %}"
SHOWN = {
    # a template, whether it shows tools, the roles it shows, whether calls need ids
    "chatml.jinja": ("template", {"system", "developer", "tool"}, False),
    "mistral_v3.jinja": ("template", {"tool"}, True),
    "llama3_1.jinja": ("template", {"system", "developer", "tool"}, False),
    "gemma.jinja": ("text", set(), False),
    "plain chatml": ("text", {"system", "developer", "tool"}, False),
    "passes over all but user and assistant": ("text", set(), False),
    "functions ignored": ("text", {"system", "developer", "tool"}, False),
    "calls ignored": ("text", {"system", "developer", "tool"}, False),
    "calls not learned": ("text", {"system", "developer", "tool"}, False),
    "results ignored": ("text", {"system", "developer"}, False),
    "results learned": ("text", {"system", "developer"}, False),
}


def shown(name: str) -> str:
    text = (FOLDER / "chatml.jinja").read_text(encoding="utf-8")
    call = "{%- for call in message['tool_calls'] or [] %}"
    changed = {
        "plain chatml": CHATML,
        "passes over all but user and assistant": PHI,
        "functions ignored": text.replace("and tools", "and false"),
        "calls ignored": text.replace(call, "{%- for call in [] %}"),
        "calls not learned": text.replace(call, "{%- endgeneration %}" + call).replace(
            "{{- '<|im_end|>' }}\n        {%- endgeneration %}",
            "{%- generation %}{{- '<|im_end|>' }}{%- endgeneration %}",
        ),
        "results ignored": text.replace("{%- else %}\n", "{%- elif message['role'] != 'tool' %}\n"),
        "results learned": text.replace(
            "{%- if message['role'] == 'assistant' %}", "{%- if message['role'] in ['assistant', 'tool'] %}"
        ),
    }
    assert name.endswith(".jinja") or changed[name] != text
    return changed.get(name) or (FOLDER / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SHOWN)
def test_what_a_template_shows_is_found_out(name: str) -> None:
    tok = tiny_tokenizer((*LLAMA, *MISTRAL, "<|im_end|>"), bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    template = shown(name)
    tools, roles, ids = SHOWN[name]
    assert abilities(tok, template, masked=bool(MARKERS.search(template))) == Abilities(tools, frozenset(roles), ids)


def test_tools_that_only_the_training_version_shows_are_text() -> None:
    """The model's own template answers later: what it would not show must not be learned in that form."""
    tok, own = family("chatml")
    row = {"messages": [TURNS[0], CALL, ANSWER, TURNS[1]], "tools": TOOLS}
    choice = choose(tok, None, conversational=True, masked=True, rows=[row])
    assert (choice.own, choice.source, choice.tools) == (own, "chatml", "text")
    assert abilities(tok, choice.text or "", masked=True).tools == "template"


def test_a_template_with_a_version_for_tools_gives_that_to_rows_with_tools() -> None:
    tok = tiny_tokenizer()
    with_tools = (FOLDER / "chatml.jinja").read_text(encoding="utf-8")
    tok.chat_template = {"default": CHATML, "tool_use": with_tools}
    row = {"messages": TURNS, "tools": TOOLS}
    assert choose(tok, None, conversational=True, masked=True, rows=[row]).text == with_tools
    assert choose(tok, None, conversational=True, masked=True).text == CHATML


@pytest.mark.parametrize("masked", [True, False])
def test_the_text_that_trains_is_always_told_and_its_day_is_fixed(masked: bool) -> None:
    for name in FAMILIES:
        tok, own = family(name)
        choice = choose(tok, None, conversational=True, masked=masked, date="03 Mar 2025")
        assert choice.text is not None
        assert "strftime_now(" not in choice.text
        row = {"messages": TURNS}
        assert render(tok, choice.text, row) == render(
            tok, own.replace('strftime_now("%d %b %Y")', '"03 Mar 2025"'), row
        )


def test_chatml_begins_as_the_tokenizer_begins_every_text() -> None:
    from tokenizers import processors

    tok = tiny_tokenizer(("<s>", "</s>"), bos_token="<s>", eos_token="</s>", pad_token="</s>")
    assert not (choose(tok, "chatml", conversational=True, masked=True).own or "").startswith("{{- bos_token }}")
    tok = tiny_tokenizer(("<s>", "</s>"), bos_token="<s>", eos_token="</s>", pad_token="</s>")
    tok.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tok.bos_token_id)]
    )
    choice = choose(tok, "chatml", conversational=True, masked=True)
    ids = tok.apply_chat_template(TURNS, chat_template=choice.own)["input_ids"]
    assert ids[0] == tok.bos_token_id
    assert ids.count(tok.bos_token_id) == 1


def test_a_template_that_takes_arguments_only_as_text_shows_tools_where_the_training_version_takes_mappings() -> None:
    tok = tiny_tokenizer(eos_token="<|im_end|>", pad_token="<|pad|>")
    ours = (FOLDER / "chatml.jinja").read_text(encoding="utf-8")
    tok.chat_template = MARKERS.sub("", ours).replace("call.function.arguments}", "call.function.arguments + ''}")
    assert tok.chat_template != MARKERS.sub("", ours)
    assert abilities(tok, tok.chat_template).tools == "text"
    assert abilities(tok, tok.chat_template, written=True).tools == "template"
    assert choose(tok, None, conversational=True, masked=True).tools == "template"
    assert choose(tok, None, conversational=True, masked=False).tools == "text"


def test_a_template_that_is_not_jinja(tmp_path: Path) -> None:
    broken = "{% for m in messages %}\n{{ m.content }{% endfor %}"
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = broken
    tokenizer.save_pretrained(tmp_path / "model")
    tokenizer.name_or_path = str(tmp_path / "model")
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}{% endif %}")
    endif = "Encountered unknown tag 'endif'. Jinja was looking for the following tags: 'endfor' or 'else'. The innermost block that needs to be closed is 'for'."
    own = "the model's chat template is not Jinja:"
    mine = "mend it, or set data.chat_template to chatml"
    other = f"{mine} or to a file of your own"
    for masked in (True, False):
        for wanted, what, hint in (
            (None, f"{own} {tmp_path}/model/chat_template.jinja:2: unexpected '}}'", other),
            (str(file), f"the chat template is not Jinja: {file}:1: {endif}", mine),
        ):
            tokenizer.chat_template = broken
            with pytest.raises(UsageError) as caught:
                choose(tokenizer, wanted, True, masked)
            told = caught.value.problems[0]
            assert (told.what, told.key, told.hint) == (what, "data.chat_template", hint)
    tokenizer.name_or_path, tokenizer.chat_template = "org/name", broken
    with pytest.raises(UsageError, match=r"is not Jinja: line 2: unexpected '}'"):
        choose(tokenizer, None, True, True)
