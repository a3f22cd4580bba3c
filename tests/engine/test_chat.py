"""The chat job: JSON lines in, streamed tokens out, from runs, checkpoints, folders and GGUF files."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.engine import chat
from nothing_tune.engine.chat import calls, models, replies
from nothing_tune.engine.chat.pieces import Pieces
from nothing_tune.errors import UsageError
from tests.engine.support import MakeRun, train

ASK = {"messages": [{"role": "user", "content": "alpha"}], "max_new_tokens": 5}
GREEDY = {**ASK, "temperature": 0}


def talk(path: Path, *requests: Any, base: bool = False, weights: Path | None = None) -> list[dict[str, Any]]:
    out = io.StringIO()
    lines = io.StringIO("".join(json.dumps(r) + "\n" for r in requests))
    assert chat.main(path, base=base, lines=lines, out=out, weights=weights) == 0
    return [json.loads(line) for line in out.getvalue().splitlines()]


def last(events: list[dict[str, Any]], kind: str = "done") -> list[dict[str, Any]]:
    return [e for e in events if e["type"] == kind]


def test_it_streams_a_reply_and_survives_bad_requests(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    train(run)
    sampled = {**ASK, "temperature": 1.0, "seed": 3}
    long = {**GREEDY, "messages": [{"role": "user", "content": "alpha beta " * 10_000}]}
    counted = {"count": {"messages": ASK["messages"]}}
    said = talk(
        run.path, GREEDY, {"messages": []}, GREEDY, sampled, sampled, long, {**GREEDY, "base": True}, counted, GREEDY
    )
    assert {**said[0], "context": 2048} == {
        "type": "ready", "base": False, "device": "cpu", "dtype": "float32", "context": 2048, "kind": "transformers",
        "can_leave_off": True,
    }  # fmt: skip
    kinds = [s["type"] for s in said if s["type"] != "token"]
    assert kinds == ["ready", "done", "error", "done", "done", "done", "error", "done", "counted", "done"]
    done = last(said)
    assert done[0]["text"] == done[1]["text"] == done[5]["text"]  # also after the base has spoken
    assert done[2]["text"] == done[3]["text"]
    assert (0 < done[0]["tokens"] <= 5, done[0]["finish"] in ("length", "stop")) == (True, True)
    first = said[1 : said.index(done[0])]
    assert "".join(s["text"] for s in first) == done[0]["text"]
    limit = said[0]["context"]
    error = last(said, "error")[1]
    assert error["what"].startswith("the conversation has ")
    assert error["what"].endswith(f" tokens, and the model takes {limit:,}")
    assert error["exit_code"] == 2
    assert last(said, "counted")[0]["tokens"] == done[0]["prompt_tokens"]
    alone = talk(run.path, GREEDY, base=True)
    assert alone[0]["base"] is True
    assert last(alone)[0]["text"] == done[4]["text"]

    # a checkpoint of a run that has handed nothing over, and the adapter's folder alone
    newest = max(run.checkpoints.glob("checkpoint-*"), key=lambda p: int(p.name.rsplit("-", 1)[-1]))
    assert last(talk(run.adapter, GREEDY))[0]["text"] == done[0]["text"]
    shutil.rmtree(run.adapter)
    assert last(talk(run.path, GREEDY, weights=newest))[0]["text"] == done[0]["text"]


@pytest.mark.slow
def test_pissa_talks_from_a_checkpoint_as_from_what_it_handed_over(tmp_path: Path) -> None:
    import torch

    from tests.engine.exports import model, trained

    run = trained("pissa", model("llama", tmp_path / "base"), tmp_path / "runs")
    ids = torch.tensor([[5, 9, 20, 33, 41, 17]])
    with torch.inference_mode():
        handed, checkpoint, base = (
            chat.load(run, off, weights)[0](ids).logits
            for off, weights in ((False, None), (False, run.checkpoints / "checkpoint-6"), (True, None))
        )
    assert torch.equal(handed, checkpoint)
    assert (handed - base).abs().max() > 0.1


def test_pieces_are_whole_characters_and_end_at_a_stop_text() -> None:
    raw = "né 日本 🙂 ok STOP never".encode()

    def decode(ids: Sequence[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")

    for stop, text in (
        ((), "né 日本 🙂 ok STOP never"),
        (("STOP",), "né 日本 🙂 ok "),
        (("absent", "ST"), "né 日本 🙂 ok "),
    ):
        pieces = Pieces(decode, stop)
        given = [piece for token in raw for piece in [pieces.add(token)] if not pieces.stopped or piece]
        given.append(pieces.end())
        assert "".join(given) == pieces.text == text
        assert not any("\ufffd" in piece for piece in given)
        assert pieces.stopped == bool(stop)
        assert len([p for p in given if p]) > 10  # not all at once
    broken = Pieces(decode)
    out = "".join(broken.add(token) for token in b"a\xf0\x9f b") + broken.end()
    assert out == "a\ufffd b"
    half = Pieces(decode, ["abc"])
    assert [half.add(t) for t in b"xab"] == ["x", "", ""]
    assert half.end() == "ab"


def test_calls_are_read_in_the_usual_ways_and_left_as_text_otherwise() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    one = {"name": "f", "arguments": {"a": "it's", "n": 1}}
    body = json.dumps(one)
    two = [one, {"name": "g", "arguments": {}}]
    for text, raw, words, wanted in (
        (f"<tool_call>\n{body}\n</tool_call>", "", "", [one]),
        (
            f"Sure.\n<tool_call>{body}</tool_call>\n<tool_call>\n" + json.dumps(two[1]) + "\n</tool_call>",
            "",
            "Sure.",
            two,
        ),
        (json.dumps(two), f"[TOOL_CALLS]{json.dumps(two)}</s>", "", two),
        (body, f"<|python_tag|>{body}<|eom_id|>", "", [one]),
        (json.dumps({"name": "f", "parameters": one["arguments"]}), "", "", [one]),
        ('<functioncall> {"name": "f", "arguments": \'{"a": "it\\\'s", "n": 1}\'}', "", "", [one]),
        ('<functioncall> {"name": "f", "arguments": \'{"a": "it\'s", "n": 1}\'}', "", "", [one]),
    ):
        assert calls.found(text, tools, raw=raw) == (words, wanted), text
    for text in (
        "plain words", "<tool_call>{broken", '{"name": "other", "arguments": {}}', '{"name": 3}', "[1, 2]",
        f"<tool_call>{body}</tool_call> and more",
    ):  # fmt: skip
        assert calls.found(text, tools) == (text, [])
    assert calls.found(body, None) == (body, [])  # no functions were given: it is just JSON


class Slow:
    """Tokens without a model: what `replies` asks for."""

    kind, context, device, dtype, can_leave_off, tokenizer = "transformers", 40, "cpu", "float32", False, None
    stops = frozenset({0})

    def __init__(self, said: str) -> None:
        self.said = said.encode() + b"\0"

    def encode(self, messages: Any, tools: Any) -> list[int]:
        return [1] * len(messages[-1]["content"])

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        return bytes(ids).decode("utf-8", "replace")

    def tokens(self, ids: Any, settings: Any, cancel: Any) -> Any:
        yield from self.said[: settings["max_new_tokens"]]


def test_an_answer_says_why_it_ended() -> None:
    import threading

    def end(length: int = 1, **more: Any) -> tuple[str, str]:
        done = list(replies.answer(Slow("hello"), {"messages": [{"content": "x" * length}], **more}))[-1]  # type: ignore[arg-type]
        return done["text"], done["finish"]

    assert end() == ("hello", "stop")
    assert end(max_new_tokens=3) == ("hel", "length")
    assert end(length=38) == ("he", "context")
    assert end(stop=["ll"]) == ("he", "stop")
    pressed = threading.Event()
    seen = []
    for event in replies.answer(Slow("hello"), {"messages": [{"content": "x"}]}, pressed):  # type: ignore[arg-type]
        seen.append(event)
        pressed.set()
    assert (seen[-1]["finish"], seen[-1]["text"][0]) == ("cancelled", "h")
    with pytest.raises(UsageError, match="the conversation has 40 tokens, and the model takes 40"):
        end(length=40)
    with pytest.raises(UsageError, match="there is no adapter that could be left off"):
        end(base=True)
    for wrong in ({"temperature": -1}, {"top_p": 0}):
        with pytest.raises(ValueError, match="temperature is at least 0"):
            end(**wrong)


def test_an_adapter_whose_base_is_gone(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(UsageError) as caught:
        models.load_folder(tmp_path, False)
    assert str(caught.value) == (
        f"error: the base model of {tmp_path} is gone: there is nothing at {tmp_path}/gone\n"
        f"  hint: put it back, or mend base_model_name_or_path in {tmp_path}/adapter_config.json"
    )
