"""What is seen of the rows while they are prepared: lengths, turns, roles, fields, what was cut, and the strangest of them.

Numbers of each row are kept in arrays (some 20 bytes a row), so that a data set of millions of rows fits.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from nothing_tune.engine.prepare.cutting import Cut
from nothing_tune.engine.prepare.tokens import IGNORED, Encoded

FEW = 40
"""A column with at most so many different values is counted by value: levels, languages, sources."""
LONGEST_VALUE = 40
BINS = 20
STRANGEST = 5
MUCH = 3.5
"""Robust z-score (distance from the median in scaled median deviations) from which a row counts as strange; Iglewicz and Hoaglin 1993."""
_WHY = {
    "length": ("far longer than the others", "far shorter than the others"),
    "share": ("far more of it is learned than of the others", "far less of it is learned than of the others"),
    "density": ("many tokens for its text: another script, code or noise", "few tokens for its text"),
    "turns": ("far more turns than the others", "far fewer turns than the others"),
}


class Side:
    """The rows of one side, training or evaluation, added one by one."""

    def __init__(self) -> None:
        self.tokens_before, self.supervised = array("i"), array("i")
        self.turns, self.characters = array("i"), array("i")
        self.file, self.line = array("i"), array("i")
        self.roles: Counter[str] = Counter()
        self.fields: dict[str, Counter[str] | None] = {}
        self.cut = Counter({"rows": 0, "tokens": 0, "supervised_tokens": 0, "answers": 0})
        self.kept_tokens = self.kept_supervised = self.sequences = 0

    def add(self, row: Mapping[str, Any], encoded: Encoded, found: Cut, characters: int, file: int, line: int) -> None:
        """Takes in one row that is trained or evaluated on."""
        self.tokens_before.append(len(encoded.ids))
        self.supervised.append(len(encoded.labels) - encoded.labels.count(IGNORED))
        self.file.append(file)
        self.line.append(line)
        self.characters.append(characters)
        turns = row.get("messages") or (row["prompt"] if isinstance(row.get("prompt"), list) else [])
        self.turns.append(len(turns) or 1)
        self.roles.update(turn["role"] for turn in turns)
        self._count(row)
        if found.lost or found.answers:
            self.cut["rows"] += 1
        self.cut.update(tokens=found.lost, supervised_tokens=found.lost_supervised, answers=found.answers)
        for ids, labels in found.parts:
            self.sequences += 1
            self.kept_tokens += len(ids)
            self.kept_supervised += len(labels) - labels.count(IGNORED)

    def _count(self, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if name in ("messages", "prompt", "completion", "text", "tools"):
                continue
            if name not in self.fields:
                self.fields[name] = Counter()
            counter = self.fields[name]
            if counter is None or value is None:
                continue
            text = str(value)
            if not isinstance(value, str | int | bool) or len(text) > LONGEST_VALUE:
                self.fields[name] = None
                continue
            counter[text] += 1
            if len(counter) > FEW:
                self.fields[name] = None

    def report(self, packed: int | None) -> dict[str, Any]:
        """What is reported of this side; `packed` is how many packed sequences its rows make, None for none."""
        before = np.frombuffer(self.tokens_before, dtype=np.int32)
        turns = np.frombuffer(self.turns, dtype=np.int32)
        return {
            "rows": len(before),
            "sequences": int(packed if packed is not None else self.sequences),
            "tokens": self.kept_tokens,
            "supervised_tokens": self.kept_supervised,
            "tokens_before": int(before.sum()),
            "lengths": _percentiles(before),
            "histogram": _histogram(before),
            "cut": dict(self.cut),
            "roles": dict(self.roles.most_common()),
            "turns": {"min": _at(turns, 0), "p50": _at(turns, 50), "max": _at(turns, 100), "mean": _mean(turns)},
            "fields": {name: self._values(c) for name, c in self.fields.items() if c and self._tells(c)},
        }

    def _tells(self, counter: Counter[str]) -> bool:
        """Whether a column is worth counting by value: neither the same everywhere nor another in almost every row."""
        rows = len(self.tokens_before)
        return len(counter) <= rows / 2 and (len(counter) > 1 or counter.total() < rows)

    def _values(self, counter: Counter[str]) -> dict[str, int]:
        """Rows of each value, most first; those without one under the empty name, last."""
        without = len(self.tokens_before) - counter.total()
        return {**dict(counter.most_common()), **({"": without} if without else {})}

    def strange(self) -> list[tuple[tuple[int, int], str, int]]:
        """The strangest rows: `((file, line), why, tokens)`, most strange first; empty for a handful of rows."""
        before = np.frombuffer(self.tokens_before, dtype=np.int32).astype(float)
        if len(before) < 8:
            return []
        supervised = np.frombuffer(self.supervised, dtype=np.int32)
        usual = np.stack(
            [np.frombuffer(self.characters, dtype=np.int32), np.frombuffer(self.turns, dtype=np.int32)], axis=1
        )
        factors = np.linalg.lstsq(usual.astype(float), before, rcond=None)[0]  # tokens a character, and a turn
        features = {
            "length": np.log1p(before),
            "share": supervised / np.maximum(before, 1),
            "density": np.log(np.maximum(before, 1) / np.maximum(usual @ factors, 1)),
            "turns": np.log1p(np.frombuffer(self.turns, dtype=np.int32)),
        }
        scores = {name: _robust(values) for name, values in features.items()}
        best: dict[int, tuple[float, str]] = {}
        for name, score in scores.items():
            for index in np.argsort(-np.abs(score), kind="stable")[: STRANGEST * 2]:
                if abs(score[index]) >= max(MUCH, best.get(int(index), (0.0, ""))[0]):
                    best[int(index)] = (abs(float(score[index])), _WHY[name][int(score[index] < 0)])
        ranked = sorted(best.items(), key=lambda item: (-item[1][0], item[0]))
        return [((self.file[n], self.line[n]), why, int(before[n])) for n, (_, why) in ranked[:STRANGEST]]


def padding(lengths: Any, micro_batch: int, max_length: int | None, packed: int | None) -> dict[str, float | None]:
    """Share of a batch's positions that hold no token: rows in chance order, rows of like length together, and packed.

    Args:
        lengths: Tokens of each row (numpy).
        micro_batch: Sequences a device handles at once.
        max_length: Tokens of a packed sequence.
        packed: Packed sequences; None where rows are not packed, and nothing is known of it.
    """
    if len(lengths) == 0:
        return {"plain": 0.0, "grouped": 0.0, "packed": None}
    order = np.random.default_rng(0).permutation(len(lengths))
    return {
        "plain": _waste(lengths[order], micro_batch),
        "grouped": _waste(np.sort(lengths), micro_batch),
        "packed": 1 - float(lengths.sum()) / (packed * max_length) if packed and max_length else None,
    }


def _waste(lengths: Any, size: int) -> float:
    whole = len(lengths) // size * size
    batches = [lengths[:whole].reshape(-1, size)] + ([lengths[whole:].reshape(1, -1)] if whole < len(lengths) else [])
    room = sum(int((b.max(axis=1) * b.shape[1]).sum()) for b in batches if b.size)
    return 1 - float(lengths.sum()) / room if room else 0.0


def _robust(values: Any) -> Any:
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle)) or 1.2533 * np.mean(np.abs(values - middle))
    return (values - middle) / spread if spread else np.zeros_like(values)


def _percentiles(values: Any) -> dict[str, float | int]:
    marks = {"min": 0, "p25": 25, "p50": 50, "p75": 75, "p95": 95, "p99": 99, "max": 100}
    return {**{name: _at(values, q) for name, q in marks.items()}, "mean": _mean(values)}


def _at(values: Any, q: int) -> int:
    return int(np.percentile(values, q, method="nearest")) if len(values) else 0


def _mean(values: Any) -> float:
    return round(float(values.mean()), 1) if len(values) else 0.0


def _histogram(values: Any) -> list[list[int]]:
    """`[low, high, rows]` with `low <= tokens < high`: bins of a round width from the shortest row to the longest."""
    if len(values) == 0:
        return []
    low, high = int(values.min()), int(values.max()) + 1
    rough = max((high - low) / BINS, 1)
    scale = 10 ** int(np.floor(np.log10(rough)))
    width = next(w * scale for w in (1, 2, 5, 10) if w * scale >= rough)
    edges = np.arange(low // width * width, high + width, width)
    counts, _ = np.histogram(values, bins=edges)
    bins = [[int(a), int(a) + width, int(n)] for a, n in zip(edges, counts, strict=False)]
    return bins if bins[-1][2] else bins[:-1]


def characters(row: Mapping[str, Any]) -> int:
    """Characters of a row's text, all turns together."""
    if "text" in row:
        return len(row["text"])
    turns = row.get("messages") or [*_turns(row["prompt"]), *_turns(row["completion"])]
    return sum(len(str(turn.get("content") or "")) for turn in turns)


def typed(row: Mapping[str, Any], special: re.Pattern[str] | None) -> bool:
    """Whether a row's text holds what the tokenizer would read as a special token, such as the end of a turn."""
    if special is None:
        return False
    if "text" in row:
        return bool(special.search(row["text"]))
    turns = row.get("messages") or [*_turns(row["prompt"]), *_turns(row["completion"])]
    return any(special.search(str(turn.get("content") or "")) for turn in turns)


def _turns(value: Any) -> list[Mapping[str, Any]]:
    return value if isinstance(value, list) else [{"content": value}]
