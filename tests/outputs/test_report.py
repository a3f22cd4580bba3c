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
        "half the batch", "0.900 to 1.100", "vllm serve --x", "proof failed", "failed:</span> mean KL to the run", "a/b &amp; c",
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


def test_serving_texts_name_no_folder_of_this_machine() -> None:
    """Paths of this machine are cut to their names; what a command needs stays, as do relative paths."""
    script = (
        '#!/bin/sh\n# sh serve.sh\nset -e\ncd "$(dirname "$0")" 2>/dev/null\n'
        "exec vllm serve /home/me/models/nano \\\n  --lora-modules x=../adapter \\\n  --chat-template ../adapter/t.jinja\n"
        'model: "/home/me/models/nano"\n--api http://localhost:8000/v1/models\n'
        'FROM \'/mnt/my disk/a (1)/x.gguf\'\nFROM ../gguf/x.gguf\nPARAMETER stop "</s>"\nPARAMETER stop "\\n/u/v"\n'
        'TEMPLATE """{{ if .System }}</think>\n\n{{ .System }}{{ end }} either/or"""\n-m ~/models/y.gguf C:\\Users\\me\\z.gguf\n'
        "run in /mnt/my disk/runs/1/exports and /mnt/my disk/runs/1\n"
    )
    made = record(exports=[EXPORT], path="/mnt/my disk/runs/1")
    made["base"]["name_or_path"] = "/home/me/models/nano"
    told = Told(made, serving={"step-20/vllm/serve.sh": script}).public()
    assert told.serving["step-20/vllm/serve.sh"] == (
        '#!/bin/sh\n# sh serve.sh\nset -e\ncd "$(dirname "$0")" 2>/dev/null\n'
        "exec vllm serve nano \\\n  --lora-modules x=../adapter \\\n  --chat-template ../adapter/t.jinja\n"
        'model: "nano"\n--api http://localhost:8000/v1/models\n'
        'FROM \'x.gguf\'\nFROM ../gguf/x.gguf\nPARAMETER stop "</s>"\nPARAMETER stop "\\n/u/v"\n'
        'TEMPLATE """{{ if .System }}</think>\n\n{{ .System }}{{ end }} either/or"""\n-m y.gguf z.gguf\n'
        "run in 1/exports and 1\n"
    )
    text = page([told])
    assert "/home/me" not in page([Told(made, serving={"x": script})])
    assert "my disk" not in text


def test_checks_stand_with_what_they_are_set_against() -> None:
    checks = [
        {"name": "answers", "ok": True, "value": 3.4e-05, "limit": 0.002012, "what": "the answers are the run's"},
        {"name": "top-token", "ok": True, "value": 1.0, "limit": 0.95, "what": "tokens"},
        {"name": "differs-from-base", "ok": True, "value": 2.5, "limit": 3.204, "what": "it is not the base"},
        {"name": "dtype", "ok": None, "value": None, "limit": None, "what": "the type"},
        {"name": "stops", "ok": False, "value": 1, "limit": 3, "what": "it does not stop"},
    ]
    made = {**EXPORT, "folder": "step-20/adapter", "output": "adapter", "proof": {"ok": False, "checks": checks}}
    text = page([Told(record(exports=[made]))])
    part = text[text.index('<section id="exports"') :].partition("</section>")[0]
    assert '<h3>step-20/adapter <span class="quiet">4.0 KiB</span> <span class="bad">proof failed</span></h3>' in part
    rows = [re.sub(r"<.*?>", "|", row) for row in re.findall(r"<tr>(.*?)</tr>", part)]
    assert [[cell for cell in row.split("|") if cell] for row in rows] == [
        ["check", "measured", "set against"],
        ["failed:", " it does not stop", "1", "of 3 that the run ends"],
        ["the answers are the run&#x27;s", "3.4e-05", "at most 0.00201"],
        ["tokens", "100 %", "at least 95 %"],
        ["it is not the base", "2.5", "what the training changed: 3.2"],
        ["not looked at: ", "the type"],
    ]


def test_memory_of_a_cpu_is_told_as_what_it_is() -> None:
    words = "On a CPU the memory measured is that of the whole process"
    assert words in page([Told(record(machine={"device": "cpu"}))])
    assert words not in page([Told(record(machine={"device": "cuda:0"}))])


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
        "Evaluations side by side",
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
