"""Answers that are generated for the turns of rows, and what is measured of each: right, readable, ended, long, repetitive."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from nothing_tune.engine import tool_text
from nothing_tune.engine.evaluate import calls
from nothing_tune.engine.evaluate.calls import Call, Syntax
from nothing_tune.engine.evaluate.loss import autocast
from nothing_tune.engine.evaluate.rows import Row
from nothing_tune.engine.failures import out_of_memory
from nothing_tune.engine.prepare.tokens import Encoder
from nothing_tune.errors import OutOfMemory
from nothing_tune.plan.model import Plan

TOKENS = {"cuda": 65_536, "cpu": 8_192}
"""Tokens of a batch with what is generated, padding included."""
MOST_AT_ONCE = 64
REPEATED, DISTINCT = 4, 2
"""Lengths of the runs of tokens that are counted: seq-rep-4 of Welleck et al. 2020, distinct-2 of Li et al. 2016."""
LIMITS = (64, 512)
"""Least and most new tokens where nobody says how many: between them the longest reference, half as long again."""


@dataclass(frozen=True)
class Turn:
    """One answer that is asked for.

    Attributes:
        row: Number of its row.
        number: Which of the row's answers it is, from 1.
        prompt: Tokens of all before it, up to where the answer begins.
        messages: The same as messages, for people and judges; a text is one user message.
        content: What the reference says, calls taken out.
        calls: The reference's calls.
        length: Tokens of the reference, its end left out.
        written: The reference as the template writes it, its end left out.
        tools: Whether the row brings functions.
    """

    row: int
    number: int
    prompt: list[int]
    messages: list[dict[str, Any]]
    content: str
    calls: list[Call]
    length: int
    written: str
    tools: bool = False


@dataclass(frozen=True)
class Answer:
    """What was generated: tokens without the end, the text without special tokens and with them, and whether it ended by itself."""

    ids: list[int]
    text: str
    raw: str
    ended: bool


@dataclass
class Turns:
    """The answers to ask for, and how many could not be asked.

    Attributes:
        turns: Those that are asked.
        unfit: Turns whose prompt leaves no room in the model's context, or that the template refuses.
    """

    turns: list[Turn] = field(default_factory=list)
    unfit: int = 0


def of_rows(rows: Sequence[Row], encoder: Encoder, known: Syntax) -> Turns:
    """Every answer of the assistant that the rows teach (`weight` is not 0), with the words before it as they stand in the row.

    Rows of plain text have none: nobody asks and nobody answers.
    """
    out = Turns()
    for number, row in enumerate(rows):
        for turn in _turns(number, row.value or {}, encoder, known):
            if turn is None:
                out.unfit += 1
            else:
                out.turns.append(turn)
    return out


def most_new_tokens(turns: Sequence[Turn]) -> int:
    """A limit for what is generated, made of the references."""
    longest = max((turn.length for turn in turns), default=0)
    return min(max(math.ceil(longest * 1.5 / 64) * 64, LIMITS[0]), LIMITS[1])


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    ends: Sequence[int],
    limit: int,
    plan: Plan,
    done: Callable[[int], None] = lambda _: None,
) -> list[Answer]:
    """The likeliest answer to each prompt, token by token (greedy), several at once, the longest prompts first.

    Args:
        prompts: Token ids; padded on the left.
        ends: Ids that end an answer.
        limit: New tokens at most.
        done: Told how many are answered.

    Raises:
        OutOfMemory: One prompt alone does not fit.
    """
    from transformers import GenerationConfig

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends[0] if ends else 0)
    settings = GenerationConfig(
        max_new_tokens=limit, do_sample=False, num_beams=1, repetition_penalty=1.0, no_repeat_ngram_size=0,
        eos_token_id=list(ends) or None, pad_token_id=pad, use_cache=True,
    )  # fmt: skip
    out: dict[int, Answer] = {}
    waiting = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    device = model.device
    room = TOKENS.get(device.type, TOKENS["cpu"])
    while waiting:
        wide = len(prompts[waiting[0]])
        batch = waiting[: min(max(room // (wide + limit), 1), MOST_AT_ONCE)]
        ids = torch.tensor([[pad] * (wide - len(prompts[i])) + list(prompts[i]) for i in batch], device=device)
        mask = torch.tensor([[0] * (wide - len(prompts[i])) + [1] * len(prompts[i]) for i in batch], device=device)
        try:
            with torch.inference_mode(), autocast(plan, device):
                made = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        except Exception as error:
            if not out_of_memory(error):
                raise
            if len(batch) == 1:
                raise OutOfMemory(
                    f"out of memory with one prompt of {wide:,} tokens",
                    hint="lower --max-new-tokens, or add --no-generate",
                ) from error
            if device.type == "cuda":
                torch.cuda.empty_cache()
            room = (wide + limit) * (len(batch) // 2)
            continue
        for index, row in zip(batch, made[:, -(made.shape[1] - wide) :].tolist(), strict=True):
            out[index] = _answer(row, ends, tokenizer)
        waiting = waiting[len(batch) :]
        done(len(out))
    return [out[i] for i in range(len(prompts))]


def measures(turn: Turn, answer: Answer, known: Syntax) -> dict[str, float]:
    """What is measured of one answer, by the names of `outputs.evaluation.METRICS`; what does not concern it is not there."""
    text = answer.text
    found = calls.read(answer.raw, known)
    if not (found.calls or found.broken):
        found = calls.read(answer.text, known)
    called = list(found.calls)
    same_calls = calls.same(called, turn.calls, known.kind != "parameters")
    if turn.calls and known.kind == "unknown":
        same_calls = even(answer.raw) == even(turn.written)
    words = found.words if called else text
    out: dict[str, float] = {
        "exact_match": float(even(words) == even(turn.content) and (same_calls if turn.calls else not called)),
        "ended": float(answer.ended),
        "length": float(len(answer.ids)),
        "repetition": repetition(answer.ids, REPEATED),
    }
    if turn.length:
        out["length_ratio"] = len(answer.ids) / turn.length
    if len(answer.ids) >= DISTINCT:
        out["distinct_2"] = 1 - repetition(answer.ids, DISTINCT)
    if turn.calls:
        names = sorted(c.name for c in called) == sorted(c.name for c in turn.calls)
        out["call_match"] = float(same_calls and not found.broken)
        if known.kind != "unknown":
            out["call_names"] = float(names)
            out["call_format"] = float(bool(called) and not found.broken)
    else:
        if turn.tools:
            out["needless_calls"] = float(bool(called) or found.broken)
        reference = structure(turn.content)
        if reference is not None:
            mine = structure(text)
            out["json_format"] = float(mine is not None)
            out["json_match"] = float(mine is not None and calls.equal(mine, reference))
    return out


def even(text: str) -> str:
    """`text` in Unicode's form NFC, runs of white space as one space, none at the ends; upper and lower case count."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def structure(text: str) -> Any:
    """The JSON object or list that `text` is; None where it is none (a bare number or word is no structure)."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None


def repetition(ids: Sequence[int], length: int) -> float:
    """Share of the runs of `length` tokens that came before in `ids`, 0 to 1; 0 where there is none."""
    runs = [tuple(ids[i : i + length]) for i in range(len(ids) - length + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _answer(row: Sequence[int], ends: Sequence[int], tokenizer: Any) -> Answer:
    at = next((i for i, token in enumerate(row) if token in ends), None)
    ids = list(row if at is None else row[:at])
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    raw = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return Answer(ids, text.strip(), raw.strip(), at is not None)


def _turns(number: int, value: Mapping[str, Any], encoder: Encoder, known: Syntax) -> Iterator[Turn | None]:
    if "messages" in value:
        said, first = list(value["messages"]), 0
    elif isinstance(value.get("prompt"), list):
        said, first = [*value["prompt"], *value["completion"]], len(value["prompt"])
    elif "prompt" in value:
        yield _of_text(number, value, encoder, known)
        return
    else:
        return
    count = 0
    for place, message in enumerate(said):
        if message["role"] != "assistant":
            continue
        count += 1
        if place >= max(first, 1) and message.get("weight", 1) != 0:
            yield _of_messages(number, count, said[:place], message, value, encoder, known)


def _of_messages(
    number: int,
    count: int,
    before: list[dict[str, Any]],
    message: Mapping[str, Any],
    value: Mapping[str, Any],
    encoder: Encoder,
    known: Syntax,
) -> Turn | None:
    try:
        head = _rendered(before, value, encoder, True)
        whole = _rendered([*before, dict(message)], value, encoder, False)
    except Exception:  # a template raises whatever it likes
        return None
    content, made = calls.of_message(message, known)
    tokenizer = encoder.tokenizer
    written = whole[len(head) :] if whole.startswith(head) else content
    ids = tokenizer(written, add_special_tokens=False)["input_ids"]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | set(
        tokenizer.all_special_ids
    )
    while ids and (ids[-1] in special or not tokenizer.decode(ids[-1:]).strip()):
        ids.pop()
    clean = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    prompt = tokenizer(head, add_special_tokens=False)["input_ids"]
    return Turn(number, count, prompt, before, content, made, len(ids), clean, bool(value.get("tools")))


def _of_text(number: int, value: Mapping[str, Any], encoder: Encoder, known: Syntax) -> Turn:
    tokenizer = encoder.tokenizer
    prompt = list(tokenizer(value["prompt"])["input_ids"])
    if len(prompt) > 1 and prompt[-1] == tokenizer.eos_token_id:
        prompt.pop()
    content, made = calls.of_message({"content": value["completion"]}, known)
    length = len(tokenizer(value["completion"], add_special_tokens=False)["input_ids"])
    said = [{"role": "user", "content": value["prompt"]}]
    return Turn(number, 1, prompt, said, content, made, length, value["completion"])


def _rendered(messages: list[dict[str, Any]], row: Mapping[str, Any], encoder: Encoder, prompt: bool) -> str:
    """As `prepare` renders for the training, with the mark where an answer begins for `prompt`."""
    from transformers.utils.chat_template_utils import render_jinja_template

    tools = row.get("tools")
    tools = json.loads(tools) if isinstance(tools, str) else tools
    given, tools = tool_text.rendered_by(encoder.template, messages, tools)
    texts, _ = render_jinja_template(
        conversations=[[{k: v for k, v in m.items() if v is not None and k != "weight"} for m in given]],
        tools=tools or None,
        chat_template=encoder.template.text,
        add_generation_prompt=prompt,
        **{**encoder.tokenizer.special_tokens_map, **(row.get("chat_template_kwargs") or {})},
    )
    return str(texts[0])
