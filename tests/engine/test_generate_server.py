"""Generation against a real OpenAI-compatible server (`transformers serve` on the shipped model), with faults between."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.engine.generate.ledger import Ledger
from tests.engine import generate_support as support
from tests.engine.generate_support import Proxy, finish, job, ledger, request, wait_for, write_prompts, write_recipe


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with support.server(tmp_path_factory.mktemp("server") / "server.log") as found:
        yield found


@pytest.fixture
def proxy(port: int) -> Iterator[Proxy]:
    made = Proxy(port)
    yield made
    made.close()


def by_endpoint(folder: Path, proxy: Proxy, *overrides: str, **fields: Any) -> dict[str, Any]:
    """The request that asks through the proxy."""
    mine = (
        "generate.generator.kind=openai",
        f"generate.generator.base_url={proxy.url}",
        f"generate.generator.model={support.TEACHER}",
        "generate.concurrency=3",
    )
    return request(write_recipe(folder), *mine, *overrides, **fields)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]


def asked_of(row: dict[str, Any]) -> str:
    return str(row["messages"][-2]["content"])


def test_faults_of_the_endpoint_lose_nothing_and_ask_nothing_twice(tmp_path: Path, proxy: Proxy) -> None:
    questions = write_prompts(tmp_path / "prompts.jsonl", 12, authentic=2)
    faults = {0: "429", 2: "500", 4: "drop", 5: "slow", 7: "503"}
    proxy.fault = lambda number, body: faults.get(number)
    code, last, events = finish(
        by_endpoint(
            tmp_path,
            proxy,
            "generate.timeout_s=2",
            "generate.generator.usd_per_million_input_tokens=1",
            "generate.generator.usd_per_million_output_tokens=10",
        ),
        tmp_path / "log",
    )
    assert code == 0, (tmp_path / "log").read_text()
    assert Counter(proxy.answered) == Counter(questions[2:])
    assert len(proxy.seen) == 10 + len(faults)
    made = rows(tmp_path)
    assert [asked_of(r) for r in made] == questions
    assert [r["origin"] for r in made] == ["authentic"] * 2 + ["generated"] * 10
    assert made[0]["messages"][-1]["content"] == "Authentic answer number 0."
    assert made[5] == {
        "messages": [
            {"role": "system", "content": "You answer level B1."},
            {"role": "user", "content": questions[5]},
            made[5]["messages"][-1],
        ],
        "level": "B1",
        "id": 5,
        "origin": "generated",
        "generator": support.TEACHER,
    }
    report = last["report"]
    assert {g: (f["rows"], f["authentic"]) for g, f in report["groups"].items()} == {"A1": (6, 1), "B1": (6, 1)}
    counts = (sum(e["tokens_in"] for e in ledger(tmp_path)), sum(e["tokens_out"] for e in ledger(tmp_path)))
    assert (report["tokens"]["in"], report["tokens"]["out"]) == counts
    assert report["tokens"]["cost_usd"] == pytest.approx((counts[0] + 10 * counts[1]) / 1e6)
    assert counts[0] > 10 * 10
    assert 10 <= counts[1] <= 10 * 12
    progress = [e for e in events if e["type"] == "progress"]
    assert progress[-1]["asked"] == progress[-1]["total"] == 10
    body = proxy.bodies[0]
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (12, 0.7, 0.9)
    assert isinstance(body["seed"], int)
    card = json.loads((tmp_path / "out.jsonl.card.json").read_text())
    assert card["command"] == "data generate"
    assert card["rows"] == 12


def test_killed_in_the_middle_and_resumed(tmp_path: Path, proxy: Proxy) -> None:
    questions = write_prompts(tmp_path / "prompts.jsonl", 30, authentic=1)
    path = tmp_path / "out.jsonl.generate" / "answers.jsonl"
    proxy.delay_s = 0.05
    kept: list[dict[str, Any]] = []
    for least in (4, 10, 17):
        before = len(proxy.seen)
        with job(by_endpoint(tmp_path, proxy), tmp_path / "log") as process:
            wait_for(lambda least=least: len(ledger(tmp_path)) >= least)  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert not known(questions, kept) & set(proxy.seen[before:]), "asked again although the answer was kept"
        assert ledger(tmp_path)[: len(kept)] == kept
        kept = ledger(tmp_path)
        assert least <= len(kept) < 29, "it was not killed in the middle"
        assert not (tmp_path / "out.jsonl").exists()
        path.write_bytes(path.read_bytes() + b'{"key": "0123", "text": "torn in the mid')
        in_flight = len(proxy.seen)
        wait_for(lambda n=in_flight: len(proxy.answered) >= n)  # type: ignore[misc]

    before = len(proxy.seen)
    code, last, _ = finish(by_endpoint(tmp_path, proxy), tmp_path / "log")
    assert code == 0
    assert len(known(questions, kept)) == len(kept)
    assert not known(questions, kept) & set(proxy.seen[before:]), "asked again although the answer was kept"
    assert len(proxy.seen[before:]) == 29 - len(kept)
    keys = Counter(e["key"] for e in ledger(tmp_path))
    assert len(keys) == 29
    assert set(keys.values()) == {1}
    assert [asked_of(r) for r in rows(tmp_path)] == questions
    texts = {e["prompt"].rpartition(":")[2]: e["text"] for e in ledger(tmp_path)}
    assert [r["messages"][-1]["content"] for r in rows(tmp_path)[1:]] == [texts[str(n)].strip() for n in range(2, 31)]
    assert last["report"]["damaged_lines"] == 3

    seen = len(proxy.seen)
    again, last, _ = finish(by_endpoint(tmp_path, proxy), tmp_path / "log")
    assert (again, last["report"]["asked"], len(proxy.seen)) == (0, 0, seen)


def known(questions: list[str], entries: list[dict[str, Any]]) -> set[str]:
    """The questions that have an answer among the entries of a ledger."""
    return {questions[int(e["prompt"].rpartition(":")[2]) - 1] for e in entries}


def test_the_job_does_not_outlive_who_asked_for_it(tmp_path: Path, proxy: Proxy) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 40)
    proxy.delay_s = 0.1
    asked = by_endpoint(tmp_path, proxy)
    with job(asked, tmp_path / "log") as process:
        wait_for(lambda: len(ledger(tmp_path)) >= 3)
        assert process.stdin
        process.stdin.close()
        assert process.wait(20) == 130
    kept = ledger(tmp_path)
    assert len(kept) < 40
    with Ledger(tmp_path / "out.jsonl") as free:
        assert len(free.answers) == len(kept)


def test_ctrl_c_keeps_what_is_paid_for(tmp_path: Path, proxy: Proxy) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 24)
    proxy.delay_s = 0.2
    with job(by_endpoint(tmp_path, proxy), tmp_path / "log") as process:
        wait_for(lambda: len(ledger(tmp_path)) >= 3)
        process.send_signal(signal.SIGINT)
        assert process.stdout
        events = [json.loads(line) for line in process.stdout]
        assert process.wait() == 130
    kept = len(ledger(tmp_path))
    assert kept == len(proxy.seen) < 24, "an answer that was on its way was thrown away"
    last = events[-1]
    assert last["what"] == f"stopped: {kept} answers are kept in {tmp_path / 'out.jsonl.generate' / 'answers.jsonl'}"
    assert last["hint"] == "again goes on and asks none of them again"
    assert not (tmp_path / "out.jsonl").exists()


def test_targets_limits_and_filters_decide_what_is_asked(tmp_path: Path, proxy: Proxy) -> None:
    questions = write_prompts(tmp_path / "prompts.jsonl", 12, authentic=2)
    body = ["generate.groups.A1.target=3", "generate.groups.B1.target=2", "generate.groups.B1.system=B1 only"]
    code, last, _ = finish(by_endpoint(tmp_path, proxy, *body, limit=1), tmp_path / "log")
    assert (code, last["report"]["total"], len(proxy.seen)) == (0, 3, 1)
    code, last, _ = finish(by_endpoint(tmp_path, proxy, *body), tmp_path / "log")
    assert Counter(proxy.seen) == Counter(questions[2:5])
    assert {g: (f["rows"], f["lacking"], f["unasked"]) for g, f in last["report"]["groups"].items()} == {
        "A1": (3, 0, 3),
        "B1": (2, 0, 4),
    }
    assert rows(tmp_path)[3]["messages"][0]["content"] == "B1 only"
    # A stricter filter decides anew on what is there, and asks only for what is lacking then.
    code, last, _ = finish(by_endpoint(tmp_path, proxy, *body, "generate.filters.min_words=12"), tmp_path / "log")
    assert last["report"]["total"] == 2
    assert last["report"]["rejected"] == {"short": 10}
    assert len(proxy.seen) == 10
    code, last, _ = finish(by_endpoint(tmp_path, proxy, *body), tmp_path / "log")
    assert len(proxy.seen) == 10, "the looser filter takes back what is there, without a question"
    assert last["report"]["total"] == 5


def test_rows_that_fail_are_asked_again_by_the_next_run(tmp_path: Path, proxy: Proxy) -> None:
    questions = write_prompts(tmp_path / "prompts.jsonl", 6)
    bad = {questions[1]: "500 broken", questions[2]: "400 too long for me"}
    proxy.fault = lambda number, body: bad.get(body["messages"][-1]["content"])
    setting = "generate.retries=1"
    code, last, _ = finish(by_endpoint(tmp_path, proxy, setting), tmp_path / "log")
    assert code == 0
    assert Counter(proxy.seen)[questions[1]] == 2, "one try, one retry"
    assert Counter(proxy.seen)[questions[2]] == 1, "what is refused for good is not tried again"
    assert [f["rows"] for f in last["report"]["groups"].values()] == [2, 2]
    whys = {place.rpartition(":")[2]: why for place, why in last["report"]["failed"]["examples"]}
    assert whys["2"].startswith("status 500: ")
    assert whys["3"].startswith("status 400: ")
    assert "too long for me" in whys["3"]
    bad.pop(questions[1])
    code, last, _ = finish(by_endpoint(tmp_path, proxy, setting), tmp_path / "log")
    assert last["report"]["failed"]["rows"] == 1
    assert Counter(proxy.seen)[questions[2]] == 1
    bad.clear()
    code, last, _ = finish(by_endpoint(tmp_path, proxy, setting, retry_failed=True), tmp_path / "log")
    assert last["report"]["failed"]["rows"] == 0
    assert [asked_of(r) for r in rows(tmp_path)] == questions
    assert Counter(proxy.answered) == Counter(questions)


def test_an_endpoint_that_refuses_everything_is_told_at_once(tmp_path: Path, proxy: Proxy) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 12)
    proxy.fault = lambda number, body: "400 no such sampling"
    code, last, _ = finish(by_endpoint(tmp_path, proxy), tmp_path / "log")
    assert code == 2
    assert last["what"].startswith("the endpoint refuses every question: status 400: ")
    assert "no such sampling" in last["what"]
    assert ledger(tmp_path) == [], "rows must not be marked as refused for good"
    assert len(proxy.seen) <= 6
    proxy.fault = lambda number, body: "401 who are you"
    code, last, _ = finish(by_endpoint(tmp_path, proxy), tmp_path / "log")
    assert (code, last["problems"][0]["key"]) == (2, "generate.generator.api_key_env")
    assert last["what"].startswith("the endpoint refuses the key: ")
    proxy.fault = lambda number, body: "404 no such model"
    code, last, _ = finish(by_endpoint(tmp_path, proxy), tmp_path / "log")
    assert code == 2
    assert last["what"].startswith(f"the endpoint does not know {support.TEACHER} or the address: ")


def test_the_key_comes_from_the_environment(tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 2)
    monkeypatch.setenv("MY_TEACHER_KEY", "made-up-word")
    code, _, _ = finish(by_endpoint(tmp_path, proxy, "generate.generator.api_key_env=MY_TEACHER_KEY"), tmp_path / "log")
    assert code == 0
    assert {h["authorization"] for h in proxy.headers} == {"Bearer made-up-word"}
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"made-up-word" not in path.read_bytes(), path
