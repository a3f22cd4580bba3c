"""Whether llama.cpp splits text into the tokens that the tokenizer splits it into: measured for each way to write a vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nothing_tune.engine.export.gguf import process, texts
from nothing_tune.errors import RunError, TuneError


@dataclass(frozen=True)
class Finding:
    """How far one way agrees.

    Attributes:
        pre: Name of the way.
        wrong: Group of texts -> those that became other tokens.
    """

    pre: str
    wrong: dict[str, list[str]] = field(default_factory=dict)

    def good(self, chats: bool) -> bool:
        """Whether it can be used: every conversation comes out right, or all plain text where the model has no chat template."""
        return not self.wrong.get("loading") and not self.wrong["chat" if chats else "plain"]

    @property
    def faults(self) -> int:
        """Texts of the groups that count that come out wrong."""
        return sum(len(texts_) for group, texts_ in self.wrong.items() if group != "edges")

    @property
    def perfect(self) -> bool:
        """Whether every text of the groups that count agrees."""
        return self.faults == 0


class Comparison:
    """The texts and what the tokenizer of transformers makes of them.

    `start` is what a file is to put before every text: what the tokenizer puts there (`own_start`), but nothing where the chat
    template begins a conversation without it. llama.cpp's server and Ollama tokenise the rendered conversation as any text, and
    would otherwise put a BOS there that was not there in training; `apply_chat_template` adds none.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.groups = texts.made(tokenizer)
        self.chats = bool(self.groups["chat"])
        self.own_start, self.end = texts.special(tokenizer)
        self.start = [] if texts.begins_bare(tokenizer, self.groups["chat"], self.own_start) else self.own_start
        self.all = [text for group in self.groups.values() for text in group]
        self.bare = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in self.all]

    def judge(self, pre: str, bare: Sequence[Sequence[int]] | None, whole: Sequence[Sequence[int]] | None) -> Finding:
        """What differs between the tokenizer's ids and llama.cpp's."""
        if bare is None or whole is None:
            return Finding(pre, {"loading": ["llama.cpp does not load it"]})
        wrong: dict[str, list[str]] = {}
        at = 0
        around = len(self.start) <= 1 and len(self.end) <= 1
        for group, members in self.groups.items():
            wrong[group] = []
            for text in members:
                expected = self.bare[at]
                same = list(bare[at]) == expected
                if around and list(whole[at]) != [*self.start, *bare[at], *self.end]:
                    same = False
                if not same:
                    wrong[group].append(text)
                at += 1
        return Finding(pre, wrong)

    def first_good(self, file: Path, pres: Sequence[str], strict: bool = False) -> tuple[Finding | None, list[Finding]]:
        """The first of `pres` that agrees perfectly, else (not `strict`) the nearest that can be used; with all that was found."""
        found: list[Finding] = []
        left = list(pres)

        def heard(event: dict[str, Any]) -> None:
            left.remove(event["pre"])
            found.append(self.judge(event["pre"], event["bare"], event["whole"]))
            if found[-1].perfect:
                raise _Enough

        while left:
            try:
                process.run("tokens", {"file": str(file), "texts": self.all, "pres": left}, on=heard)
            except _Enough:
                break
            except RunError:  # llama.cpp aborted at the first that is left
                found.append(Finding(left.pop(0), {"loading": ["llama.cpp ended itself"]}))
        usable = [f for f in found if f.perfect or (not strict and f.good(self.chats))]
        return min(usable, key=lambda f: f.faults, default=None), found


class _Enough(Exception):
    pass


def refused(found: Sequence[Finding], kind: str) -> TuneError:
    """Why no way fits, with the text that the best one gets wrong."""
    hint = "this model can be served with vLLM or transformers: tune export RUN --merge --vllm"
    tried = [f for f in found if not f.wrong.get("loading")]
    if not tried:
        return RunError(f"this tokenizer cannot be written as GGUF: llama.cpp has no form for {kind}", hint=hint)
    near = min(tried, key=lambda f: f.faults)
    example = next((w for g, ws in near.wrong.items() if g != "edges" for w in ws), "")
    return RunError(
        f"this tokenizer cannot be written as GGUF: of {len(tried)} ways that llama.cpp has, none splits text as it does; "
        f"the nearest, {near.pre}, splits {example[:40]!r} into other tokens",
        hint=hint,
    )


def warnings(best: Finding, chats: bool, send: Callable[..., None]) -> None:
    """Tells what differs although the way can be used."""
    wrong = [*best.wrong["plain"], *best.wrong["inside"]]
    if wrong:
        same = "conversations" if chats else "plain texts"
        send(
            type="warning",
            what=f"llama.cpp splits some texts into other tokens than the tokenizer, such as {wrong[0][:40]!r}; {same} are the same",
            hint="use the chat template, as in training" if chats else "put no special tokens into prompts",
        )
