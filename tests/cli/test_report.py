"""`tune report`: where the file goes, and that it is whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ID = "20261120-214500-demo-l4-9f3a"


@pytest.fixture
def run(demo: Any) -> Any:
    """A run that has ended, and warned of something."""
    demo.event("start", total_steps=20, train_rows=90)
    demo.log(1, 2.5)
    demo.event("warning", what="3 rows <were> cut", hint="raise training.max_length")
    demo.log(20, 1.5)
    demo.event("eval", step=20, epoch=2.0, metrics={"eval_loss": 0.9})
    demo.result(step=20, metrics={"last_loss": 1.5, "eval_loss": 0.9})
    return demo.run


def test_it_lies_in_the_run(tune: Callable[..., Any], run: Any) -> None:
    said = tune("report", "latest")
    path = run.path / "report.html"
    assert (said.code, said.out.split("  ")[0]) == (0, f"wrote runs/{ID}/report.html")
    text = path.read_text(encoding="utf-8")
    assert "3 rows &lt;were&gt; cut" in text
    assert "base/qlora · demo.yaml" in text
    assert text.endswith("</html>\n")
    assert [p.name for p in run.path.glob("*report*")] == ["report.html"]
    assert tune("report", "latest", "--json").json() == {"report": str(path), "runs": [ID], "bytes": len(text.encode())}


def test_another_place(tune: Callable[..., Any], run: Any, tmp_path: Path) -> None:
    assert tune("report", ID, "--output", "new/page.html").code == 0
    assert (tmp_path / "new/page.html").is_file()
    assert tune("report", ID, "--output", "new").code == 0
    assert (tmp_path / "new/report.html").is_file()
    (tmp_path / "file").write_text("x")
    said = tune("report", ID, "--output", "file/page.html")
    assert said.code == 74
    assert said.err.startswith("error: cannot write file/page.html: ")
    assert "hint: choose another file with --output" in said.err


def test_several_runs_never_take_the_place_of_one(tune: Callable[..., Any], run: Any, tmp_path: Path) -> None:
    assert tune("report", ID).code == 0
    alone = (run.path / "report.html").read_bytes()
    for other in ("b", "c", "x" * 100):
        shutil.copytree(run.path, run.path.with_name(other))
    said = tune("report", ID, "runs/b", "runs/c")
    assert (said.code, said.out.split("  ")[0]) == (0, f"wrote runs/report-{ID}-b-c.html")
    assert (run.path / "report.html").read_bytes() == alone
    assert tune("report", "runs/b", "runs/" + "x" * 100, ID).out.startswith("wrote runs/report-b-and-2-more.html")
    assert tune("report", ID, "runs/b", "--output", str(run.path)).out.startswith(f"wrote runs/{ID}/report-{ID}-b.html")
    assert (run.path / "report.html").read_bytes() == alone


def test_a_browser_is_opened_when_asked(tune: Callable[..., Any], run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert tune("report", ID).code == 0
    assert opened == []
    assert tune("report", ID, "--open").code == 0
    assert opened == [(run.path / "report.html").as_uri()]


def test_a_damaged_run_has_a_page_too(tune: Callable[..., Any], run: Any) -> None:
    (run.path / "events.jsonl").write_text('{"type": "log"\nnot json\n', encoding="utf-8")
    (run.path / "plan.json").write_text("{", encoding="utf-8")
    assert tune("report", ID).code == 0
    assert "cannot read" in (run.path / "report.html").read_text(encoding="utf-8")
    assert tune("report", "nothing").code == 2
