"""Generation by a model that is loaded here: batches, seeds, a kill in the middle, and what the job refuses."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.engine.generate import job as jobs
from nothing_tune.engine.generate.ledger import Ledger
from nothing_tune.engine.generate.questions import Prompt, Question, question
from nothing_tune.errors import OutOfMemory
from tests.engine.generate_support import (
    NANO,
    finish,
    free_port,
    job,
    ledger,
    request,
    wait_for,
    write_prompts,
    write_recipe,
)  # fmt: skip
from tests.engine.support import CHATML, tiny_model


def questions(count: int, **sampling: Any) -> list[Question]:
    settings = {"max_new_tokens": 12, "temperature": 0.9, "top_p": 0.9, "seed": 42, **sampling}
    group = {"system": "Answer.", "sampling": settings}
    texts = [
        "What is a dog?",
        "Tell me about the river and the boat, please.",
        "Why?",
        "Where is the market in this town?",
    ]
    prompts = [
        Prompt(n, f"p:{n}", "", ({"role": "user", "content": texts[n % 4] + " again" * (n // 4)},))
        for n in range(count)
    ]
    return [question(p, group, {"model": NANO}) for p in prompts]


@pytest.fixture(scope="module")
def nano() -> Any:
    from nothing_tune.engine.generate.local import load

    return load({"generator": {"model": NANO, "dtype": "float32"}})


def texts_of(nano: Any, batch: list[Question]) -> list[str]:
    from nothing_tune.engine.generate.local import reply

    answers = reply(*nano, batch)
    assert answers is not None
    return [a.text for a in answers]


def test_an_answer_does_not_depend_on_its_batch(nano: Any) -> None:
    asked = questions(6)
    together = texts_of(nano, asked)
    assert together == [texts_of(nano, [q])[0] for q in asked]
    assert together[::-1] == texts_of(nano, asked[::-1])
    assert len(set(together)) > 3


def test_seeds_temperature_and_top_p(nano: Any) -> None:
    asked = questions(4)
    assert texts_of(nano, asked) == texts_of(nano, asked)
    assert texts_of(nano, asked) != texts_of(nano, questions(4, seed=43))
    greedy = texts_of(nano, questions(4, temperature=0))
    assert greedy == texts_of(nano, questions(4, temperature=0, seed=7))
    assert greedy == texts_of(nano, questions(4, temperature=2, top_p=1e-6)), "only the likeliest token is left"
    assert greedy == texts_of(nano, questions(4, temperature=1e-4))


def test_drawing_follows_the_shares() -> None:
    import torch

    from nothing_tune.engine.generate.local import Draw

    shares = torch.tensor([0.5, 0.3, 0.15, 0.05])
    draw = Draw(1.0, 0.8, [1], 0)
    counts = Counter(int(draw(None, shares.log()[None]).argmax()) for _ in range(2000))
    assert set(counts) == {0, 1}, "the first two reach 0.8 together"
    assert abs(counts[0] / 2000 - 0.625) < 0.04
    hot = Draw(1.0, 1.0, [2], 0)
    assert set(Counter(int(hot(None, shares.log()[None]).argmax()) for _ in range(500))) == {0, 1, 2, 3}


def test_tokens_are_counted_and_long_questions_are_faults(nano: Any) -> None:
    from nothing_tune.engine.generate.local import reply

    model, tokenizer = nano
    good, long = questions(1)[0], questions(1, max_new_tokens=100_000)[0]
    answer = (reply(model, tokenizer, [good]) or [])[0]
    text = tokenizer.apply_chat_template(list(good.messages), add_generation_prompt=True, tokenize=False)
    assert answer.tokens_in == len(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert 1 <= answer.tokens_out <= 12
    assert (answer.finish == "length") == (answer.tokens_out == 12 and bool(answer.text))
    fault = (reply(model, tokenizer, [long]) or [])[0]
    assert fault.lasting
    assert "exceed the model's" in fault.fault
    assert reply(model, tokenizer, [good], lambda: True) is None


@pytest.mark.slow
def test_killed_in_the_middle_and_resumed(tmp_path: Path) -> None:
    asked = write_prompts(tmp_path / "prompts.jsonl", 30)
    recipe = write_recipe(tmp_path)
    long = "generate.sampling.max_new_tokens=60"
    with job(request(recipe, long), tmp_path / "log") as process:
        wait_for(lambda: len(ledger(tmp_path)) >= 4)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    kept = ledger(tmp_path)
    assert 4 <= len(kept) < 30, "it was not killed in the middle"
    code, last, events = finish(request(recipe, long), tmp_path / "log")
    assert code == 0, (tmp_path / "log").read_text()
    assert last["report"]["asked"] == 30 - len(kept)
    entries = ledger(tmp_path)
    assert entries[: len(kept)] == kept
    assert set(Counter(e["key"] for e in entries).values()) == {1}
    made = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [r["messages"][-2]["content"] for r in made] == asked
    phases = [(e["phase"], e.get("kept")) for e in events if e["type"] == "phase"]
    assert phases == [
        ("reading", None),
        ("filtering", len(kept)),
        ("loading", None),
        ("asking", None),
        ("writing", None),
    ]

    # What an uninterrupted run makes.
    whole = tmp_path / "whole"
    whole.mkdir()
    again = request(recipe, long, f"generate.output={whole / 'out.jsonl'}")
    assert finish(again, tmp_path / "log")[0] == 0
    assert (whole / "out.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes(), "a kill changed the rows"


def test_ctrl_c_in_the_command(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 40)
    recipe = write_recipe(tmp_path)
    command = [
        sys.executable,
        "-m",
        "nothing_tune",
        "data",
        "generate",
        str(recipe),
        "generate.sampling.max_new_tokens=60",
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        wait_for(lambda: len(ledger(tmp_path)) >= 3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    kept = len(ledger(tmp_path))
    assert kept < 40
    assert err.splitlines() == [
        f"error: stopped: {kept} answers are kept in {tmp_path / 'out.jsonl.generate' / 'answers.jsonl'}",
        f"  hint: tune data generate {recipe} generate.sampling.max_new_tokens=60 goes on and asks none of them again",
    ]
    with Ledger(tmp_path / "out.jsonl") as free:
        assert len(free.answers) == kept, "the job has let go of the output"


def told(asked: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
    """The job in this process: `(exit code, events)`."""
    out, over = io.StringIO(), threading.Event()

    class Held(io.StringIO):
        """A request, and an input that does not end before the job does."""

        def __iter__(self) -> Any:
            over.wait()
            return iter(())

    code = jobs.main(Held(json.dumps(asked) + "\n"), out)
    over.set()
    return code, [json.loads(line) for line in out.getvalue().splitlines()]


def test_what_the_job_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = tmp_path / "prompts.jsonl"
    write_prompts(prompts, 4)
    recipe = write_recipe(tmp_path)
    bare = tiny_model(tmp_path / "bare", template=None)
    same = tiny_model(tmp_path / "same", template=CHATML)
    size = json.loads((bare / "config.json").read_text())["vocab_size"]
    port = free_port()
    nowhere = f"http://127.0.0.1:{port}/v1"
    endpoint = ("generate.generator.kind=openai", f"generate.generator.base_url={nowhere}")
    cases: list[tuple[tuple[str, ...], int, str, str]] = [
        (
            (
                "generate.same_family=false",
                "model.name_or_path=Qwen/Qwen2.5-7B",
                "generate.generator.model=Qwen/Qwen2.5-3B-Instruct",
            ),
            2,
            "circular training: Qwen/Qwen2.5-3B-Instruct would answer for Qwen/Qwen2.5-7B, and both are Qwen models",
            "take a generator of another family, whose habits the trained model does not share; or write generate.same_family: true",
        ),
        (
            ("generate.same_family=false", f"model.name_or_path={same}", f"generate.generator.model={bare}"),
            2,
            f"circular training: {bare} would answer for {same}, and both are of type llama with {size} tokens in the vocabulary",
            "take a generator of another family, whose habits the trained model does not share; or write generate.same_family: true",
        ),
        (
            (f"generate.generator.model={bare}",),
            2,
            f"generator {bare} has no chat template: it is a base model, which continues text and answers nobody",
            "name the instruct model of the same size",
        ),
        (
            endpoint,
            5,
            f"there is no endpoint at {nowhere}: the connection is refused",
            "start the server, or set generate.generator.base_url; docs/generate.md has the addresses of the usual servers",
        ),
        (
            (
                *endpoint,
                "generate.generator.base_url=https://api.example.com/v1",
                "generate.generator.api_key_env=NO_SUCH_KEY",
            ),
            2,
            "api.example.com wants a key, and the environment variable NO_SUCH_KEY is not set",
            "export NO_SUCH_KEY=..., or name another variable with generate.generator.api_key_env (null sends no key)",
        ),
        (
            ("generate.filters.language=italian",),
            2,
            "generate.filters.language is 'italian', which is no language that can be told",
            "write a code such as it, en, de or fr",
        ),
        (
            ("generate.prompt=frage",),
            2,
            "4 of 4 rows are no prompt",
            "mend the rows, or set generate.prompt, the column of prompts, which is frage",
        ),
        (
            ("generate.group_by=grade",),
            2,
            "4 of 4 rows are no prompt",
            "mend the rows, or set generate.prompt, the column of prompts, which is question",
        ),
        (
            (f"generate.output={tmp_path / 'mine.jsonl'}",),
            2,
            f"{tmp_path / 'mine.jsonl'} is there, and tune data generate did not write it: it would be replaced",
            "move it away, or write to another file with generate.output=FILE",
        ),
    ]
    (tmp_path / "mine.jsonl").write_text('{"messages": []}\n')
    for overrides, exit_code, what, hint in cases:
        code, events = told(request(recipe, *overrides))
        assert (code, events[-1].get("what"), events[-1].get("hint")) == (exit_code, what, hint)
    places = [p["what"] for p in told(request(recipe, "generate.group_by=grade"))[1][-1]["problems"]]
    assert places[1] == f"{prompts}:1: it has no `grade`, which generate.group_by names"
    assert (tmp_path / "mine.jsonl").read_text() == '{"messages": []}\n'


def test_what_nobody_foresaw_leaves_its_story(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(settings: dict[str, Any]) -> list[Prompt]:
        return [json.loads("not JSON")]

    monkeypatch.setattr(jobs, "read", broken)
    code, events = told(request(write_recipe(tmp_path)))
    log = tmp_path / "out.jsonl.generate" / "error.log"
    assert code == 5
    assert events[-1]["what"].startswith("JSONDecodeError: Expecting value")
    assert events[-1]["hint"] == f"{log} has the whole story"
    assert "in broken" in log.read_text()


@pytest.mark.parametrize(("room", "expected"), [(2, [8, 4, 2, 2, 2, 2, 2, 2]), (0, [8, 4, 2, 1])])
def test_memory_that_runs_out_halves_the_batch(monkeypatch: pytest.MonkeyPatch, room: int, expected: list[int]) -> None:
    import torch

    from nothing_tune.engine.generate import local
    from nothing_tune.engine.generate.questions import Answer
    from nothing_tune.engine.generate.schedule import Schedule

    sizes: list[int] = []
    given: list[str] = []

    def reply(model: Any, tokenizer: Any, batch: list[Question], stopped: Any) -> list[Answer]:
        sizes.append(len(batch))
        if len(batch) > room:
            raise torch.OutOfMemoryError("full")
        return [Answer(q.key) for q in batch]

    monkeypatch.setattr(local, "reply", reply)
    schedule = Schedule(questions(12), {"": {"target": None}}, lambda g: 0, None)
    ends = contextlib.nullcontext() if room else pytest.raises(OutOfMemory, match="out of memory with one prompt")
    with ends:
        local.answer_all(
            schedule, {"generator": {"batch_size": 8}}, lambda q, a: given.append(a.text), lambda: False, (None, None)
        )
    assert sizes == expected
    assert given == [q.key for q in questions(12)][: 12 if room else 0]
    assert schedule.in_flight == 0


def test_a_problem_says_where_its_key_is_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 1)
    recipe = write_recipe(tmp_path, model=NANO)
    _, events = told(request(recipe, "generate.same_family=false"))
    problem = events[-1]["problems"][0]
    assert problem["what"] == f"circular training: {NANO} would answer for {NANO}, and they are one model"
    assert problem["place"]["file"].endswith("teacher.yaml")
    assert problem["place"]["line"] > 1
    assert problem["layer"].startswith("layer ")


def test_an_unknown_family_is_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 1)
    _, events = told(request(write_recipe(tmp_path), "generate.same_family=false", dry_run=True))
    assert [e["what"] for e in events if e["type"] == "note"] == [
        f"{NANO} would answer for org/unknown-model: nothing tells the family of org/unknown-model and {NANO}, so nobody can "
        "tell whether the training is circular"
    ]
    assert events[-1]["type"] == "estimate"


def test_one_process_an_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 1)
    asked = request(write_recipe(tmp_path))
    with Ledger(tmp_path / "out.jsonl"):
        code, events = told(asked)
    assert code == 77
    assert events[-1]["what"] == f"another process makes {tmp_path / 'out.jsonl'} (process {os.getpid()})"
    assert events[-1]["hint"] == "wait for it, or write to another file with generate.output=FILE"
    code, events = told({**asked, "dry_run": True})
    assert code == 0


def test_a_file_that_was_changed_by_hand_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 3, authentic=3)
    asked = request(write_recipe(tmp_path))
    output = tmp_path / "out.jsonl"
    assert told(asked)[0] == 0
    assert told(asked)[0] == 0, "its own output is replaced"
    output.write_bytes(output.read_bytes() + b"{}\n")
    code, events = told(asked)
    assert (code, events[-1]["what"]) == (
        2,
        f"{output} was changed since tune data generate wrote it: the changes would be lost",
    )
