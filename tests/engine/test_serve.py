"""`tune serve` for real: a server that exists, asked by the real openai client, answers as `tune chat` does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import Run
from nothing_tune.engine import chat
from nothing_tune.engine.chat import served
from nothing_tune.errors import UsageError
from nothing_tune.outputs import gguf_file
from tests.engine.exports import METHODS, model, trained
from tests.engine.support import MakeRun, train

ASK: Any = [{"role": "user", "content": "alpha beta"}]


@contextlib.contextmanager
def serving(*words: str) -> Iterator[dict[str, Any]]:
    """What `tune serve` says once it answers; ends it by Ctrl-C, which must leave nothing behind."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "nothing_tune", "serve", *words, "--port", str(port), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith(b'{"type": "serving"'), line + process.stdout.read()
        yield json.loads(line)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) == 0
        with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
            probe.connect(("127.0.0.1", port))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def asked(facts: dict[str, Any], expected: str) -> None:
    """The checks that every server passes."""
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=facts["url"], api_key="none")
    name = facts["model"]
    assert [m.id for m in client.models.list()] == [name]

    def create(**more: Any) -> Any:
        return client.chat.completions.create(model=name, messages=ASK, temperature=0, **more)

    whole = create(max_tokens=40).choices[0]
    assert whole.message.content == expected
    assert whole.finish_reason == "stop"  # at the end of the turn, not at the limit
    pieces, finish = [], ""
    for chunk in create(max_tokens=40, stream=True):
        if chunk.choices:
            pieces.append(chunk.choices[0].delta.content or "")
            finish = chunk.choices[0].finish_reason or finish
    assert "".join(pieces) == expected
    assert finish == "stop"
    assert len([p for p in pieces if p]) > 1
    cut = create(max_tokens=2).choices[0]
    assert cut.finish_reason == "length"
    word = expected.split()[1]
    stopped = create(max_tokens=40, stop=[word]).choices[0]
    assert stopped.finish_reason == "stop"
    assert expected.startswith(stopped.message.content.removesuffix(word))
    assert len(stopped.message.content) < len(expected)
    client.close()


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Run:
    """A run that has learned to say one sentence and to stop."""
    from tests.engine.conftest import make_run as fixture

    folder = tmp_path_factory.mktemp("learned")
    rows = folder / "rows.jsonl"
    row = {"messages": [*ASK, {"role": "assistant", "content": "gamma delta nothing"}]}
    rows.write_text("".join(json.dumps(row) + "\n" for _ in range(40)))
    make: MakeRun = fixture.__wrapped__(folder, model_dir, rows)
    run = make("run-learned", **{"training.max_steps": 60, "training.learning_rate": 2e-2, "training.eval_strategy": "no",
                                 "training.save_steps": 60, "peft.r": 16, "data.eval": None})  # fmt: skip
    train(run)
    return run


def reply(run: Run) -> str:
    request = {"messages": ASK, "max_new_tokens": 40, "temperature": 0}
    return "".join(text for text, _ in chat.reply(*chat.load(run, False), request))


@pytest.mark.slow
def test_transformers_serves_what_the_run_trained(learned: Run) -> None:
    expected = reply(learned)
    assert expected == "gamma delta nothing"
    with serving(str(learned.path), "--server", "transformers") as facts:
        assert (facts["server"], facts["model"]) == ("transformers", learned.id)
        asked(facts, expected)


@pytest.mark.slow
@pytest.mark.gguf
def test_llama_cpp_serves_a_gguf_and_chat_reads_it(learned: Run, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("sse_starlette")
    from nothing_tune.engine.chat.gguf import LlamaCpp
    from nothing_tune.engine.chat.replies import answer
    from nothing_tune.engine.export import gguf

    network, tokenizer = chat.load(learned, False)
    whole = tmp_path / "whole"
    network.merge_and_unload().save_pretrained(whole)
    tokenizer.save_pretrained(whole)
    file = tmp_path / "small-f16.gguf"
    gguf.convert(whole, file, "f16", lambda **_: None, "my plan")
    assert gguf_file.read(file).facts["general.name"] == "my plan"
    done = list(answer(LlamaCpp(file), {"messages": ASK, "temperature": 0}))[-1]
    assert (done["text"], done["finish"]) == ("gamma delta nothing", "stop")
    with pytest.raises(UsageError, match="the conversation has"):
        list(answer(LlamaCpp(file), {"messages": [{"role": "user", "content": "alpha " * 10_000}]}))
    with serving(str(file)) as facts:
        assert (facts["server"], facts["model"]) == ("llama.cpp", "small-f16")
        asked(facts, "gamma delta nothing")
        other: Any = [{"role": "user", "content": "nothing gamma gamma gamma delta"}]
        expected = list(answer(LlamaCpp(file), {"messages": other, "temperature": 0, "max_new_tokens": 40}))[-1]["text"]
        client = pytest.importorskip("openai").OpenAI(base_url=facts["url"], api_key="none")

        def said(**more: Any) -> Any:
            asking = {"model": "any name", "messages": other, "temperature": 0, "max_tokens": 40}
            return client.chat.completions.create(**asking, extra_body=more).choices[0].message.content

        assert said() == said(repeat_penalty=1.0) == expected
        with urllib.request.urlopen(facts["url"].removesuffix("v1") + "openapi.json") as page:
            kinds = json.load(page)["components"]["schemas"]
        for kind in ("CreateChatCompletionRequest", "CreateCompletionRequest"):
            assert kinds[kind]["properties"]["repeat_penalty"]["default"] == 1.0  # where the library has 1.1
        client.close()
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(UsageError, match="is cut off"):
        LlamaCpp(torn)


@pytest.mark.slow
@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("qlora", "lora-all")])
def test_what_is_laid_out_answers_as_the_run(method: str, tmp_path: Path) -> None:
    """What transformers loads from the folder has the run's logits to the last bit, and its stop tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    from nothing_tune.engine.export.stops import stops

    run = trained(method, model("qwen2" if method == "bias" else "llama", tmp_path / "base"), tmp_path / "runs")
    ids = torch.tensor([[5, 9, 20, 33, 41, 17, 60, 8]])
    mine, tokenizer = chat.load(run, False)
    base, _ = chat.load(run, True)
    laid = served.of_run(run, None, tmp_path / "laid", "mine")
    there = AutoModelForCausalLM.from_pretrained(laid["model"], dtype=torch.float32)
    with torch.inference_mode():
        wanted, got, before = mine(ids).logits, there(ids).logits, base(ids).logits
    size = before.shape[-1]
    assert torch.equal(got[..., :size], wanted[..., :size])
    assert (wanted[..., :size] - before).abs().max() > 0.1
    ends = there.generation_config.eos_token_id
    assert set([ends] if isinstance(ends, int) else ends) == set(stops(tokenizer, mine.generation_config))
    assert (tmp_path / "laid" / "mine" / "chat_template.jinja").read_text() == tokenizer.chat_template
    if method == "lora":
        alone = served.of_folder(tmp_path / "laid" / "adapter", tmp_path / "again", "other")
        again = AutoModelForCausalLM.from_pretrained(alone["model"], dtype=torch.float32)
        with torch.inference_mode():
            assert torch.equal(again(ids).logits, wanted)


def test_adapters_that_a_server_would_load_wrongly_are_refused(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(UsageError, match="a server may load IA3 wrongly"):
        served._as_transformers_reads(tmp_path, "merge")
