"""The rows of a rehearsal: the recipe's data prepared and looked at as a training would, and a few of its rows to train on.

Data of ordinary size is prepared whole, so that what the gate says is the truth. Of larger data the beginning, rows evenly taken and
the longest ones stand for the rest.
"""

from __future__ import annotations

import heapq
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nothing_tune.data import rows as streams
from nothing_tune.data import sources
from nothing_tune.engine import build, prepare
from nothing_tune.errors import Problem, UsageError
from nothing_tune.plan.maths import maths
from nothing_tune.plan.model import Plan
from nothing_tune.plan.rows import of_report

WHOLE_ROWS = 20_000
"""Rows up to which the whole data is prepared."""
READ_S = 15.0
"""Seconds after which reading stops and what was read stands for the whole."""
FIRST, EVENLY, LONGEST = 8, 6, 2
"""Rows that are trained on: the first ones, rows evenly taken from the rest, and the longest."""
ROW_LOGITS = 24_000_000
"""Tokens x vocabulary that a row to train on may have: a core takes about a second for its loss and gradients."""
FEWEST = 4
"""Rows that are trained on at least; where so few are short enough, the shortest are taken."""
MANY = 50
"""Of data that is too large to be prepared whole, so many times as many rows are looked at."""
EVALUATED = (1, 1, 1)
"""First, evenly taken and longest evaluation rows."""

Tell = Callable[[str, int], None]


def look(plan: Plan, folder: Path, tell: Tell, vocabulary: int = 0) -> dict[str, Any]:
    """Prepares the data of `plan`, asks the gate, and writes the rows that the rehearsal trains on into `folder`.

    Of a model of many tokens (`vocabulary`, 0 for unknown) shorter rows are chosen, see `ROW_LOGITS`.

    Returns:
        `train` and `eval` (`[path, format]` each), `places` (path -> place of each of its lines), `whole` (whether all rows were
        looked at), `read` (rows read), and of the report `rows`, `eval_rows`, `longest`, `cut`, `template`, `format`, `total`
        (steps of the whole training) and `evaluations` (how many come; both None unless all rows are known), `warnings`.

    Raises:
        UsageError: A source is missing or unreadable, no template fits, or the gate finds what a training must not start with.
    """
    tokenizer = build.tokenizer(plan)
    evaluate = str(plan.training.get("eval_strategy") or "no") != "no"
    places: dict[str, list[str]] = {}
    read, whole = _read(plan, evaluate, tell)
    seen = plan if whole else _few(plan, evaluate, folder, places, tell)
    tell("preparing", read)
    prepared = prepare.load(seen, tokenizer, evaluate, tell=lambda what, n, _: tell(what, n))
    _refuse(prepared.report, places)
    most = ROW_LOGITS // max(vocabulary, len(tokenizer), 1)
    packed = bool(prepared.report["packing"])
    train = _chosen(prepared.train, (FIRST, EVENLY, LONGEST), most, 2 * most if packed else None)
    held = _chosen(prepared.eval, EVALUATED, most) if prepared.eval is not None else []
    files = prepared.report["files"]
    tell("choosing", len(train))
    out = {
        "train": _write(seen, train, files, folder, "train", places, evaluate),
        "eval": _write(seen, held, files, folder, "eval", places, evaluate),
        "places": places,
        "whole": whole,
        "read": read,
    }
    side, report = prepared.report["train"], prepared.report
    counted = maths(of_report(report), plan) if whole else None
    return {
        **out,
        "rows": side["rows"],
        "eval_rows": (report["eval"] or {}).get("rows", 0),
        "chosen": [len(train), len(held)],
        "longest": side["lengths"]["max"],
        "max_length": report["max_length"],
        "packing": report["packing"],
        "cut": side["cut"]["answers"],
        "supervised": side["supervised_tokens"],
        "template": report["template"],
        "format": report["format"],
        "total": counted.total if counted else None,
        "evaluations": (counted.evaluations.count if counted.evaluations else 0) if counted else None,
        "warnings": [f["what"] for f in report["findings"] if f["severity"] == "warning"],
    }


def mapped(text: str, places: dict[str, list[str]]) -> str:
    """`text` with places in files of the rehearsal given as the places in the user's data that they come from."""
    for path, known in places.items():
        while (at := text.find(f"{path}:")) >= 0:
            digits = "".join(itertools.takewhile(str.isdigit, text[at + len(path) + 1 :]))
            where = known[int(digits) - 1] if digits and 0 < int(digits) <= len(known) else "a row of the sample"
            text = text[:at] + where + text[at + len(path) + 1 + len(digits) :]
    return text


def _read(plan: Plan, evaluate: bool, tell: Tell) -> tuple[int, bool]:
    """`(rows read, whether that is all)`: as many as a rehearsal prepares whole, and not for longer than `READ_S`."""
    ledger, began, read = streams.Ledger(), time.monotonic(), 0
    for _ in streams.stream(_opened(plan, evaluate), plan.data, ledger):
        read += 1
        if read % 500 == 0:
            tell("reading", read)
        if read > WHOLE_ROWS or time.monotonic() - began > READ_S:
            return read, False
    return read, True


def _opened(plan: Plan, evaluate: bool) -> list[sources.Opened]:
    opened = sources.open_all(plan.data.get("train"), plan.data, "data.train")
    held = plan.data.get("eval")
    if evaluate and isinstance(held, str | dict | list) and held:
        opened += sources.open_all(held, plan.data, "data.eval")
    return opened


def _few(plan: Plan, evaluate: bool, folder: Path, places: dict[str, list[str]], tell: Tell) -> Plan:
    """The plan with a few hundred rows of each side instead of its data; bad rows among all that was read are refused as ever."""
    data = dict(plan.data)
    for key in ("train", "eval"):
        value = data.get(key)
        if not isinstance(value, str | dict | list) or not value or (key == "eval" and not evaluate):
            continue
        ledger = streams.Ledger()
        picked = _spread(streams.stream(sources.open_all(value, plan.data, f"data.{key}"), plan.data, ledger), tell)
        streams.refuse(ledger, float(plan.data.get("max_bad_rows") or 0.0))
        kept = [(row.value, ledger.place(row)) for row in picked]
        data[key] = [{"source": p, "format": f} for p, f in _files(kept, folder, f"few-{key}", places)]
    return replace(plan, data={**data, "format": "auto", "columns": None, "max_samples": None})


def _spread(found: Iterator[streams.Row], tell: Tell) -> list[streams.Row]:
    """The first rows, rows evenly taken from what follows, and the longest, of what can be read in `READ_S` seconds; in order."""
    began = time.monotonic()
    first: list[tuple[int, streams.Row]] = []
    even: list[tuple[int, streams.Row]] = []
    longest: list[tuple[int, int, streams.Row]] = []
    stride, most = 1, EVENLY * MANY
    for number, row in enumerate(found):
        if number < FIRST * MANY:
            first.append((number, row))
        elif number % stride == 0:
            even.append((number, row))
            if len(even) > most:
                even, stride = even[::2], 2 * stride
        size = len(str(row.value))
        if len(longest) < LONGEST * 5:
            heapq.heappush(longest, (size, number, row))
        elif size > longest[0][0]:
            heapq.heapreplace(longest, (size, number, row))
        if number % 500 == 0:
            tell("reading", number)
            if time.monotonic() - began > READ_S:
                break
    by_number = {**dict(first), **dict(even), **{n: row for _, n, row in longest}}
    return [by_number[n] for n in sorted(by_number)]


def _chosen(data: Any, counts: tuple[int, int, int], most: int, together: int | None = None) -> list[tuple[int, int]]:
    """`(file, line)` of the rows of a prepared side to train on: the first, evenly taken, and the longest ones.

    Of rows of at most `most` tokens where there are some; with `together` not more than so many tokens in all.
    """
    pairs: dict[tuple[int, int], int] = {}
    packed = "seq_lengths" in data.column_names
    for entry in data.select_columns(["file", "line", "seq_lengths" if packed else "before"]):
        if packed:
            for file, line, tokens in zip(entry["file"], entry["line"], entry["seq_lengths"], strict=True):
                pairs[file, line] = pairs.get((file, line), 0) + tokens
        else:
            pairs[entry["file"], entry["line"]] = entry["before"]
    order = sorted(p for p in pairs if pairs[p] <= most)  # packed rows stand in another order
    if len(order) < min(FEWEST, len(pairs)):
        order = sorted(sorted(pairs, key=lambda p: pairs[p])[:FEWEST])
    first, even, longest = counts
    picked = dict.fromkeys(order[:first])
    rest = order[first:]
    picked |= dict.fromkeys(rest[:: max(1, len(rest) // max(even, 1))][:even])
    picked |= dict.fromkeys(sorted(order, key=lambda p: -pairs[p])[:longest])
    if together is not None:
        whole = 0
        for number, pair in enumerate(list(picked)):
            whole += pairs[pair]
            if whole > together and number >= 1:
                del picked[pair]
    return sorted(picked)


def _write(
    plan: Plan,
    chosen: Sequence[tuple[int, int]],
    files: Sequence[Any],
    folder: Path,
    name: str,
    places: dict[str, list[str]],
    evaluate: bool,
) -> list[tuple[str, str]]:
    """Writes the chosen rows as files of one format each; returns `(path, format)` of each."""
    if not chosen:
        return []
    wanted = {(str(files[file][0]), line) for file, line in chosen}
    ledger = streams.Ledger()
    kept: list[tuple[dict[str, Any], str]] = []
    for row in streams.stream(_opened(plan, evaluate), plan.data, ledger):
        key = (ledger.files[row.file], row.line)
        if key in wanted:
            wanted.discard(key)
            kept.append((row.value, mapped(ledger.place(row), places)))
            if not wanted:
                break
    return _files(kept, folder, name, places)


def _files(
    kept: Iterable[tuple[dict[str, Any], str]], folder: Path, name: str, places: dict[str, list[str]]
) -> list[tuple[str, str]]:
    folder.mkdir(parents=True, exist_ok=True)
    by_kind: dict[str, list[tuple[dict[str, Any], str]]] = {}
    for value, place in kept:
        kind = "messages" if "messages" in value else "prompt-completion" if "prompt" in value else "text"
        by_kind.setdefault(kind, []).append((value, place))
    out = []
    for kind, entries in by_kind.items():
        path = folder / f"{name}-{kind}.jsonl"
        lines = [json.dumps(value, ensure_ascii=False, default=str) for value, _ in entries]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        places[str(path)] = [place for _, place in entries]
        out.append((str(path), kind))
    return out


def _refuse(report: dict[str, Any], places: dict[str, list[str]]) -> None:
    wrong = [
        Problem(
            mapped("; ".join([f["what"], *([", ".join(f["rows"])] if f["rows"] else [])]), places),
            key=f["key"],
            hint=f["hint"],
        )
        for f in report["findings"]
        if f["severity"] == "error"
    ]
    if wrong:
        raise UsageError(*wrong)
