"""What is asked next: the prompts of each group in their order, until the group is full or its prompts run out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nothing_tune.engine.generate.questions import Question


class Schedule:
    """Hands out questions, and never more of a group than may still be taken.

    Attributes:
        asked: Questions handed out.
        in_flight: Questions handed out and not answered yet.
        limit: Most questions to hand out; None for any number.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        groups: Mapping[str, Mapping[str, Any]],
        have: Callable[[str], int],
        limit: int | None,
    ) -> None:
        """`questions` have no answer yet; `have` gives the rows of a group that are there; `limit` is of all questions asked."""
        self.asked = 0
        self.in_flight = 0
        self.limit = limit
        self._have = have
        self._groups = groups
        self._waiting: dict[str, deque[Question]] = {}
        self._flying: dict[str, int] = {}
        for question in questions:
            self._waiting.setdefault(question.prompt.group, deque()).append(question)

    def room(self, group: str) -> int | None:
        """How many more questions of a group may be asked now; None for any number."""
        target = of(self._groups, group)["target"]
        if target is None:
            return None
        return max(int(target) - self._have(group) - self._flying.get(group, 0), 0)

    def take(self, most: int = 1) -> list[Question]:
        """The next questions, all of one group: the group whose next prompt comes first. Empty when none may be asked now."""
        if self.limit is not None:
            most = min(most, self.limit - self.asked)
        open_ = {g: room for g, waiting in self._waiting.items() if waiting and (room := self.room(g)) != 0}
        if most <= 0 or not open_:
            return []
        group = min(open_, key=lambda g: self._waiting[g][0].prompt.index)
        room = open_[group]
        waiting = self._waiting[group]
        count = min(most, len(waiting), most if room is None else room)
        taken = [waiting.popleft() for _ in range(count)]
        self.asked += count
        self.in_flight += count
        self._flying[group] = self._flying.get(group, 0) + count
        return taken

    def done(self, question: Question) -> None:
        """Says that a question that was handed out is over, with whatever came of it."""
        self.in_flight -= 1
        self._flying[question.prompt.group] -= 1

    def left(self) -> dict[str, int]:
        """Group -> questions that would be asked from now on if every answer were taken, `limit` left aside."""
        out = {}
        for group, waiting in self._waiting.items():
            room = self.room(group)
            out[group] = len(waiting) if room is None else min(room, len(waiting))
        return out

    def waiting(self, group: str) -> int:
        """Prompts of a group that were not asked."""
        return len(self._waiting.get(group, ()))


def of(groups: Mapping[str, Mapping[str, Any]], group: str) -> Mapping[str, Any]:
    """The settings of a group; those of every other group where it has none of its own."""
    return groups.get(group, groups[""])
