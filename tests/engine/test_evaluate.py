"""Evaluations: the loss against the Trainer's, intervals, calls in every template's syntax, answers, rows seen in training."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nothing_tune.artifacts import Run, write_json
from nothing_tune.engine import chat_templates, template_probes
from nothing_tune.engine.evaluate import answers, calls, figures, job, judge, loss, statistics
from nothing_tune.engine.evaluate.answers import Answer, Turn
from nothing_tune.engine.evaluate.calls import Call, Syntax
from nothing_tune.engine.evaluate.figures import Unit
from nothing_tune.engine.evaluate.rows import Part
from nothing_tune.errors import OutOfMemory, RunError, UsageError
from nothing_tune.outputs import evaluation as record
from nothing_tune.recipe.judges import Judge
from tests.engine import exports
from tests.engine.evaluations import Judging, ask, report
from tests.engine.families import own_template
from tests.engine.support import events

VIEW = {"training.per_device_eval_batch_size": 64}
"""All evaluation rows in one batch, where the Trainer's mean of means is a mean over tokens."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    tmp = tmp_path_factory.mktemp("evaluate")
    return exports.trained("lora", exports.model("qwen2", tmp / "base"), tmp / "runs", **VIEW)


@pytest.fixture(scope="module")
def found(run: Run) -> dict[str, Any]:
    return report(run, generate=True)


def test_the_loss_is_the_trainers(run: Run, found: dict[str, Any]) -> None:
    trained = [e for e in events(run, "eval") if e["step"] == 6][-1]["metrics"]["eval_loss"]
    loss = found["metrics"]["loss"]
    assert loss["value"] == pytest.approx(trained, rel=1e-5)
    assert loss["low"] < loss["value"] < loss["high"]
    assert loss["n"] == found["rows"]["count"] == 8
    assert found["metrics"]["perplexity"]["value"] == pytest.approx(math.exp(loss["value"]))
    bits = loss["value"] * found["rows"]["supervised_tokens"] / math.log(2)
    text = sum(len(json.loads(line)["messages"][1]["content"].encode()) for line in held_out(run))
    ends = 2 * found["rows"]["count"]  # TRL's version of the template learns the line breaks around the answer, too
    assert bits / (text + ends) == pytest.approx(found["metrics"]["bits_per_byte"]["value"], rel=1e-6)


def held_out(run: Run) -> list[str]:
    """The lines that the evaluation of the run names."""
    lines = Path(run.plan()["data"]["train"]).read_text(encoding="utf-8").splitlines()
    from nothing_tune.engine import build, prepare
    from nothing_tune.plan.model import Plan

    plan = Plan.from_json(run.plan())
    rows = prepare.load(plan, build.tokenizer(plan), True, None).eval
    assert rows is not None
    return [lines[line - 1] for line in rows["line"]]


def test_base_and_run_are_measured_on_the_same_rows(run: Run, found: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(run.plan()["model"]["name_or_path"]).eval()
    from nothing_tune.engine import build, prepare
    from nothing_tune.plan.model import Plan

    plan = Plan.from_json(run.plan())
    rows = prepare.load(plan, build.tokenizer(plan), True, None).eval
    total, count = 0.0, 0
    for row in rows:
        labels = torch.tensor([row["labels"]])
        with torch.inference_mode():
            loss = base(input_ids=torch.tensor([row["input_ids"]]), labels=labels).loss
        tokens = int((labels[:, 1:] != -100).sum())
        total, count = total + float(loss) * tokens, count + tokens
    assert found["base"]["loss"]["value"] == pytest.approx(total / count, rel=1e-5)
    apart = found["difference"]["loss"]
    assert apart["value"] == pytest.approx(found["metrics"]["loss"]["value"] - total / count, abs=1e-5)
    assert apart["high"] < 0  # eight rows, and the training moved it far
    one = record.Evaluation.from_json(found)
    assert record.verdict("loss", (one.difference or {})["loss"]) == "better"
    assert record.read(record.folder(run) / "held-out.json").to_json() == found


def test_answers_are_the_likeliest_ones_and_end(run: Run, found: dict[str, Any]) -> None:
    assert found["settings"]["generation"]["decoding"] == "greedy"
    assert found["rows"]["answers"] == 8
    assert {s["why"] for s in found["samples"]} == {"best", "worst", "random"}
    from nothing_tune.engine import chat

    model, tokenizer = chat.load(run, False)
    for sample in found["samples"][:3]:
        asked = sample["prompt"].removeprefix("user: ")
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            made = model.generate(**ids, max_new_tokens=8, do_sample=False)
        said = tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        assert sample["answer"] == said  # alone as in a batch, padded on the left


def test_rows_seen_in_training_are_refused(run: Run, tmp_path: Path) -> None:
    train = Path(run.plan()["data"]["train"])
    lines = train.read_text(encoding="utf-8").splitlines()
    mine = tmp_path / "mine.jsonl"
    fresh = json.dumps(
        {"messages": [{"role": "user", "content": "new"}, {"role": "assistant", "content": "seven boats"}]}
    )
    theirs = next(n for n, line in enumerate(lines) if line not in held_out(run))
    spaced = json.dumps(json.loads(lines[theirs]), indent=None, separators=(" ,", " : "))
    mine.write_text(f"{fresh}\n{spaced}\n", encoding="utf-8")
    code, said = ask(run, data=[str(mine)])
    assert code == 2
    assert said[-1]["what"] == (f"run {run.id} was trained on 1 of these 2 rows: {mine}:2 is {train}:{theirs + 1}")
    assert said[-1]["hint"] == "take it out, or add --seen to measure on it all the same"
    allowed = report(run, data=[str(mine)], seen=True)
    assert allowed["rows"]["seen"] == 1
    assert allowed["rows"]["places"] == [[f"{mine}:2", f"{train}:{theirs + 1}"]]
    assert allowed["name"] == "mine"
    mine.write_text(f"{fresh}\n", encoding="utf-8")
    clean = report(run, data=[str(mine)], base=False)
    assert (clean["rows"]["seen"], clean["base"], clean["difference"]) == (0, None, None)
    assert clean["name"] == "mine-2"  # other rows: what was measured before is kept


def test_a_row_weighs_as_much_as_its_tokens_and_is_drawn_whole() -> None:
    units = [
        Unit(0, 1, None, {"loss": (2.0, 1.0)}, {"loss": (3.0, 1.0)}),
        Unit(1, 1, None, {"loss": (8.0, 8.0)}, {"loss": (8.0, 8.0)}),
    ]
    run, base, apart = figures.figures(units)
    assert run["loss"].value == pytest.approx(10 / 9)
    assert base is not None
    assert base["loss"].value == pytest.approx(11 / 9)
    assert apart is not None
    assert apart["loss"].value == pytest.approx(-1 / 9)
    torn = [Unit(0, n, None, {"loss": (float(n % 2), 1.0)}, {}) for n in range(100)]
    only = figures.figures(torn)[0]["loss"]
    assert (only.n, only.low) == (1, None)  # a hundred answers of one row are one row
    twice = [Unit(n % 50, 1 + n // 50, None, {"loss": (float(n % 50), 1.0)}, {}) for n in range(100)]
    once = figures.figures(twice[:50])[0]["loss"]
    both = figures.figures(twice)[0]["loss"]
    assert (both.low, both.high) == (once.low, once.high)  # the same again says nothing new


def test_intervals_hold_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    chance = np.random.default_rng(3)
    for rows in (8, 40):
        hits = 0
        for _ in range(300):
            tokens = chance.integers(1, 20, rows).astype(float)
            values = tokens * chance.gamma(2.0, 1.0, rows)
            found = statistics.ratio(values, tokens)
            assert found.low is not None
            assert found.high is not None
            hits += found.low <= 2.0 <= found.high
        assert 0.87 <= hits / 300 <= 0.99, rows
    assert statistics.wilson(0.0, 20) == (0.0, pytest.approx(0.1611, abs=1e-4))  # Wilson 1927, as tables have it
    assert statistics.wilson(0.5, 10) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    assert [round(statistics.student(0.975, n), 3) for n in (1, 9, 30)] == [12.706, 2.262, 2.042]
    clustered = statistics.share(np.array([4.0, 0.0, 4.0, 0.0]), np.full(4, 4.0))
    alone = statistics.share(np.array([1.0, 0.0] * 8), np.ones(16))
    assert clustered.n == alone.n == 16
    assert clustered.high - clustered.low > alone.high - alone.low  # type: ignore[operator]
    pair = np.arange(30.0)
    shifted = statistics.difference(pair + 0.1, np.ones(30), pair, np.ones(30))
    assert (shifted.low, shifted.high) == (pytest.approx(0.1), pytest.approx(0.1))  # pairs: what they share cancels


SYNTAX = {
    "llama-3.1": "object", "nemotron-nano-4b": "object", "qwen2.5": "object", "qwen3": "object", "mistral-instruct-v0.3": "object",
    "gemma3": "object", "llama-3": "object", "trl:qwen3_6": "parameters", "trl:glm4moe": "parameters", "trl:gptoss": "arguments",
    "trl:gemma4": "braces", "trl:lfm2_v2": "python",
}  # fmt: skip


def templates() -> Iterator[tuple[str, str]]:
    """Chat templates of families, the model's own ones, and of others that TRL brings."""
    import trl

    for name in SYNTAX:
        if name.startswith("trl:"):
            yield name, (Path(trl.__file__).parent / "chat_templates" / f"{name[4:]}.jinja").read_text(encoding="utf-8")
        else:
            yield name, own_template(name) or ""


def test_calls_are_read_in_the_syntax_of_every_template() -> None:
    tokenizer = exports.tokenizer("qwen2")
    wanted = Call("look_up", {"city": "Città", "days": 3, "deep": {"a": [1, True, None]}, "text": 'he said "no"'})
    for name, text in templates():
        shown = template_probes.abilities(tokenizer, text)
        choice = chat_templates.Choice(text, text, name, (), shown.tools, shown.roles, shown.call_ids)
        known = calls.syntax(tokenizer, choice)
        assert known.kind == SYNTAX[name], name
        if choice.tools == "text":
            written: str | None = calls.tool_text.call_text({"name": wanted.name, "arguments": wanted.arguments})
        else:
            written = calls._written(tokenizer, choice, [(wanted.name, wanted.arguments)])
        assert written is not None
        got = known.read(written)
        typed = known.kind != "parameters"
        assert not got.broken, (name, written, got)
        assert calls.same(got.calls, [wanted], typed), (name, written, got)
        assert known.read("Just words.") == calls.Read((), False, "Just words.")
        assert not calls.same(got.calls, [Call("look_up", {**wanted.arguments, "days": 4})], typed), name
        torn = written[: written.rindex("city") + 8]
        assert not known.read(torn).calls or known.kind == "parameters", (name, torn)


def test_what_is_measured_of_an_answer() -> None:
    known = Syntax("object", "<tool_call>")
    say = Turn(0, 1, [1], [], "Nothing  at\nall.", [], 4, "Nothing at all.")
    call = Turn(0, 1, [1], [], "", [Call("f", {"a": 1.0, "b": "x"})], 8, "", True)
    data = Turn(0, 1, [1], [], '{"a": [1, 2]}', [], 5, "")

    def of(turn: Turn, text: str, ids: list[int] | None = None, ended: bool = True) -> dict[str, float]:
        return answers.measures(turn, Answer([1, 2, 3, 4] if ids is None else ids, text, text, ended), known)

    assert of(say, " Nothing at all. ")["exact_match"] == 1
    assert of(say, "nothing at all.")["exact_match"] == 0
    assert "needless_calls" not in of(say, "x")
    right = '<tool_call>\n{"arguments": {"b": "x", "a": 1}, "name": "f"}\n</tool_call>'
    assert {k: of(call, right)[k] for k in ("call_match", "call_names", "call_format", "exact_match")} == {
        "call_match": 1, "call_names": 1, "call_format": 1, "exact_match": 1,
    }  # fmt: skip
    wrong = right.replace('"x"', '"y"')
    assert (of(call, wrong)["call_match"], of(call, wrong)["call_names"]) == (0, 1)
    truth = right.replace('"a": 1', '"a": true')
    assert of(call, truth)["call_match"] == 0
    torn = right[:40]
    assert (of(call, torn)["call_format"], of(call, torn)["call_match"]) == (0, 0)
    assert of(call, f"{right}\n{right}")["call_match"] == 0
    assert of(Turn(0, 1, [1], [], "no", [], 1, "", True), right)["needless_calls"] == 1
    assert (of(data, '{"a":[1,2.0]}')["json_match"], of(data, '{"a":[1]}')["json_format"]) == (1, 1)
    assert (of(data, "Here: {}")["json_format"], of(data, "Here: {}")["json_match"]) == (0, 0)
    assert of(say, "x", [7] * 8, ended=False)["repetition"] == pytest.approx(0.8)
    assert of(say, "x", [7] * 8, ended=False)["ended"] == 0
    assert of(say, "x", [1, 2, 1, 2])["distinct_2"] == pytest.approx(2 / 3)
    assert of(say, "x")["length_ratio"] == 1


def test_a_batch_that_does_not_fit_is_halved_and_one_row_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=100))
    model: Any = SimpleNamespace(device=torch.device("cpu"), config=config)
    parts = [Part(list(range(n)), list(range(n)), False) for n in (3, 9, 5, 4, 7)]
    room, sizes = 2, []

    def batch(_: Any, some: list[Part], __: Any) -> list[Any]:
        sizes.append([len(p.ids) for p in some])
        if len(some) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [np.full(len(p.ids), len(p.ids)) for p in some]

    monkeypatch.setattr(loss, "_batch", batch)
    found = loss.measure(model, parts, None)  # type: ignore[arg-type]
    assert [list(values) for values in found] == [[n] * n for n in (3, 9, 5, 4, 7)]
    assert sizes[:3] == [[9, 7, 5, 4, 3], [9, 7], [5, 4, 3]]
    room = 0
    with pytest.raises(OutOfMemory) as error:
        loss.measure(model, parts[:1], None)  # type: ignore[arg-type]
    assert error.value.problems[0].what == "out of memory with one row of 3 tokens"


def items(count: int = 12) -> list[judge.Item]:
    """Pairs of answers: of each three the run's is longer, shorter, and as long."""
    out = []
    for n in range(count):
        said = [{"role": "user", "content": f"Question {n}?"}]
        texts = ("long answer", "short"), ("short", "long answer"), ("as long", "so long")
        out.append(judge.Item(n, f"rows.jsonl:{n + 1}", said, "the reference", *texts[n % 3]))
    return out


def judged(found: Judging, name: str, output: Path, some: list[judge.Item] | None = None) -> judge.Judged:
    asked = found.request(name)
    tokenizer = exports.tokenizer("qwen2")
    return judge.judged(
        Judge(**asked["judge"]), some or items(), asked["endpoint"], output, tokenizer, lambda **_: None
    )


def longer(question: str) -> str:
    """Prefers the longer answer, wherever it stands."""
    first, second = question.split("Answer A:")[1].split("Answer B:")
    first, second = first.strip(), second.split("Compare both")[0].strip()
    verdict = "C" if len(first) == len(second) else "A" if len(first) > len(second) else "B"
    return f"Counted.\n[[{verdict}]]"


def test_a_judge_that_looks_at_the_place_ends_in_ties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_JUDGE_KEY", "sk-of-the-test")
    with Judging(lambda _: "The first is better.\n[[A]]") as biased:
        made = judged(biased, "pairwise", tmp_path / "biased.json")
        assert (made.run["judge_tie"].value, made.run["judge_win"].value, made.run["judge_position"].value) == (1, 0, 1)
        assert (made.facts["asked"], made.facts["tokens_in"], made.facts["tokens_out"]) == (24, 2400, 120)
        assert set(biased.keys) == {"Bearer sk-of-the-test"}
        assert not any("sk-of-the-test" in p.read_text() for p in tmp_path.rglob("*") if p.is_file())
        again = judged(biased, "pairwise", tmp_path / "biased.json")
        assert len(biased.asked) == 24  # nothing is asked, or paid for, twice
        assert (again.run, again.facts["asked"]) == (made.run, 0)


def test_a_judge_with_a_rule_agrees_with_itself_and_faults_are_told(tmp_path: Path) -> None:
    with Judging(longer) as fair:
        fair.fault = lambda number: 503 if number in (1, 5) else 0  # asked again
        made = judged(fair, "pairwise", tmp_path / "fair.json")
        assert [made.run[f"judge_{k}"].value for k in ("win", "loss", "tie")] == [pytest.approx(1 / 3)] * 3
        assert (made.run["judge_invalid"].value, made.run["judge_position"].value) == (0, 0.5)
        assert made.difference["judge_win"].value == 0
        same = [replace(i, other=i.run) for i in items()]
        assert judged(fair, "pairwise", tmp_path / "same.json", same).run["judge_tie"].value == 1
        assert len(fair.asked) == 26  # the same answer twice needs no judge
    with Judging(
        lambda q: "[[11]]" if "Question 1?" in q else "[[7]]" if "long answer" in q else "[[7]], or 8"
    ) as loose:
        scored = judged(loose, "score", tmp_path / "loose.json")
        assert scored.run["judge_score"].value == scored.other["judge_score"].value == 7
        assert scored.run["judge_invalid"].value == pytest.approx(17 / 24)
    with Judging(lambda _: "[[A]]") as refusing:
        refusing.fault = lambda _: 401
        with pytest.raises(UsageError) as error:
            judged(refusing, "pairwise", tmp_path / "refused.json")
    assert error.value.problems[0].what == "the endpoint refuses the key: Error code: 401 - made by the test"
    assert error.value.problems[0].hint.startswith("look at the environment variable TEST_JUDGE_KEY")
    with pytest.raises(RunError) as gone:
        judged(refusing, "pairwise", tmp_path / "gone.json")
    assert gone.value.problems[0].what == f"there is no endpoint at {refusing.url}: the connection is refused"
    assert gone.value.problems[0].hint == "start the server, or set --endpoint"


def test_the_harness_is_needed_for_tasks_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "lm_eval"] + ["lm_eval", "lm_eval.tasks"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert report(run, base=False, name="without-harness")["name"] == "without-harness"
    code, told = ask(run, tasks=["hellaswag"])
    assert (code, told[-1]["what"]) == (2, "lm-evaluation-harness is not installed, which --tasks needs")
    assert told[-1]["hint"] == "pip install 'nothing-tune[lm-eval]' brings it"


def test_a_column_that_no_row_has(run: Run) -> None:
    code, told = ask(run, group_by="level", name="by-level")
    assert (code, told[-1]["what"]) == (2, "no row has the column level")
    assert told[-1]["hint"] == "the rows have no column beside the conversation"
    assert "loading the model" not in [event.get("stage") for event in told]
    assert not (record.folder(run) / "by-level.json").exists()
    some = SimpleNamespace(
        rows=[SimpleNamespace(value={"messages": [], "kind": None, "place": "x"}), SimpleNamespace(value=None)]
    )
    for name, hint in (
        ("plaec", "did you mean place?"),
        ("kind", "did you mean kind?"),
        ("q", "the rows have kind, place"),
    ):
        with pytest.raises(UsageError) as error:
            job._cells(some, name)  # type: ignore[arg-type]
        assert error.value.problems[0].hint == hint
    assert job._cells(some, "place") == ["x", None]  # type: ignore[arg-type]


def test_the_base_is_gone_in_the_words_of_an_export(run: Run, tmp_path: Path) -> None:
    plan = run.plan()
    moved = Run(tmp_path / "moved")
    moved.path.mkdir()
    gone = tmp_path / "no" / "base"
    write_json(moved.path / "plan.json", {**plan, "model": {**plan["model"], "name_or_path": str(gone)}})
    code, told = ask(moved)
    assert (code, told[-1]["what"], told[-1]["hint"]) == (
        2,
        f"the base model is gone: looked for {gone}",
        "put it back there",
    )
    assert len(told) == 1  # and nothing of a hub


TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: rows.jsonl}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
{more}
"""


def tasks_of(folder: Path) -> list[str]:
    """A task of choices and one of answers, with local rows beside them."""
    lines = [
        {"question": f"Q{n}: seven little", "choices": ["boats", "stone"], "label": n % 2, "answer": "x"}
        for n in range(6)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    choice = "doc_to_choice: choices\ndoc_to_target: label\nmetric_list: [{metric: acc}]"
    said = "doc_to_target: answer\ngeneration_kwargs: {max_gen_toks: 4, until: ['.']}\nmetric_list: [{metric: exact_match}]"
    for name, kind, more in (("picks", "multiple_choice", choice), ("says", "generate_until", said)):
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, kind=kind, more=more), encoding="utf-8")
    return [str(folder / "picks.yaml"), str(folder / "says.yaml")]


@pytest.mark.slow
def test_tasks_of_the_harness_read_local_rows(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    made = report(run, tasks=tasks_of(tmp_path), rows=5)
    assert (made["name"], made["data"]["kind"], made["rows"]["count"]) == ("picks-says", "tasks", 0)
    picks = made["metrics"]["task/picks/acc"]
    assert (picks["n"], 0 <= picks["value"] <= 1, picks["low"] <= picks["value"] <= picks["high"]) == (5, True, True)
    from nothing_tune.engine import chat

    model, tokenizer = chat.load(run, False)
    right = 0
    for n in range(5):
        sums = []
        for choice in (" boats", " stone"):
            head, tail = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (f"Q{n}: seven little", choice))
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([head + tail])).logits.log_softmax(-1)[0]
            sums.append(sum(float(logits[len(head) - 1 + i, t]) for i, t in enumerate(tail)))
        right += int(np.argmax(sums) == n % 2)
    assert picks["value"] == pytest.approx(right / 5)
    assert made["metrics"]["task/says/exact_match"]["value"] == 0
    assert made["difference"]["task/picks/acc"]["low"] is not None
    code, told = ask(run, tasks=["no_such_task_here"])
    assert (code, told[-1]["what"]) == (2, "lm-evaluation-harness has no task 'no_such_task_here'")
    code, told = ask(run, tasks=["hellaswag"], rows=1)
    assert code == 2
    assert told[-1]["what"] == "the data of hellaswag lies on the hub, which cannot be reached"
    tasks = tasks_of(tmp_path)
    (tmp_path / "rows.jsonl").unlink()
    code, told = ask(run, tasks=tasks[:1])
    assert (code, told[-1]["what"].split(":")[0]) == (2, "the data of picks is not there")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["qlora", "pissa", "tokens", "full"])
def test_every_method_is_measured_as_it_trained(method: str, tmp_path: Path) -> None:
    base = exports.model("llama" if method == "tokens" else "qwen2", tmp_path / "base")
    trained = exports.trained(method, base, tmp_path / "runs", **VIEW)
    told = {e["step"]: e["metrics"]["eval_loss"] for e in events(trained, "eval")}
    plain = json.dumps({"prompt": "seven little boats", "completion": " over water"})
    (tmp_path / "plain.jsonl").write_text(f"{plain}\n{plain.replace('seven', 'old')}\n", encoding="utf-8")
    before = None
    for which, step in (("handed-over", 6), ("2", 2)):
        made = report(trained, which=which)
        assert made["step"] == step
        assert made["metrics"]["loss"]["value"] == pytest.approx(told[step], rel=2e-4), which
        assert before is None or made["base"]["loss"]["value"] == pytest.approx(before, rel=1e-6)
        before = made["base"]["loss"]["value"]
        assert before > told[6]
    other = report(trained, data=[str(tmp_path / "plain.jsonl")], generate=True)
    assert other["rows"]["answers"] == 2
    assert {"exact_match", "ended", "length"} <= other["metrics"].keys()


@pytest.mark.slow
def test_a_judge_of_answers_that_were_generated(run: Run) -> None:
    with Judging(longer) as fair:
        made = report(run, generate=True, name="fair", max_new_tokens=12, **fair.request("pairwise"))
        shares = [made["metrics"][f"judge_{kind}"]["value"] for kind in ("win", "loss", "tie")]
        assert sum(shares) == pytest.approx(1)
        assert made["difference"]["judge_win"]["value"] == pytest.approx(shares[0] - shares[1])
        assert made["metrics"]["judge_invalid"]["value"] == 0
        asked = len(fair.asked)
        assert made["settings"]["judge"]["asked"] == asked
        itself = report(
            run, generate=True, name="itself", against=str(run.path), base=False, **fair.request("pairwise")
        )
        assert itself["metrics"]["judge_tie"]["value"] == 1  # a run is as good as itself, and nobody has to be asked
        assert len(fair.asked) == asked
        code, told = ask(run, generate=True, base=False, **fair.request("pairwise"))
        assert (code, told[-1]["what"]) == (2, "a pairwise judge needs the base's answers")
