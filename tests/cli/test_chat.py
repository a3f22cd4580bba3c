"""`tune chat`, with a job that speaks the engine's protocol."""

from __future__ import annotations

import builtins
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.cli import console
from nothing_tune.cli.chat import screen
from nothing_tune.cli.chat.conversation import call_line, open_calls
from nothing_tune.launchers import local

JOB = """
import json, signal, sys, time
stopped = []
signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
def send(**fields): print(json.dumps(fields), flush=True)
print("noise of a library", flush=True)
send(type="ready", device="cpu", dtype="float32", context=64, can_leave_off="--base" not in sys.argv)
for line in sys.stdin:
    asked = json.loads(line)
    if "count" in asked:
        send(type="counted", tokens=sum(len(m["content"].split()) for m in asked["count"]["messages"]), context=64)
        continue
    text = " ".join(str(m["content"]) for m in asked["messages"]) + f" t={asked['temperature']}"
    last = asked["messages"][-1]["content"]
    if asked.get("base"):
        text = "base " + text
    if last == "fail":
        send(type="error", what="out of memory", hint="shorter", exit_code=71)
        continue
    if last == "long":
        send(type="error", what="too long", hint="/reset starts a new one", exit_code=2)
        continue
    if last == "die":
        break
    if last == "slow":
        for i in range(400):
            send(type="token", text="s ")
            if stopped:
                break
            time.sleep(0.01)
        send(type="done", text="s", tokens=1, finish="cancelled" if stopped else "length")
        continue
    extra = {}
    if last == "call":
        extra = {"words": "", "calls": [{"name": t["function"]["name"], "arguments": {"city": "Rome"}} for t in asked["tools"]]}
    for piece in text.split(" "):
        send(type="token", text=piece + " ")
    send(type="done", text=text + "\\x1b[31m", tokens=9, finish="stop", seconds=0.5, prompt_tokens=3, **extra)
"""


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Arguments of the jobs that were started."""
    started: list[list[str]] = []

    def job(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
        started.append([*arguments, log.name])
        command = [sys.executable, "-S", "-c", JOB, *arguments]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)

    monkeypatch.setattr(local, "job", job)
    return started


@pytest.fixture
def trained(demo: Any) -> Any:
    """A run that has handed something over."""
    demo.run.adapter.mkdir()
    (demo.run.adapter / "tokenizer_config.json").write_text("{}")
    return demo


@pytest.fixture
def typing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`typing("hello", "/quit")`: what a person types on a terminal; None is Ctrl-D."""

    def type_(*lines: str | None) -> None:
        queue: Iterator[str | None] = iter(lines)

        def ask(prompt: str = "") -> str:
            line = next(queue, None)
            if line is None:
                raise EOFError
            return line

        monkeypatch.setattr(builtins, "input", ask)
        monkeypatch.setattr(console, "is_terminal", lambda stream=None: True)
        monkeypatch.setattr(screen, "_with_readline", lambda: None)
        monkeypatch.setattr(console, "width", lambda: 90)
        stdin = io.StringIO()
        monkeypatch.setattr(stdin, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stdin", stdin)

    return type_


def test_prompt(tune: Callable[..., Any], trained: Any, jobs: list[list[str]]) -> None:
    result = tune("chat", "latest", "--prompt", "hello there", "--system", "be brief")
    assert (result.code, result.out, result.err) == (0, "be brief hello there t=0.0[31m\n", "")
    assert jobs == [["chat", str(trained.run.path), "chat.log"]]
    said = tune("chat", "latest", "--prompt", "hello", "--beside", "base", "--json", "--temperature", "0.5")
    ready, *answers = [json.loads(line) for line in said.out.splitlines()]
    assert (ready["type"], ready["context"], ready["name"]) == ("ready", 64, trained.run.id)
    assert [(a["who"], a["text"], a["finish"]) for a in answers] == [
        ("model", "hello t=0.5\x1b[31m", "stop"),
        ("base", "base hello t=0.5\x1b[31m", "stop"),
    ]
    assert len(jobs) == 2  # the base speaks through the same job


def test_base(tune: Callable[..., Any], demo: Any, jobs: list[list[str]]) -> None:
    result = tune("chat", "latest", "--prompt", "hello", "--base", "--temperature", "0.5")
    assert (result.code, result.out) == (0, "hello t=0.5[31m\n")
    assert jobs == [["chat", str(demo.run.path), "--base", "chat.log"]]


def test_a_pipe_has_no_commands_to_hint_at(
    tune: Callable[..., Any], trained: Any, jobs: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tune("chat", "latest", "--prompt", "long")
    assert (said.code, said.err) == (2, "error: too long\n  hint: a shorter --prompt or --system\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("long\n"))
    told = "shorter lines, or a tune chat for each: all of one input are one conversation"
    assert tune("chat", "latest").err == f"error: too long\n  hint: {told}\n"
    assert tune("chat", "latest", "--prompt", "fail").err == "error: out of memory\n  hint: shorter\n"


def test_lines(tune: Callable[..., Any], trained: Any, jobs: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal each input line gets its reply, the conversation is remembered, and nothing is a command."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\n/quit\n"))
    assert tune("chat", "latest").out == "one t=0.7[31m\none one t=0.7\x1b[31m /quit t=0.7\x1b[31m\n".replace(
        "\x1b", ""
    )


def test_what_cannot_be_talked_to(tune: Callable[..., Any], demo: Any, jobs: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("no model")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "config.json").write_text("{}")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "x").touch()
    (tmp_path / "tools.json").write_text('[{"type": "function", "function": {}}]')
    nothing = f"run {demo.run.id} has nothing to talk to yet: it is starting"
    for words, said, hint in (
        (("latest",), nothing, f"tune resume {demo.run.id} goes on; --base talks to the base model"),
        (("./gone/x",), f"there is no run and no model at {tmp_path}/gone/x", "tune runs lists the runs"),
        (("text.gguf",), "text.gguf is no GGUF file", "name a run, a model's folder or a .gguf file"),
        (("whole", "--base"), "whole is a whole model: it has no base beside it", "leave --base out"),
        (("whole", "--checkpoint", "3"), "whole is no run, so it has no checkpoints", "leave --checkpoint out"),
        (
            ("odd",),
            f"{tmp_path}/odd holds no run and no model",
            "a model's folder has a config.json, an adapter's an adapter_config.json, a run's a plan.json",
        ),
        (
            ("latest", "--base", "--tools", "gone.json"),
            "cannot read gone.json: No such file or directory",
            "name a JSON file with a list of functions",
        ),
        (
            ("latest", "--base", "--tools", "tools.json"),
            "tools.json: function 1 has no name",
            'write {"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}',
        ),
        (("latest", "--base", "--system", "@gone"), "cannot read gone: No such file or directory", "@FILE names a text file"),
    ):  # fmt: skip
        result = tune("chat", *words, "--prompt", "x")
        assert (result.code, result.err) == (2, f"error: {said}\n  hint: {hint}\n"), words
    assert jobs == []


def test_errors(tune: Callable[..., Any], demo: Any, jobs: list[list[str]]) -> None:
    for word, code, said in (("fail", 71, "out of memory"), ("die", 5, "the chat ended without a word")):
        result = tune("chat", "latest", "--prompt", word, "--base")
        assert result.code == code
        assert result.err.startswith(f"error: {said}\n")


def test_a_conversation(
    tune: Callable[..., Any], trained: Any, jobs: list[list[str]], typing: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "tools.json").write_text('{"tools": [{"name": "weather"}]}')
    typing(
        "one", "two", "/tokens", "/undo", "fail", "/retry", "//x", "/reset", "/system be brief", '"""a', 'b"""', "c\\", "d",
        "/temperature 0", "/temperature x", "/top-p 2", "/seed 4", "/seed off", "/rest", "/base", "e", "/base",
        "/save s.jsonl", "/save s.jsonl", "/save --append s.jsonl", "/result 1", "/tools tools.json", "call", '/result {"ok": true}',
        "/save t.jsonl", "/reset", "/undo", "/retry", "/load t.jsonl", "/load gone", "/save", "/help", "/quit", "never",
    )  # fmt: skip
    result = tune("chat", "latest")
    assert result.code == 0
    out, err = result.out.replace(screen.MARK, ">"), result.err
    assert out.startswith(
        f"{trained.run.id}: org/model, QLoRA\nloading…\r\x1b[Kcpu, float32, context of 64 tokens; /help lists"
    )
    assert "model > one t=0.7 \n9 tokens, 18.0 a second\n" in out
    for line in (
        "9 tokens of 64", "the last turn is taken back; 1 turn left", "model > one t=0.7 ", "model > one one t=0.7[31m /x t=0.7 ",
        "a new conversation", "the system message is set", "model > be brief a\nb t=0.7 ", "temperature 0", "seed 4",
        "seed is left to the model", "the base answers now; /base brings the adapter back", "the adapter is back",
        "saved to s.jsonl: 7 messages", "functions: weather", 'calls weather(city="Rome")', "/result TEXT says what it returned",
        "saved to t.jsonl: 11 messages", "11 messages from t.jsonl", "  /quit               leaves, as Ctrl-D does",
    ):  # fmt: skip
        assert f"\n{line}" in out, line
    assert "c\nd t=0.7" in out
    assert "\nbase > base be brief a\nb" in out
    assert "never" not in out
    for error in (
        "error: out of memory\n  hint: shorter\n", "error: /temperature takes a number, not 'x'\n",
        "error: /top-p takes 1e-06 to 1, not 2\n", "error: no such command: /rest\n  hint: did you mean /reset?\n",
        "error: there is a file s.jsonl\n  hint: /save --append s.jsonl adds to it, /save --force s.jsonl writes over it\n",
        "error: no call waits for a result\n", "error: there is nothing to take back\n", "error: there is nothing to answer yet\n",
        "error: cannot read gone: No such file or directory\n", "error: which file? /save FILE\n",
    ):  # fmt: skip
        assert error in err, error
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert rows[0]["messages"][:2] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a\nb"}]
    row = json.loads((tmp_path / "t.jsonl").read_text())
    assert row["tools"] == [{"type": "function", "function": {"name": "weather"}}]
    assert row["messages"][-3:-1] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}],
        },
        {"role": "tool", "name": "weather", "content": '{"ok": true}'},
    ]


def test_ctrl_c_ends_an_answer_and_not_the_program(
    tune: Callable[..., Any],
    trained: Any,
    jobs: list[list[str]],
    typing: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import signal

    pieces = 0
    printable = console.printable

    def seen(text: str) -> str:
        nonlocal pieces
        pieces += text == "s "
        if pieces == 3:
            signal.raise_signal(signal.SIGINT)
        return printable(text)

    monkeypatch.setattr(console, "printable", seen)
    typing("slow", "after")
    result = tune("chat", "latest")
    assert result.code == 0
    assert "\n1 token; stopped by you\n" in result.out
    assert "model > slow s after t=0.7" in result.out.replace(screen.MARK, ">")
    assert pieces < 400


def test_side_by_side(
    tune: Callable[..., Any],
    trained: Any,
    jobs: list[list[str]],
    typing: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    typing("a word " * 12)
    monkeypatch.setattr(console, "width", lambda: 120)
    lines = tune("chat", "latest", "--beside", "base").out.replace(screen.MARK, ">").splitlines()
    at = next(i for i, line in enumerate(lines) if line.endswith("model >" + " " * 54 + "base >"))
    assert lines[at + 1 : at + 4] == [
        "a word a word a word a word a word a word a word a word a    base a word a word a word a word a word a word a word a",
        "word a word a word a word  t=0.7[31m                         word a word a word a word a word  t=0.7[31m",
        "9 tokens, 18.0 a second                                      9 tokens, 18.0 a second",
    ]


def test_calls_are_written_and_counted() -> None:
    assert call_line({"name": "f", "arguments": {"a": "x", "b": [1]}}) == 'f(a="x", b=[1])'
    calls = [{"type": "function", "function": {"name": name, "arguments": {}}} for name in ("f", "g")]
    said = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": calls}]
    assert [c["name"] for c in open_calls(said)] == ["f", "g"]
    assert [c["name"] for c in open_calls([*said, {"role": "tool", "content": "1"}])] == ["g"]
    assert open_calls([*said, {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}]) == []
