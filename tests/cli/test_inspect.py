"""`tune data inspect`: what its page says of a report, what it asks the engine for, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.cli import console
from nothing_tune.cli.console import Ink
from nothing_tune.cli.data import drawing, examples, inspect, page
from nothing_tune.cli.view import View, data, rows_used
from nothing_tune.launchers import local

pytestmark = pytest.mark.engine  # nothing heavy is imported, but it takes seconds

JOB = """
import json, sys, time
asked = json.loads(sys.stdin.readline())
open(sys.argv[1], "w").write(json.dumps(asked))
print("noise of a library", flush=True)
print("more of it", file=sys.stderr, flush=True)
print(json.dumps({"type": "progress", "what": "reading", "rows": 1200, "share": 0.4}), flush=True)
for line in json.loads(sys.argv[2]):
    print(json.dumps(line), flush=True)
if "wait" in sys.argv:
    time.sleep(60)
"""

TRAIN = {
    "rows": 797,
    "sequences": 797,
    "tokens": 91204,
    "supervised_tokens": 41100,
    "tokens_before": 95414,
    "lengths": {"min": 12, "p25": 86, "p50": 131, "p75": 190, "p95": 320, "p99": 480, "max": 1004, "mean": 119.7},
    "histogram": [
        [low, low + 100, n]
        for low, n in zip(range(0, 1100, 100), [332, 290, 111, 44, 14, 4, 1, 0, 0, 0, 1], strict=True)
    ],
    "cut": {"rows": 6, "tokens": 4210, "supervised_tokens": 3900, "answers": 5},
    "roles": {"user": 1030, "assistant": 1030, "system": 797},
    "turns": {"min": 3, "p50": 3, "max": 9, "mean": 3.6},
    "fields": {"level": {"B1": 420, "A1": 310, "C2": 67}},
    "padding": {"plain": 0.312, "grouped": 0.041, "packed": 0.006},
    "strangest": [
        {"place": "data/a.jsonl:212", "why": "very long", "tokens": 1004, "text": "Scrivimi\nuna \x1b[31mlettera"},
        {"place": "more.csv, row 3", "why": "very short", "tokens": 12, "text": "Ciao"},
    ],
}
EVAL = {
    **TRAIN,
    "rows": 88,
    "sequences": 88,
    "tokens": 10113,
    "supervised_tokens": 4500,
    "lengths": {"min": 14, "p25": 86, "p50": 129, "p75": 191, "p95": 300, "p99": 400, "max": 466, "mean": 114.9},
    "cut": {"rows": 0, "tokens": 0, "supervised_tokens": 0, "answers": 0},
    "roles": {"user": 110, "assistant": 110, "system": 88},
    "turns": {"min": 3, "p50": 3, "max": 3, "mean": 3.0},
    "strangest": [],
}
SOURCE = {"format": "messages", "kind": "messages", "files": 1, "bytes": 812345, "weight": None, "max_rows": None}
REPORT: dict[str, Any] = {
    "version": 1,
    "name": "marco",
    "model": "org/model",
    "template": "chatml",
    "format": "alpaca",
    "kind": "messages",
    "max_length": 512,
    "truncation": "right",
    "packing": False,
    "sources": [
        {**SOURCE, "name": "data/a.jsonl", "read": 800, "bad": 3, "rows": 797, "used": 700},
        {**SOURCE, "name": "more.csv", "format": "alpaca", "read": 250, "bad": 0, "rows": 250, "used": 185, "weight": 0.5},
    ],
    "bad_rows": {
        "read": 1050, "count": 3,
        "share": 0.0029,
        "examples": [["data/a.jsonl:9", "message 2 has no `role`"], ["data/a.jsonl:10", "not valid JSON"]],
    },
    "dropped": {
        "duplicates": 12, "near_duplicates": 0, "leaked": 2, "too_short": 1, "too_long": 0, "over_max_length": 0,
        "unsupervised": 0, "capped": 1039,
    },
    "duplicates": {"examples": [["data/a.jsonl:77", "data/a.jsonl:3"], ["more.csv, row 8", "data/a.jsonl:4"]]},
    "leaked": {"examples": [["data/a.jsonl:90", "eval.jsonl:31"]]},
    "split": "a tenth of the rows, seed 42",
    "train": TRAIN,
    "eval": EVAL,
    "steps": {"per_epoch": 50, "total": 150, "epochs": 3, "global_batch": 16},
    "cached": False,
    "seconds": 1.23,
    "findings": [
        {"severity": "advice", "what": "the padding token is the end token", "hint": "", "key": "", "rows": []},
        {
            "severity": "warning",
            "what": "5 of 1030 answers are cut at 512 tokens: 3900 tokens of them are lost",
            "hint": "training.max_length=1024 keeps all; data.truncation=drop leaves such rows out",
            "key": "training.max_length",
            "rows": ["data/a.jsonl:212", "data/a.jsonl:213"],
        },
        {"severity": "warning", "what": "12 rows were left out as duplicates", "hint": "data.dedupe=none keeps them",
         "key": "data.dedupe", "rows": ["data/a.jsonl:77 = data/a.jsonl:3"]},
    ],
}  # fmt: skip
NONE = {"read": 0, "count": 0, "share": 0.0, "examples": []}
ERROR = {"severity": "error", "what": "the end of the turn is never learned", "hint": "mend it", "key": "", "rows": []}


def _piece(text: str, supervised: bool = False, special: bool = False) -> dict[str, Any]:
    return {"text": text, "supervised": supervised, "special": special}


EXAMPLES: list[dict[str, Any]] = [
    {
        "place": "data/a.jsonl:3",
        "row": 0,
        "tokens": 21,
        "supervised": 9,
        "cut": 0,
        "pieces": [
            _piece("<|im_start|>", special=True),
            _piece("user\nCome si dice\t«cat»?\x1b[31m"),
            _piece("<|im_end|>", special=True),
            _piece("\n"),
            _piece("<|im_start|>", special=True),
            _piece("assistant\n"),
            _piece("Si dice «gatto».\nFacile.", True),
            _piece("<|im_end|>", True, True),
            _piece("\n"),
        ],
    },
    {
        "place": "data/a.jsonl:212",
        "row": 1,
        "tokens": 512,
        "supervised": 2,
        "cut": 492,
        "pieces": [_piece("Ciao\n", True)],
    },
]

PAGE = """\
data/a.jsonl  prepared in 1.2 s
  model       org/model
  tokens      of models/nano; --model NAME counts yours
  template    chatml
  format      alpaca, read as messages
  length      rows of up to 512 tokens, longer ones lose their end
  evaluation  a tenth of the rows, seed 42
  steps       150: 797 rows, 16 a step, 50 steps an epoch, 3 epochs

sources
                format         size  read  bad  rows  used  share  weight
  data/a.jsonl  messages  793.3 KiB   800    3   797   700   79 %       -
  more.csv      alpaca    793.3 KiB   250    0   250   185   21 %     0.5

left out
      3  bad rows (0.3 % of all)
         data/a.jsonl:9: message 2 has no `role`
         data/a.jsonl:10: not valid JSON
     12  duplicates
         data/a.jsonl:77 says the same as data/a.jsonl:3
         more.csv, row 8 says the same as data/a.jsonl:4
      2  also in the evaluation data
         data/a.jsonl:90 is also eval.jsonl:31
      1  shorter than data.min_tokens
  1,039  above a limit: max_rows, weight or max_samples

totals                             train              eval
  rows                               797                88
  tokens                          91,204            10,113
  learned                         41,100             4,500
  share learned                     45 %              44 %
  turns a row           3 to 9, mean 3.6                 3
    system                           797                88
    user                           1,030               110
    assistant                      1,030               110

length  tokens of a training row before cutting
      0 -    99  ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇  332
    100 -   199  ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇        290
    200 -   299  ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇                                 111
    300 -   399  ▇▇▇▇▇▇                                           44
    400 -   499  ▇▇                                               14
    500 -   599  ▇                                                 4  ← max_length 512
    600 -   699  ▏                                                 1
      …
  1,000 - 1,099  ▏                                                 1

         min  25 %  median  75 %  95 %  99 %    max   mean
  train   12    86     131   190   320   480  1,004  119.7
  eval    14    86     129   191   300   400    466  114.9

cut at 512 tokens                  train              eval
  rows                         6   0.8 %                 0
  tokens lost              4,210   4.4 %                 0
  learned lost             3,900   8.7 %                 0
  answers not whole                    5                 0

level
  A1  ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇          310    39 %
  B1  ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇  420    53 %
  C2  ▇▇▇▇▇                              67   8.4 %

padding  share of a batch that holds no token
  in chance order      31 %  ▇▇▇▇▇▇▇▇▇▇
  grouped by length   4.1 %  ▇
  packed              0.6 %  ▏

strangest rows
  data/a.jsonl:212  1,004 tokens  very long
    Scrivimi una <U+001B>[31mlettera
  more.csv, row 3      12 tokens  very short
    Ciao

warning: 5 of 1030 answers are cut at 512 tokens: 3900 tokens of them are lost
  rows: data/a.jsonl:212, data/a.jsonl:213
  hint: training.max_length=1024 keeps all; data.truncation=drop leaves such rows out
warning: 12 rows were left out as duplicates
  hint: data.dedupe=none keeps them
advice: the padding token is the end token

ready, with care: 2 warnings, 1 advice
"""
SHOWN = """\

as the model sees it  ⟦learned⟧  the rest is only read  ↵ line break

data/a.jsonl:3  21 tokens, 9 learned
│ <|im_start|>user↵
│ Come si dice⇥«cat»?<U+001B>[31m<|im_end|>↵
│ <|im_start|>assistant↵
│ ⟦Si dice «gatto».↵
│ Facile.<|im_end|>⟧↵

data/a.jsonl:212  512 tokens, 2 learned
│ ⟦Ciao↵⟧
│ … 492 tokens cut off
"""


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`jobs(event, ...)`: the next job answers with these events; what was asked is `jobs.asked()`."""

    class Jobs:
        def __init__(self) -> None:
            self.processes: list[subprocess.Popen[bytes]] = []
            self.logs: list[Path] = []

        def __call__(self, *events: dict[str, Any], wait: bool = False) -> None:
            def job(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
                assert arguments == ["inspect"]
                command = [sys.executable, "-c", JOB, str(tmp_path / "asked"), json.dumps(events)]
                pipe = subprocess.PIPE
                with open(log, "ab") as noise:
                    call = [*command, "wait"] if wait else command
                    self.processes.append(subprocess.Popen(call, stdin=pipe, stdout=pipe, stderr=noise))
                self.logs.append(log)
                return self.processes[-1]

            monkeypatch.setattr(local, "job", job)

        def asked(self) -> Any:
            return json.loads((tmp_path / "asked").read_text(encoding="utf-8"))

    return Jobs()


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    return "data/a.jsonl"


def report(**changes: Any) -> dict[str, Any]:
    return {"type": "report", "report": {**REPORT, **changes}, "examples": EXAMPLES}


def test_page(tune: Callable[..., Any], jobs: Any, file: str) -> None:
    jobs(report())
    result = tune("data", "inspect", file, "--show", "2", "--gpu", "l4", "data.max_bad_rows=0.01")
    assert (result.code, result.out, result.err) == (0, PAGE + SHOWN, "")
    asked = jobs.asked()
    assert asked["show"] == 2
    plan = asked["plan"]
    assert Path(plan["data"]["train"]).name == "a.jsonl"
    assert Path(plan["model"]["name_or_path"]).parts[-2:] == ("models", "nano")
    assert (plan["data"]["eval"], plan["training"]["eval_strategy"]) == (None, "no")
    assert not jobs.logs[0].exists()
    assert jobs.processes[0].poll() is not None


def test_what_is_asked_of_a_recipe(tune: Callable[..., Any], jobs: Any) -> None:
    jobs({**report(findings=[], bad_rows=NONE), "examples": []})
    result = tune("data", "inspect", "quickstart", "--model", "org/other", "--gpu", "cpu", "data.max_samples=7")
    plan = jobs.asked()["plan"]
    assert result.code == 0
    assert result.out.splitlines()[:3] == [
        "quickstart  prepared in 1.2 s",
        "  model       org/model",
        "  template    chatml",
    ]
    assert result.out.endswith("\nready: nothing stands against training on this\n")
    assert (plan["model"]["name_or_path"], plan["data"]["max_samples"]) == ("org/other", 7)
    assert plan["data"]["eval"].endswith("quickstart.eval.jsonl")
    assert jobs.asked()["show"] == 0


def test_a_source_may_be_split(tune: Callable[..., Any], jobs: Any, file: str) -> None:
    jobs(report(bad_rows=NONE))
    assert tune("data", "inspect", file, "--model", "org/model", "data.eval=0.2").code == 0
    plan = jobs.asked()["plan"]
    assert (plan["data"]["eval"], plan["training"]["eval_strategy"]) == (0.2, "steps")


def test_an_error_leaves_with_2(tune: Callable[..., Any], jobs: Any, file: str) -> None:
    jobs(report(findings=[*REPORT["findings"], ERROR], bad_rows=NONE))
    result = tune("data", "inspect", file)
    assert result.code == 2
    assert "\nerror: the end of the turn is never learned\n  hint: mend it\nwarning: 5 of" in result.out
    assert "\nnot ready: 1 error, 2 warnings, 1 advice\n" in result.out
    assert result.err == ""


def test_too_many_bad_rows_are_an_error_of_the_report(tune: Callable[..., Any], jobs: Any, file: str) -> None:
    """They do not hide what else is to be seen, as they do when a training is refused."""
    bad = {"read": 1050, "count": 3, "share": 3 / 1050, "examples": [["data/a.jsonl:9", "not JSON"]]}
    finding = {"severity": "warning", "what": "3 rows", "hint": "", "key": "data.max_bad_rows", "rows": []}
    said = {
        "0": "error: 3 of 1,050 rows are bad, and none may be\n",
        "0.001": "error: 3 of 1,050 rows are bad, and 0.100% may be\n",
        "0.01": "\nwarning: 3 rows\n",
    }
    for share, text in said.items():
        jobs(report(bad_rows=bad, findings=[finding]))
        result = tune("data", "inspect", file, f"data.max_bad_rows={share}")
        assert result.code == (2 if text.startswith("error") else 0)
        assert text in result.out
        assert "data/a.jsonl:9: not JSON" in result.out
        assert ("warning: 3 rows" in result.out) == (share == "0.01")
        assert jobs.asked()["plan"]["data"]["max_bad_rows"] == 1.0


def test_json(tune: Callable[..., Any], jobs: Any, file: str) -> None:
    for findings, code in ((REPORT["findings"], 0), ([ERROR], 2)):
        jobs(report(findings=findings, bad_rows=NONE))
        result = tune("data", "inspect", file, "--json")
        assert (result.code, result.err) == (code, "")
        assert result.json() == {"report": {**REPORT, "findings": findings, "bad_rows": NONE}, "examples": EXAMPLES}


def test_errors_of_the_job(tune: Callable[..., Any], jobs: Any, file: str) -> None:
    bad = [
        {
            "what": f"data/a.jsonl:{n}: not valid JSON",
            "key": "",
            "place": None,
            "layer": "",
            "hint": "",
            "severity": "error",
        }
        for n in (3, 9)
    ]
    jobs({"type": "error", "what": "unused", "hint": "", "exit_code": 2, "problems": bad})
    result = tune("data", "inspect", file)
    assert (result.code, result.out) == (2, "")
    assert result.err == "error: data/a.jsonl:3: not valid JSON\nerror: data/a.jsonl:9: not valid JSON\n"
    assert tune("data", "inspect", file, "--json").json() == {"errors": bad, "exit_code": 2}
    jobs({"type": "error", "what": "the disk is full", "hint": "free some space", "exit_code": 74})
    result = tune("data", "inspect", file)
    assert (result.code, result.err) == (74, "error: the disk is full\n  hint: free some space\n")
    assert not [log for log in jobs.logs if log.exists()]


def test_a_job_that_dies(tune: Callable[..., Any], jobs: Any, file: str) -> None:
    """What libraries said is kept, and named."""
    jobs()
    result = tune("data", "inspect", file)
    [log] = jobs.logs
    assert result.code == 5
    assert result.err == f"error: the inspection ended without a word\n  hint: {log} has the libraries' words\n"
    assert log.read_text(encoding="utf-8") == "more of it\n"
    log.unlink()


@pytest.mark.parametrize(("code", "ask"), [(1, "please report it; "), (5, "")])
def test_an_error_that_nobody_foresaw(tune: Callable[..., Any], jobs: Any, file: str, code: int, ask: str) -> None:
    """There is no run whose engine.log could tell more: the job's own log is kept, and named."""
    jobs({"type": "error", "what": "KeyError: x", "hint": "engine.log has the whole story", "exit_code": code})
    result = tune("data", "inspect", file)
    [log] = jobs.logs
    assert (result.code, result.err) == (code, f"error: KeyError: x\n  hint: {ask}{log} has the libraries' words\n")
    log.unlink()


def test_usage(tune: Callable[..., Any], file: str) -> None:
    cases = {
        (): "which data? none is named",
        ("a.jsonl", "b.jsonl"): "two sources are given: a.jsonl and b.jsonl",
        ("marcoo",): "no file, folder or recipe marcoo\n  hint: did you mean marco?",
        ("a.jsonl",): "there is no file a.jsonl: looked for a.jsonl\n"
        "  hint: name a file, a folder, a pattern in quotes, a hub id or a recipe\n",
        (
            "data/b.jsonl",
        ): "there is no file data/b.jsonl: looked for data/b.jsonl\n  hint: did you mean data/a.jsonl?\n",
        ("data/a.jsonl", "--model", "./none"): "model.name_or_path: there is no model folder ./none\n",
        ("marco", "--gpu", "cpu"): "data.train: there is no file data/marco.jsonl",
        ("none.yaml",): "no recipe 'none.yaml'",
        ("quickstart", "data.trian=x"): "data.trian is not a key of data",
    }
    for words, said in cases.items():
        result = tune("data", "inspect", *words)
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith(f"error: {said}"), result.err


def test_ctrl_c(jobs: Any, file: str, tune: Callable[..., Any]) -> None:
    jobs(wait=True)

    def press() -> None:
        latest = time.monotonic() + 30
        while time.monotonic() < latest and not over.is_set():
            if jobs.processes and Path("asked").exists():
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.01)

    over = threading.Event()
    thread = threading.Thread(target=press)
    thread.start()
    result = tune("data", "inspect", file)
    over.set()
    thread.join()
    assert (result.code, result.out, result.err) == (130, "", "stopped; nothing was kept\n")
    assert jobs.processes[0].poll() is not None
    assert not jobs.logs[0].exists()


def test_what_is_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "quickstart").write_text("{}", encoding="utf-8")
    cases = {"marco": True, "templates/quick-start-7b": True, "my.yaml": True, "org/rows": False, "rows.jsonl": False}
    for name, expected in {**cases, "quickstart": False, "gpus/l4": False}.items():
        assert inspect.is_recipe(name) is expected, name


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_nothing_is_wider_than_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "width", lambda: columns)
    long = "very/" * 30 + "long.jsonl"
    changed = {
        **REPORT,
        "sources": [{**r, "name": long, "files": 12, "weight": 2, "max_rows": 10**6} for r in REPORT["sources"]],
        "duplicates": {"examples": [[f"{long}:1", f"{long}:2"]]},
        "bad_rows": {"read": 10, "count": 1, "share": 0.1, "examples": [[f"{long}:3", "wrong " * 50]]},
        "train": {
            **TRAIN,
            "strangest": [{"place": f"{long}:4", "why": "w" * 90, "tokens": 10**6, "text": "日本" * 90}],
        },
        "findings": [{**ERROR, "what": "word " * 60, "hint": "word " * 60, "rows": [f"{long}:5"] * 9}],
    }
    shown = [*page.lines(changed, "marco", "", columns, Ink(True)), *examples.lines(EXAMPLES, columns, Ink(True))]
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown]
    assert [line for line in plain if drawing.wide(line) > columns] == []
    assert "\x1b" not in "".join(plain)
    assert sum("long.jsonl:" in line for line in plain) >= 4


def test_colours_of_an_example() -> None:
    """Green is learned, bold its special tokens; cyan are special tokens that are only read; no brackets."""
    _, head, *body = examples.lines(EXAMPLES[:1], 80, Ink(True))
    assert head == "\x1b[1mdata/a.jsonl:3\x1b[0m  \x1b[2m21 tokens, 9 learned\x1b[0m"
    assert body[0] == "\x1b[2m│\x1b[0m \x1b[36m<|im_start|>\x1b[0m\x1b[2muser\x1b[0m\x1b[33m↵\x1b[0m"
    assert body[-1] == ("\x1b[2m│\x1b[0m \x1b[32mFacile.\x1b[0m\x1b[1m\x1b[32m<|im_end|>\x1b[0m\x1b[0m\x1b[33m↵\x1b[0m")
    assert "⟦" not in "".join(body)


def test_a_beginning_that_was_cut_off() -> None:
    assert examples.lines(EXAMPLES[1:], None, Ink(False), "left")[2:] == ["│ … 492 tokens cut off", "│ ⟦Ciao↵⟧"]


def test_a_long_line_goes_on_below() -> None:
    pieces = [_piece("x" * 25, True), _piece("日本語" * 4)]
    lines = examples.lines(
        [{"place": "a:1", "tokens": 9, "supervised": 5, "cut": None, "pieces": pieces}], 22, Ink(False)
    )
    assert lines[2:] == ["│ ⟦" + "x" * 19, "│ xxxxxx⟧日本語日本語", "│ 日本語日本語"]


def test_drawing() -> None:
    assert [drawing.bar(x, 4) for x in (0.0, 0.01, 0.5, 1.0, 7.0)] == ["", "▏", "▇▇", "▇▇▇▇", "▇▇▇▇"]
    shares = (None, 0.0, 0.0001, 0.006, 0.0996, 0.45, 0.996, 0.9999, 1.0)
    assert [drawing.percent(x) for x in shares] == [
        "-", "0 %", "<0.1 %", "0.6 %", "10 %", "45 %", "99.6 %", "99.9 %", "100 %",
    ]  # fmt: skip
    assert [drawing.count(x) for x in (None, 0, 12345, 3.25)] == ["-", "0", "12,345", "3.2"]
    assert drawing.short("a/b/rows.jsonl:12", 9) == "…jsonl:12"
    assert drawing.one_line("a\n b\tc  日本", 9) == "a b c 日…"
    assert drawing.harmless("\x00\x7f\x9b\u202eé\n") == "<U+0000><U+007F><U+009B><U+202E>é\n"
    assert drawing.wide("日e\u0301") == 3
    assert drawing.pad("日本語", 5) == "日本…"


def test_histogram() -> None:
    bins = [[0, 8, 4], [8, 16, 2], [16, 24, 0], [24, 32, 0], [32, 40, 1]]
    draw = lambda limit: drawing.histogram(bins, limit, 24, Ink(False))  # noqa: E731
    assert draw(None) == [
        " 0 -  7  ▇▇▇▇▇▇▇▇▇▇▇▇  4",
        " 8 - 15  ▇▇▇▇▇▇        2",
        " …",
        "32 - 39  ▇▇▇           1",
    ]
    assert draw(16)[1:4] == [
        " 8 - 15  ▇▇▇▇▇▇        2",
        "─────── max_length 16 ──",
        " …",
    ]
    assert draw(20)[2:5] == ["16 - 23                0", "─────── max_length 20 ──", "24 - 31                0"]
    assert draw(12)[1] == " 8 - 15  ▇▇▇▇      2  ← max_length 12"
    assert drawing.histogram([[5, 6, 1], [6, 7, 3]], None, 14, Ink(False)) == [
        "5      ▇▇▇       1",
        "6      ▇▇▇▇▇▇▇▇  3",
    ]
    assert drawing.histogram([[0, 8, 0]], 4, 24, Ink(False)) == []


def test_values_of_a_field() -> None:
    assert drawing.values({"10": 1, "9": 1, "2": 2}, 30, Ink(False)) == [
        "2   ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇  2    50 %",
        "9   ▇▇▇▇▇▇▇▇         1    25 %",
        "10  ▇▇▇▇▇▇▇▇         1    25 %",
    ]
    many = drawing.values({f"name {n}": 20 - n for n in range(15)}, 60, Ink(False))
    assert len(many) == 13
    assert many[-1].split() == ["3", "more", "21", "11", "%"]
    assert drawing.values({"A1": 3, "": 1}, 40, Ink(False)) == [
        f"A1      {'▇' * 21}  3    75 %",
        f"(none)  {'▇' * 7}{' ' * 14}  1    25 %",
    ]


def test_only_rows(tune: Callable[..., Any], jobs: Any, file: str) -> None:
    """No report, but whether something stands against training, and the exit code says so, too."""
    cases: dict[str, tuple[list[Any], int, str]] = {
        "ready": ([], 0, ""),
        "warned": (
            REPORT["findings"],
            0,
            "\nready, with care: 2 warnings, 1 advice; without --only-rows they are told\n",
        ),
        "refused": ([ERROR], 2, "\nnot ready: 1 error; without --only-rows they are told\n"),
    }
    for findings, code, end in cases.values():
        jobs(report(findings=findings, bad_rows=NONE))
        result = tune("data", "inspect", file, "--only-rows")
        assert (result.code, result.out, result.err) == (code, SHOWN[1:] + end, "")
        assert jobs.asked()["show"] == 3
    jobs(report(bad_rows=NONE))
    assert tune("data", "inspect", file, "--only-rows", "--show", "5", "--json").json() == {"examples": EXAMPLES}
    assert jobs.asked()["show"] == 5


def test_how_rows_are_read(tune: Callable[..., Any], jobs: Any, tmp_path: Path) -> None:
    """The options of the other commands, as keys of the recipe; an override behind them wins."""
    (tmp_path / "log.csv").write_text("who,line\nELAINE,hello\nJERRY,hi\n", encoding="utf-8")
    words = ["--format", "transcript", "--columns", "speaker=who", "--columns", "text=line", "--speaker", "JERRY"]
    jobs(report(bad_rows=NONE))
    result = tune("data", "inspect", "log.csv", *words, "--turns", "4", "data.transcript.turns=6")
    assert (result.code, result.err) == (0, "")
    data = jobs.asked()["plan"]["data"]
    assert (data["format"], data["columns"]) == ("transcript", {"speaker": "who", "text": "line"})
    assert (data["transcript"]["speaker"], data["transcript"]["turns"]) == ("JERRY", 6)


def test_a_file_that_cannot_be_read_starts_no_engine(
    tune: Callable[..., Any], jobs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs()
    (tmp_path / "bad.jsonl").write_text("a\n", encoding="utf-8")
    result = tune("data", "inspect", str(tmp_path / "bad.jsonl"))
    assert (result.code, jobs.processes) == (2, [])
    assert result.err.startswith("error: bad.jsonl:1: ")
    assert "error: bad.jsonl has no row that can be read\n" in result.err


def test_rows_that_are_no_examples() -> None:
    left = {"the opening line of a speaker": {"count": 12, "examples": ["log.csv:1", "log.csv:9"]}}
    steps = {"per_epoch": 50, "total": 38, "epochs": 0.756789, "global_batch": 16}
    lines = page.lines({**REPORT, "left_out": left, "steps": steps}, "x", "", 100, Ink(False))
    at = lines.index("     12  the opening line of a speaker")
    assert lines[at + 1 : at + 3] == ["         log.csv:1", "         log.csv:9"]
    assert "  steps       38: 797 rows, 16 a step, 50 steps an epoch, 0.76 epochs" in lines


def test_rows_that_are_split_lose_nothing() -> None:
    cut = {"rows": 3, "tokens": 0, "supervised_tokens": 0, "answers": 2}
    lines = page.lines({**REPORT, "truncation": "split", "train": {**TRAIN, "cut": cut}}, "x", "", 100, Ink(False))
    at = lines.index("split at 512 tokens                train              eval")
    assert lines[at + 1 : at + 4] == [
        "  rows                         3   0.4 %                 0",
        "  answers split                        2                 0",
        "",
    ]


def test_a_row_that_spells_special_tokens() -> None:
    finding = {
        "what": "the text of 1 row holds special tokens, which the model reads as such",
        "rows": ["data/a.jsonl:212"],
    }
    named = examples.spelled([finding, *REPORT["findings"]])
    shown = examples.lines(EXAMPLES, None, Ink(False), spelled=named)
    assert shown.count("holds special tokens in its text") == 1
    assert shown[shown.index("holds special tokens in its text") - 1] == "data/a.jsonl:212  512 tokens, 2 learned"


def test_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console, "is_terminal", lambda stream=None: True)
    monkeypatch.setattr(inspect, "DRAW_S", 0.0)
    line = inspect.Progress()
    line.draw({"what": "reading", "rows": 1200, "share": 0.25})
    line.draw({"what": "packing", "rows": 1, "share": None})
    line.clear()
    line.draw({"what": "late", "rows": 1})
    assert capsys.readouterr().out.split("\r\x1b[2K") == [
        "",
        "  starting the engine…",
        f"  reading  {'━' * 8}{'─' * 24}  25 %  1,200 rows",
        "  packing  1 row",
        "",
    ]


FACTS = {
    "rows": 1316, "eval_rows": 49, "bad": 0, "duplicates": 3, "leaked": 1, "cut": 2, "max_length": 512, "format": "messages",
    "split": "a tenth of the rows, seed 42",
}  # fmt: skip


def test_what_a_run_says_of_its_rows(tune: Callable[..., Any], demo: Any) -> None:
    text = "1,316 rows of messages, 49 held out; 3 duplicates, 1 leaked row left out, 2 answers cut at 512 tokens"
    assert rows_used(FACTS) == text
    assert rows_used({**FACTS, "duplicates": 0, "leaked": 0, "cut": 1, "max_length": None}).endswith(
        "49 held out; 1 answer cut"
    )
    assert rows_used({"rows": 1, "eval_rows": 9, "split": "its own source"}) == "1 row, 9 to evaluate on"
    assert rows_used({}) == ""
    view = View()
    for _ in range(2):
        view.apply({"type": "start", "data": FACTS})
    assert view.take_notes() == [("note", f"data: {text}", "")]
    demo.event("start", data=FACTS)
    shown = tune("runs", "show", "latest").out
    assert f"  data       rows.jsonl, 10 % of it held out\n  rows       {text}\n" in shown


def test_sources_of_a_plan() -> None:
    mixed = [{"source": "a.jsonl", "weight": 2}, "org/rows"]
    assert data({"data": {"train": mixed, "eval": {"source": "b.csv"}}}) == "a.jsonl, org/rows, evaluated on b.csv"


@pytest.mark.engine
def test_the_real_job(tune: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reports all that the report of these tests holds, and what it reports can be drawn."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = [
        {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"it is {n} " * n}]}
        for n in range(1, 30)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in [*rows, rows[3]]), encoding="utf-8")
    words = ["rows.jsonl", "--gpu", "cpu", "--show", "2", "data.eval=0.2", "training.max_length=64"]
    found = tune("data", "inspect", *words, "--json").json()
    report = found["report"]
    assert set(REPORT) - {"version"} <= set(report)
    for name in ("train", "eval"):
        assert set(TRAIN) <= set(report[name])
        assert set(TRAIN["lengths"]) <= set(report[name]["lengths"])
    assert report["train"]["rows"] + report["eval"]["rows"] == 29
    assert report["dropped"]["duplicates"] == 1
    assert report["duplicates"]["examples"] == [[f"{tmp_path}/rows.jsonl:{n}" for n in (30, 4)]]
    assert report["train"]["cut"]["answers"] > 0
    assert [set(example) >= set(EXAMPLES[0]) for example in found["examples"]] == [True, True]
    result = tune("data", "inspect", *words)
    assert "1  duplicate\n     rows.jsonl:30 says the same as rows.jsonl:4\n" in result.out
    assert "max_length 64" in result.out
    assert "\ncut at 64 tokens " in result.out
    assert "⟦it is 1 <|im_end|>⟧↵\n" in result.out
