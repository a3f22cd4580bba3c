"""A report is one file that is safe to open and to send: it needs nothing else, runs nothing, and tells no secret and no path."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import Run
from nothing_tune.outputs.charts import Series, chart, number, ticks
from nothing_tune.outputs.report import Told, page, serving
from tests.outputs.pages import EXPORT, evaluation, record

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
VOID = {"meta", "br", "path", "circle"}


class Parsed(HTMLParser):
    """Tags in order, their attributes, and whether they are closed as they were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.said: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def parsed(text: str) -> Parsed:
    found = Parsed()
    found.feed(text)
    assert found.open == []
    return found


def whole(**changes: Any) -> Told:
    """A run with everything that a page can tell."""
    made = record(evaluations=[evaluation()], exports=[EXPORT], **changes)
    tries = [
        {
            "attempt": 1,
            "started": 1e9,
            "ended": 1e9 + 60,
            "from_step": 0,
            "step": 10,
            "state": "failed",
            "error": "out of memory",
        },
        {
            "attempt": 2,
            "started": 1e9 + 70,
            "ended": 1e9 + 99,
            "from_step": 8,
            "step": 20,
            "state": "done",
            "acts": ["half the batch"],
        },
    ]
    events = [{"kind": "warning", "step": 3, "what": "loss spike", "hint": "look at row 7"}]
    return Told(
        made, {"peft.r": "demo (/home/me/demo.yaml:3:5)"}, tries, events, {"step-20/vllm/serve.sh": "vllm serve --x"}
    )


def test_the_whole_page() -> None:
    text = page([whole()], "1.2.3")
    found = parsed(text)
    heads = re.findall(r"<h2>(.*?)</h2>", text)
    assert heads == [
        "What was trained", "Data", "Plan and measured", "Curves", "Events", "Evaluations", "Exports", "Recipe",
        "Machine and versions",
    ]  # fmt: skip
    assert found.seen.count("svg") == 5
    assert len(re.findall(r'<a href="#', text)) == len(heads)
    for said in (
        "0.700", "from 3.000", "$0.07", "3.5 GiB", "0.88 x", "org/base", "3 cut", "demo (demo.yaml:3:5)", "loss spike",
        "half the batch", "0.900 to 1.100", "vllm serve --x", "proof failed", "mean KL to the run, 0.25 (limit 0.1)", "a/b &amp; c",
        "say &lt;script&gt;", "Written by nothing-tune 1.2.3.",
    ):  # fmt: skip
        assert said.replace("3 cut", "3 cut") in text, said


def test_it_needs_and_runs_nothing() -> None:
    found = parsed(page([whole()]) + page([whole(), whole()]))
    assert not {"script", "link", "img", "iframe", "object", "embed", "form"} & set(found.seen)
    assert not [name for name, _ in found.attributes if name.startswith("on") or name in ("src", "srcset", "style")]
    assert {value for name, value in found.attributes if name == "href" and not str(value).startswith("#")} == set()
    assert not re.search(r"url\(|@import|https?:", page([whole()]).split("<body>")[0])


def test_nothing_of_a_run_is_markup() -> None:
    """Every text that a run holds, replaced by one that would run as a script."""

    def evil(data: Any, key: str = "") -> Any:
        if isinstance(data, dict):
            return {(EVIL if k == "turn" else k): evil(v, k) for k, v in data.items()}
        if isinstance(data, list):
            return [evil(v, key) for v in data]
        return EVIL if isinstance(data, str) and key not in ("why", "digest", "unit") else data

    one = whole()
    tries, events = ([evil(e) for e in found] for found in (one.attempts, one.events))
    bad = Told(evil(dict(one.record)), {"peft.r": EVIL}, tries, events, {EVIL: EVIL})
    for text in (page([bad]), page([bad, one])):
        found = parsed(text)
        assert "script" not in found.seen
        assert "img" not in found.seen
        assert "alert(1)" in "".join(found.said)


def test_no_secret_and_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "correct-horse-battery")
    told = whole(
        error="401 for hf_abcdefghijklmnopqrstuvwx at /home/me/secret/place.txt",
        values={"tracking.notes": "correct-horse-battery"},
    )
    answer = evaluation()
    answer["samples"][0]["answer"] = "token correct-horse-battery, see either/or"
    text = page(
        [
            Told(
                {**told.record, "evaluations": [answer]},
                told.why,
                told.attempts,
                told.events,
                {"a": "correct-horse-battery"},
            )
        ]
    )
    assert "correct-horse" not in text
    assert "hf_abc" not in text
    assert "/home/me" not in text
    assert "place.txt" in text
    assert "either/or" in text


def test_runs_side_by_side() -> None:
    text = page(
        [
            Told(record(evaluations=[evaluation()])),
            Told(record(2, evaluations=[evaluation("b", 0.5)], values={"peft.r": 4})),
        ]
    )
    parsed(text)
    assert re.findall(r"<h2>(.*?)</h2>", text)[:4] == [
        "What differs",
        "How they went",
        "Curves",
        "Evaluations of the same rows",
    ]
    assert '<span class="best">0.500</span>' in text
    assert ">A 0.6<" in text
    assert ">B 0.7<" in text
    assert "<td>r</td><td>16</td><td>4</td>" in text


def test_a_run_that_has_nothing_yet() -> None:
    bare = {"id": "x", "name": "x", "state": "damaged", "problem": "cannot read plan.json"}
    text = page([Told(bare)])
    parsed(text)
    assert "cannot read plan.json" in text
    assert "<h2>" not in text
    parsed(page([Told(bare), Told(record())]))


def test_texts_of_exports(tmp_path: Path) -> None:
    for name, body in (
        ("vllm/serve.sh", "vllm"),
        ("ollama/Modelfile", "FROM x"),
        ("gguf/README.md", "no"),
        ("vllm/EXPORT.json", "{}"),
    ):
        path = tmp_path / "exports" / "step-2" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body, encoding="utf-8")
    assert serving(Run(tmp_path)) == {"step-2/ollama/Modelfile": "FROM x", "step-2/vllm/serve.sh": "vllm"}
    assert serving(Run(tmp_path / "none")) == {}


def test_charts() -> None:
    assert ticks(0, 6.8, 5) == [0, 2, 4, 6, 8]
    assert ticks(0.7, 0.82, 5)[0] <= 0.7 < 0.82 <= ticks(0.7, 0.82, 5)[-1]
    assert [number(v) for v in (0, 6.3e-7, 0.003, 0.705, 1.82, 2034, 40_866, 3.2e6)] == [
        "0", "6.3e-7", "0.003", "0.705", "1.82", "2,034", "40.9k", "3.2M",
    ]  # fmt: skip
    assert chart("x", [Series("a", ((1.0, 2.0),))]) == ""
    assert chart("x", []) == ""
    for points in (
        ((0, 1), (1, 1)),
        ((0, 0), (1, 0)),
        ((5, -2), (9, 3)),
        ((0, 1e-9), (1, 2e-9)),
        ((0, 1), (1, float("nan")), (2, 3)),
    ):
        drawn = chart(
            "<x>",
            [
                Series("a", tuple((float(x), float(y)) for x, y in points)),
                Series("b", ((0.0, 1.0), (2.0, 1.0)), 1, True),
            ],
        )
        places = [float(n) for n in re.findall(r"[ML](-?[\d.]+) ", drawn)]
        assert places
        assert all(0 <= x <= 860 for x in places)
        assert "nan" not in drawn
        assert "<x>" not in drawn
        ends = sorted(float(y) for y in re.findall(r'class="end[^>]* y="([\d.]+)"', drawn))
        assert ends[1] - ends[0] >= 14.9
