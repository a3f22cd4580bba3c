"""Reads a GGUF file with llama.cpp, as a server does: what it answers, how it makes tokens, where it stops."""

from __future__ import annotations

import contextlib
import importlib.util
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from nothing_tune.engine.export import stops
from nothing_tune.engine.export.proof import texts
from nothing_tune.engine.export.proof.checks import check, unknown
from nothing_tune.engine.export.proof.prompts import TEXTS, Prompt, rendered

SPARE = 64
"""Tokens of context beyond the longest prompt."""


def installed() -> bool:
    """Whether llama.cpp's library is there."""
    return importlib.util.find_spec("llama_cpp") is not None


@contextlib.contextmanager
def opened(file: Path, context: int, adapter: Path | None = None) -> Iterator[Any]:
    """The model of a GGUF file on the CPU, every token's logits kept; `adapter` is a LoRA GGUF.

    Raises:
        ValueError: llama.cpp does not take the file.
    """
    from llama_cpp import Llama

    found = Llama(
        model_path=str(file), n_ctx=context, n_batch=min(context, 512), n_ubatch=min(context, 512), logits_all=True, n_gpu_layers=0,
        n_threads=torch.get_num_threads(), n_threads_batch=torch.get_num_threads(),
        lora_path=str(adapter) if adapter else None, verbose=False,
    )  # fmt: skip
    try:
        yield found
    finally:
        found.close()


def context(prompts: Sequence[Prompt]) -> int:
    """Tokens that must fit."""
    return max(len(p.ids) for p in prompts) + 2 * SPARE


def log_probabilities(model: Any, prompts: Sequence[Prompt]) -> torch.Tensor:
    """What the model says after each place of each prompt, as `models.log_probabilities`."""
    rows = []
    for prompt in prompts:
        model.reset()
        model.eval(list(prompt.ids))
        logits = torch.from_numpy(model.scores[: len(prompt.ids)].copy())[list(prompt.places)]
        rows.append(torch.log_softmax(logits.float(), -1))
    return torch.cat(rows)


def answer(model: Any, prompt: Prompt, tokens: int) -> list[int]:
    """The greedy answer to the beginning of a prompt, until llama.cpp itself would stop."""
    model.reset()
    ids = list(prompt.ids[: prompt.answer])
    out: list[int] = []
    while len(out) < tokens:
        model.eval(ids)
        token = int(model.scores[model.n_tokens - 1].argmax())
        out.append(token)
        if stops_at(model, token):
            break
        ids = [token]
    return out


def stops_at(model: Any, token: int) -> bool:
    """Whether llama.cpp ends an answer at `token`."""
    import llama_cpp

    return bool(llama_cpp.llama_vocab_is_eog(model._model.vocab, token))


def surroundings(model: Any, tokenizer: Any, end: float | None) -> list[dict[str, Any]]:
    """The checks of tokens, beginning, template and end tokens against `tokenizer`, the exported one."""
    return [
        _tokens(model, tokenizer),
        _beginning(model, tokenizer),
        _template(model, tokenizer),
        _ends(model, tokenizer, end),
    ]


def _tokens(model: Any, tokenizer: Any) -> dict[str, Any]:
    name = "tokens"
    special = "".join(f"a{word} b" for word in dict.fromkeys(tokenizer.all_special_tokens))
    cases = [
        *TEXTS,
        *([special] if special else []),
        *(text for _, _, text in texts.chats(tokenizer, stops.own_template(tokenizer))),
    ]
    loose = 0
    for text in cases:
        theirs = tokenizer(text, add_special_tokens=False)["input_ids"]
        ours = model.tokenize(text.encode(), add_bos=False, special=True)
        if ours == theirs:
            continue
        composed = unicodedata.normalize("NFC", text)
        if composed != text and model.tokenize(composed.encode(), add_bos=False, special=True) == theirs:
            loose += 1
            continue
        place = next(
            (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
        )
        what = f"llama.cpp makes other tokens of {text[:20]!r} than the tokenizer, from token {place + 1} on"
        return check(name, False, what)
    note = "; letters with separate accents must be composed first (NFC), which llama.cpp does not do" if loose else ""
    return check(name, True, f"llama.cpp makes the same tokens of {len(cases) - loose} texts{note}")


def _beginning(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Whether a text, and a conversation as a server reads it, begin with BOS just where the tokenizer puts it."""
    name, word = "beginning", "Hello"
    bare = tokenizer(word, add_special_tokens=False)["input_ids"]
    wanted = _before(tokenizer(word)["input_ids"], bare)
    added = _before(model.tokenize(word.encode(), add_bos=True, special=True), bare)
    chats = texts.chats(tokenizer, stops.own_template(tokenizer))
    written: list[int] | None = None
    for _, _, text in chats[:4]:
        theirs = tokenizer(text, add_special_tokens=False)["input_ids"]
        if theirs[:1] == theirs[1:2] == [tokenizer.bos_token_id]:
            return check(name, False, "the chat template writes the BOS twice")
        body = model.tokenize(text.encode(), add_bos=False, special=True)
        # a server leaves out the BOS that the template wrote where it adds one itself
        ours = body if added and body[: len(added)] == added else [*added, *body]
        if ours[:2] != theirs[:2]:
            what = (
                "with one BOS too many"
                if ours[1:3] == theirs[:2]
                else "without the BOS"
                if ours[:1] == theirs[1:2]
                else "otherwise"
            )
            return check(name, False, f"a conversation begins {what} in llama.cpp, unlike with the tokenizer")
        written = theirs[:1] if theirs[:1] == [tokenizer.bos_token_id] else []
    if added != wanted and not (written == [] and not added):
        what = (
            "has one BOS too many" if len(added) > len(wanted) else "lacks the BOS" if not added else "begins otherwise"
        )
        return check(name, False, f"a plain text {what} in llama.cpp, unlike with the tokenizer")
    if added != wanted:
        return check(
            name,
            True,
            "a conversation begins as with the tokenizer; a plain text has no BOS, as the chat template writes none",
        )
    return check(name, True, "a text and a conversation begin in llama.cpp as with the tokenizer")


def _before(ids: Sequence[int], body: Sequence[int]) -> list[int]:
    """What stands before `body` in `ids`; all of it where it is not found."""
    ids, body = list(ids), list(body)
    return next((ids[:i] for i in range(len(ids)) if ids[i : i + len(body)] == body), ids)


def _template(model: Any, tokenizer: Any) -> dict[str, Any]:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    name = "chat-template"
    own = stops.own_template(tokenizer)
    inside = model.metadata.get("tokenizer.chat_template")
    if not own:
        what = (
            "the file has a chat template, the tokenizer has none"
            if inside
            else "there is no chat template, as with the tokenizer"
        )
        return check(name, not inside, what)
    if not inside:
        return check(name, False, "the file has no chat template")
    bos, eos = (_word(model, i) for i in (model.token_bos(), model.token_eos()))
    cases = texts.chats(tokenizer, own)
    for row, prompt, text in cases:
        if rendered(tokenizer, inside, row, prompt) != text:
            return check(name, False, "the file's chat template renders a conversation otherwise than the tokenizer's")
        try:
            form = Jinja2ChatFormatter(inside, eos_token=eos, bos_token=bos, add_generation_prompt=prompt)
            said = form(messages=row["messages"], **({"tools": row["tools"]} if row.get("tools") else {})).prompt
        except Exception as error:  # a template raises whatever it likes
            return check(name, False, f"llama.cpp's reader of templates refuses the file's: {type(error).__name__}")
        if said != text:
            return check(name, False, "llama.cpp renders a conversation otherwise than the tokenizer")
    return check(name, True, f"llama.cpp renders {len(cases)} conversations as the tokenizer does")


def _ends(model: Any, tokenizer: Any, end: float | None) -> dict[str, Any]:
    name = "stop-tokens"
    known = stops.stops(tokenizer)
    declared = int(model.metadata.get("tokenizer.ggml.eos_token_id", -1))
    pad = tokenizer.pad_token_id
    if declared >= 0 and declared == pad and pad not in known:
        return check(name, False, f"the file's end token is the padding {_word(model, declared)}")
    if known and not stops_at(model, known[0]):
        return check(name, False, f"llama.cpp does not stop at {_word(model, known[0])}, which ends an answer")
    if not known:
        return unknown(name, "neither the chat template nor the tokenizer has a token that ends an answer")
    if pad is not None and pad not in known and stops_at(model, pad):
        # llama.cpp takes some tokens for ends by their names, <|endoftext|> among them
        return check(
            name,
            True,
            f"llama.cpp stops at {_word(model, known[0])}, and at the padding {_word(model, pad)} for its name",
        )
    return texts.stop_tokens(tokenizer, [i for i in range(len(tokenizer)) if stops_at(model, i)], "the file", end)


def _word(model: Any, token: int) -> str:
    import llama_cpp

    if token < 0:
        return ""
    return str(llama_cpp.llama_vocab_get_text(model._model.vocab, token).decode("utf-8", "replace"))
