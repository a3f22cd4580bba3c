"""The finished file: authentic and taken answers as conversations in the order of the prompts, its card, and the report."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import read_json
from nothing_tune.data import card
from nothing_tune.engine.generate.questions import Message, Prompt, of_group
from nothing_tune.engine.generate.schedule import Schedule, of
from nothing_tune.engine.generate.work import Work, cost, spent
from nothing_tune.errors import Problem, UsageError

COMMAND = "data generate"
EXAMPLES = 3


def check_output(output: Path) -> None:
    """`UsageError` when the output is there and is not what an earlier run wrote: it would be lost.

    Raises:
        UsageError: Also where the name is a folder, or ends in nothing that is written.
    """
    card.check(output, force=True)
    if not output.exists():
        return
    try:
        known = read_json(card.card_path(output))
    except UsageError:
        known = None
    made = isinstance(known, dict) and known.get("command") == COMMAND
    if not made:
        what = f"{output} is there, and tune data generate did not write it: it would be replaced"
    elif isinstance(known, dict) and known.get("sha256") != _sha256(output):
        what = f"{output} was changed since tune data generate wrote it: the changes would be lost"
    else:
        return
    raise UsageError(
        Problem(what, key="generate.output", hint="move it away, or write to another file with generate.output=FILE")
    )


def rows(work: Work) -> Iterator[dict[str, Any]]:
    """The rows in the order of the prompts: `messages`, the prompt's columns, `origin`, `generator`.

    A group has at most its target: authentic rows all, then the first answers that were taken.
    """
    for index in _written(work):
        prompt = work.prompts[index]
        if prompt.answer is not None:
            yield row(prompt, prompt.answer, work.settings, None)
        else:
            text = work.verdicts[work.keys[index]].text
            assert text is not None
            yield row(prompt, text, work.settings, work.settings["generator"]["model"])


def row(prompt: Prompt, answer: str, settings: dict[str, Any], generator: str | None) -> dict[str, Any]:
    """One row; `generator` is None for an authentic one."""
    messages: list[Message] = list(prompt.messages)
    group = of(settings["groups"], prompt.group)
    if not settings["keep_system"]:
        messages = [m for m in messages if m["role"] != "system"]
    elif messages[0]["role"] != "system":
        system = group["row_system"] if group["row_system"] is not None else group["system"]
        if system:
            messages.insert(0, {"role": "system", "content": of_group(system, prompt.group)})
    messages.append({"role": "assistant", "content": answer})
    columns = {k: v for k, v in prompt.columns.items() if k not in ("messages", "origin", "generator")}
    return {
        "messages": messages,
        **columns,
        "origin": "authentic" if generator is None else "generated",
        "generator": generator,
    }


def write(work: Work, output: Path, report: dict[str, Any], name: str) -> None:
    """Writes the output, whole or not at all, and its card."""
    settings = {k: v for k, v in work.settings.items() if k not in ("prompts", "output")}
    card.write(
        output,
        rows(work),
        {
            "command": COMMAND,
            "recipe": name,
            "sources": work.settings["prompts"],
            "settings": settings,
            "report": report,
        },
        force=True,
    )


def report(work: Work, schedule: Schedule, output: Path, limit: int | None) -> dict[str, Any]:
    """What the output is made of, and what it took; see docs/generate.md for each key."""
    made: dict[str, Counter[str]] = {}
    for one in (work.prompts[i] for i in _written(work)):
        made.setdefault(one.group, Counter())["generated" if one.answer is None else "authentic"] += 1
    total = sum(sum(counts.values()) for counts in made.values())
    failed = work.failed()
    generator = work.settings["generator"]
    tokens = spent(work.ledger)
    now = (tokens[0] - work.spent_before[0], tokens[1] - work.spent_before[1])
    reasons: Counter[str] = Counter()
    for counts in work.judge.rejected.values():
        reasons.update(counts)
    groups = {}
    for group in work.group_names:
        counts, target = made.get(group, Counter()), of(work.groups, group)["target"]
        have = sum(counts.values())
        groups[group] = {
            "rows": have,
            "share": _share(have, total),
            "authentic": counts["authentic"],
            "generated": counts["generated"],
            "rejected": sum(work.judge.rejected.get(group, Counter()).values()),
            "failed": sum(q.prompt.group == group for q in failed),
            "unasked": schedule.waiting(group),
            "target": target,
            "lacking": 0 if target is None else max(int(target) - have, 0),
        }
    kinds = {kind: sum(c[kind] for c in made.values()) for kind in ("authentic", "generated")}
    return {
        "version": 1,
        "output": str(output),
        "generator": generator["model"],
        "total": total,
        **{kind: {"rows": count, "share": _share(count, total)} for kind, count in kinds.items()},
        "group_by": work.settings["group_by"],
        "groups": groups,
        "rejected": dict(reasons.most_common()),
        "examples": work.judge.examples,
        "failed": {
            "rows": len(failed),
            "examples": [[q.prompt.place, work.ledger.faults[q.key].fault] for q in failed[:EXAMPLES]],
        },
        "repeated": work.repeated,
        "other_settings": len(work.ledger.answers) - len(work.verdicts),
        "damaged_lines": work.ledger.damaged,
        "asked": schedule.asked,
        "limit": limit,
        "tokens": {"in": tokens[0], "out": tokens[1], "cost_usd": cost(tokens, generator)},
        "this_time": {"in": now[0], "out": now[1], "cost_usd": cost(now, generator)},
    }


def _written(work: Work) -> Iterator[int]:
    """Indices of the prompts that become rows."""
    left: dict[str, int] = {}
    for prompt in work.prompts:
        if prompt.answer is not None:
            yield prompt.index
            continue
        verdict = work.verdicts.get(work.keys.get(prompt.index, ""))
        target = of(work.groups, prompt.group)["target"]
        if verdict is None or verdict.text is None:
            continue
        if target is not None:
            used = left.get(prompt.group, 0)
            if used >= int(target) - work.authentic[prompt.group]:
                continue
            left[prompt.group] = used + 1
        yield prompt.index


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
