"""All prompts with what is known of them: authentic, answered, refused by a filter, failed, or still to be asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from nothing_tune.engine.generate.filters import Judge, Verdict
from nothing_tune.engine.generate.ledger import Ledger
from nothing_tune.engine.generate.questions import Answer, Prompt, Question, question
from nothing_tune.engine.generate.schedule import Schedule, of

CHARS_PER_TOKEN = 3.5
"""Rough length of a token in European languages, for what was never asked; measured answers replace it."""
TOKENS_PER_MESSAGE = 6
"""Rough cost of a message's template."""
ENOUGH = 20
"""Answers of a group from which their mean says what the next ones will cost."""


class Work:
    """What there is to do, kept up to date while answers come in.

    Attributes:
        prompts: All of them, in order.
        authentic: Group -> rows that bring their own answer.
        questions: Key -> the question of each prompt without an answer; a prompt that is there twice is asked once.
        repeated: Prompts that are there again, word for word, and are left out.
        verdicts: Key -> what the filters decided about the answer.
    """

    def __init__(self, prompts: list[Prompt], settings: dict[str, Any], ledger: Ledger) -> None:
        """Decides on every answer that the ledger has for one of the prompts, in the ledger's order."""
        self.prompts = prompts
        self.settings = settings
        self.groups: dict[str, Mapping[str, Any]] = settings["groups"]
        self.ledger = ledger
        self.authentic: Counter[str] = Counter(p.group for p in prompts if p.answer is not None)
        self.questions: dict[str, Question] = {}
        self.keys: dict[int, str] = {}
        self.repeated = 0
        for prompt in prompts:
            if prompt.answer is None:
                asked = question(prompt, dict(of(self.groups, prompt.group)), settings["generator"])
                if asked.key in self.questions:
                    self.repeated += 1
                else:
                    self.questions[asked.key] = asked
                    self.keys[prompt.index] = asked.key
        self.judge = Judge(settings["filters"], self._expected())
        for prompt in prompts:
            if prompt.answer is not None:
                self.judge.know(prompt.answer, prompt.place)
        self.verdicts: dict[str, Verdict] = {
            key: self.judge.judge(self.questions[key].prompt, answer)
            for key, answer in ledger.answers.items()
            if key in self.questions
        }
        self.spent_before = spent(ledger)

    @property
    def group_names(self) -> list[str]:
        """Groups that have prompts: those that the settings name in their order, then the others by name."""
        found = {p.group for p in self.prompts}
        named = [g for g in self.groups if g in found]
        return [*named, *sorted(found - {*named})]

    def have(self, group: str) -> int:
        """Rows of a group that are there: authentic ones, and answers that are taken."""
        return self.authentic[group] + self.judge.taken[group]

    def schedule(self, limit: int | None, retry_failed: bool) -> Schedule:
        """What is still to be asked. A fault that would last counts as an answer unless `retry_failed`."""
        faults = self.ledger.faults
        waiting = [
            q
            for key, q in self.questions.items()
            if key not in self.ledger.answers and (retry_failed or key not in faults or not faults[key].lasting)
        ]
        return Schedule(waiting, self.groups, self.have, limit)

    def give(self, asked: Question, answer: Answer) -> None:
        """Keeps what came of a question, and decides on it."""
        if answer.fault:
            self.ledger.add(asked, answer, False, "")
            return
        verdict = self.judge.judge(asked.prompt, answer)
        self.verdicts[asked.key] = verdict
        self.ledger.add(asked, answer, verdict.text is not None, verdict.reason)

    def failed(self) -> list[Question]:
        """Questions that have no answer because of a fault."""
        return [q for key, q in self.questions.items() if key in self.ledger.faults]

    def _expected(self) -> dict[str, int]:
        """Group -> generated answers that it will have at most."""
        out: Counter[str] = Counter(q.prompt.group for q in self.questions.values())
        for group in out:
            target = of(self.groups, group)["target"]
            if target is not None:
                out[group] = min(out[group], max(int(target) - self.authentic[group], 0))
        return dict(out)


def spent(ledger: Ledger) -> tuple[int, int]:
    """`(tokens asked, tokens answered)` of every answer in a ledger, taken or not, under these settings or others."""
    answers = ledger.answers.values()
    return sum(a.tokens_in for a in answers), sum(a.tokens_out for a in answers)


def cost(tokens: tuple[int, int], generator: Mapping[str, Any]) -> float | None:
    """What tokens cost in dollars; None where the recipe says no price."""
    prices = [generator.get(f"usd_per_million_{side}_tokens") for side in ("input", "output")]
    if prices == [None, None]:
        return None
    return sum(count * (price or 0.0) / 1e6 for count, price in zip(tokens, prices, strict=True))


def estimate(work: Work, schedule: Schedule) -> dict[str, dict[str, Any]]:
    """Group -> `asked` (questions that would be asked), `tokens_in`, `tokens_out`, `measured`.

    From the mean of the group's own answers where there are `ENOUGH` of them; else the question by its length, and the answer
    as long as it may be: an upper bound.
    """
    out: dict[str, dict[str, Any]] = {}
    left = schedule.left()
    for group in work.group_names:
        questions = [q for q in work.questions.values() if q.prompt.group == group]
        known = [a for q in questions if (a := work.ledger.answers.get(q.key)) is not None and a.tokens_out]
        count = left.get(group, 0)
        if len(known) >= ENOUGH:
            means = (sum(a.tokens_in for a in known) / len(known), sum(a.tokens_out for a in known) / len(known))
        else:
            sizes = [sum(_tokens(m["content"]) for m in q.messages) for q in questions]
            means = (sum(sizes) / len(sizes) if sizes else 0.0, of(work.groups, group)["sampling"]["max_new_tokens"])
        out[group] = {
            "asked": count,
            "tokens_in": round(count * means[0]),
            "tokens_out": round(count * means[1]),
            "measured": len(known) >= ENOUGH,
        }
    return out


def _tokens(text: str) -> float:
    return len(text) / CHARS_PER_TOKEN + TOKENS_PER_MESSAGE
