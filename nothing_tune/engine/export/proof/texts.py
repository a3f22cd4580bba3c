"""Looks at what surrounds the weights: is the tokenizer the right one, the chat template, the tokens that end an answer?"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import read_json
from nothing_tune.engine import chat_templates
from nothing_tune.engine.export import stops
from nothing_tune.engine.export.proof.checks import check, number, unknown
from nothing_tune.engine.export.proof.prompts import CONVERSATIONS, TEXTS, rendered
from nothing_tune.errors import TuneError
from nothing_tune.plan.model import Plan

LIKELY = 0.1
"""Probability of the end of the turn from which a model is said to have learned to stop."""


def surroundings(folder: Path, tokenizer: Any, right: Any, whose: str, end: float | None) -> list[dict[str, Any]]:
    """The checks of an exported folder's tokenizer, template and generation config.

    Args:
        folder: Holds them.
        tokenizer: As it was loaded from the folder.
        right: The tokenizer that it must equal, with the right chat template; None where there is none any more.
        whose: Whose that is, for the sentences: `the base's`.
        end: Probability that the run gives to the end of the turn where it belongs; None where unknown.
    """
    out = [_same_tokens(tokenizer, right, whose), _same_vocabulary(tokenizer, right, whose)]
    out.append(_same_chat(tokenizer, right, whose))
    config = read_json(folder / "generation_config.json")
    out.append(stop_tokens(tokenizer, stops.configured(config), "generation_config.json", end))
    return out


def right_tokenizer(plan: Plan, base: Path, run_own: Any) -> tuple[Any, str]:
    """The tokenizer that exports must have, and whose it is: the base's, with the template that the run was told to use.

    Args:
        base: Folder of the base model.
        run_own: The tokenizer that the run handed over; what it added is added here, too.
    """
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(str(base), trust_remote_code=bool(plan.model.get("trust_remote_code")))
    wanted = plan.data.get("chat_template") or plan.model.get("chat_template")
    own = stops.own_template(found)
    if wanted is None and own is None and stops.own_template(run_own):
        wanted = "chatml"  # what is chosen for a model without a template, see `chat_templates.choose`
    if wanted is not None:
        try:
            chosen = chat_templates.choose(found, wanted, conversational=True, masked=False)
        except TuneError:
            return run_own, "the run's"  # the template's file is gone
        found.chat_template = chosen.own
    elif isinstance(found.chat_template, dict):
        several = [t for t in found.chat_template.values() if t == run_own.chat_template]
        found.chat_template = several[0] if several else own
    return found, "the base's"


def stop_tokens(tokenizer: Any, given: Sequence[int], where: str, end: float | None) -> dict[str, Any]:
    """Whether the tokens that end an answer, `given` by `where`, are those that the template writes, and not the padding."""
    name = "stop-tokens"
    wanted = stops.end_of_turn(tokenizer)
    known = stops.stops(tokenizer)
    turn = list(wanted.tokens) or known[:1]
    pad = tokenizer.pad_token_id
    if not turn:
        words = f"; the template ends a turn with the text {wanted.text!r}" if wanted.text else ""
        return unknown(name, f"neither the chat template nor the tokenizer has a token that ends an answer{words}")
    missing = [i for i in turn[:1] if i not in given]
    if missing:
        token = tokenizer.convert_ids_to_tokens(missing[0])
        others = ", ".join(_word(tokenizer, i) for i in given) or "none"
        if pad is not None and list(given) == [pad] and pad not in known:
            others = f"the padding {others} alone"
        return check(name, False, f"{token}, which ends an answer, is not among the end tokens of {where}: {others}")
    if pad is not None and pad in given and pad not in known:
        return check(name, False, f"the padding {_word(tokenizer, pad)} is among the end tokens of {where}")
    strange = [i for i in given if i >= len(tokenizer)]
    if strange:
        return check(name, False, f"the end tokens of {where} name token {strange[0]}, which the tokenizer has not")
    what = f"{_word(tokenizer, turn[0])} ends an answer, and stops it"
    if end is not None:
        learned = "the run gives it" if end >= LIKELY else "the run has not learned it: it gives it"
        what = f"{what}; {learned} probability {number(end)} there"
    return check(name, True, what)


def chats(tokenizer: Any, template: str | None) -> list[tuple[dict[str, Any], bool, str]]:
    """`(conversation, whether an answer begins at its end, text)` of those that the template renders."""
    out = []
    for row in CONVERSATIONS:
        for prompt in (False, True):
            messages = row["messages"][:-1] if prompt else row["messages"]
            given = {**row, "messages": messages}
            text = rendered(tokenizer, template, given, prompt)
            if text is not None:
                out.append((given, prompt, text))
    return out


def _same_tokens(tokenizer: Any, right: Any, whose: str) -> dict[str, Any]:
    name = "tokens"
    if right is None:
        return unknown(name, "there is no tokenizer to compare with")
    special = "".join(f"a{word} b" for word in dict.fromkeys(right.all_special_tokens))
    texts = [*TEXTS, special]
    for text in texts:
        for added in (False, True):
            ours, theirs = (t(text, add_special_tokens=added)["input_ids"] for t in (tokenizer, right))
            if ours != theirs:
                where = next(
                    (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
                    min(len(ours), len(theirs)),
                )
                return check(
                    name,
                    False,
                    f"{text[:20]!r} gives other tokens than with {whose} tokenizer, from token {where + 1} on",
                )
    return check(name, True, f"{len(texts)} texts give the same tokens as with {whose} tokenizer")


def _same_vocabulary(tokenizer: Any, right: Any, whose: str) -> dict[str, Any]:
    name = "vocabulary"
    if right is None:
        return unknown(name, "there is no tokenizer to compare with")
    ours, theirs = tokenizer.get_vocab(), right.get_vocab()
    missing = sorted(set(theirs) - set(ours), key=theirs.__getitem__)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return check(name, False, f"the tokenizer lacks the token {missing[0]!r}{more} of {whose}")
    moved = next((t for t, i in theirs.items() if ours[t] != i), None)
    if moved is not None:
        return check(
            name, False, f"the token {moved!r} has id {ours[moved]}, not {theirs[moved]} as in {whose} tokenizer"
        )
    added = sorted(set(ours) - set(theirs), key=ours.__getitem__)
    if added:
        return check(name, False, f"the tokenizer has {len(added)} tokens that {whose} has not, first {added[0]!r}")
    special = {
        kind: (value, right.special_tokens_map.get(kind))
        for kind, value in tokenizer.special_tokens_map.items()
        if kind in ("bos_token", "eos_token") and str(value) != str(right.special_tokens_map.get(kind))
    }
    if special:
        kind, (value, was) = next(iter(special.items()))
        return check(name, False, f"{kind} is {value}, not {was} as in {whose} tokenizer")
    return check(name, True, f"the {len(ours):,} tokens are those of {whose} tokenizer")


def _same_chat(tokenizer: Any, right: Any, whose: str) -> dict[str, Any]:
    name = "chat-template"
    if right is None:
        return unknown(name, "there is no chat template to compare with")
    ours, theirs = stops.own_template(tokenizer), stops.own_template(right)
    if not theirs:
        if ours:
            return check(name, False, f"there is a chat template, {whose} tokenizer has none")
        return check(name, True, f"there is no chat template, as with {whose} tokenizer")
    if not ours:
        return check(name, False, f"the chat template is gone that {whose} tokenizer has")
    expected = chats(right, theirs)
    for row, prompt, text in expected:
        if rendered(tokenizer, ours, row, prompt) != text:
            return check(name, False, f"{_named(row)} is rendered otherwise than with {whose} chat template")
    if len(chats(tokenizer, ours)) != len(expected):
        return check(name, False, f"the chat template takes conversations that {whose} refuses")
    if chat_templates.MARKERS.search(ours) and not chat_templates.MARKERS.search(theirs):
        return check(name, False, f"the chat template is that of the training, not {whose}: it marks what is learned")
    return check(name, True, f"{len(expected)} conversations are rendered as with {whose} chat template")


def _named(row: dict[str, Any]) -> str:
    roles = [m["role"] for m in row["messages"]]
    if row.get("tools"):
        return "a conversation with tools"
    return "a conversation with a system message" if "system" in roles else f"a conversation of {len(roles)} messages"


def _word(tokenizer: Any, token: int) -> str:
    with contextlib.suppress(Exception):
        found = tokenizer.convert_ids_to_tokens(token)
        if found:
            return str(found)
    return f"token {token}"
