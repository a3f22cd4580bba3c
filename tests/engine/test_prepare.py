"""Prepared rows: the right tokens are learned, as TRL would have it; nothing is lost silently; the cache is safe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nothing_tune.artifacts.files import cache_root
from nothing_tune.engine import build, prepare
from nothing_tune.engine.prepare import pipeline, store
from nothing_tune.engine.prepare.cutting import Cut, cut
from nothing_tune.engine.prepare.tokens import IGNORED, Encoded
from nothing_tune.errors import StorageError, UsageError
from nothing_tune.plan import make_plan
from nothing_tune.plan.model import Plan
from nothing_tune.recipe import load_recipe

Rows = list[dict[str, Any]]
ROOT = Path(__file__).parents[2]


def talk(*turns: str, **more: Any) -> dict[str, Any]:
    """A conversation in which user and assistant take turns."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": t} for i, t in enumerate(turns)], **more}


TALKS = [talk(f"What is {n} and {n}?", f"It is {2 * n}, no more and no less.", level="AB"[n % 2]) for n in range(1, 41)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_CACHE_DIR", str(tmp_path / "cache"))


def written(path: Path, rows: Rows) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def plan_of(train: Any, **overrides: Any) -> Plan:
    given = {"data.train": train, "data.eval": None, "training.eval_strategy": "no", **overrides}
    given |= {
        f"training.{key}": given["training.eval_strategy"] != "no"
        for key in ("load_best_model_at_end", "eval_on_start")
    }
    words = [f"{key}={json.dumps(value)}" for key, value in given.items()]
    return make_plan(load_recipe("quickstart", gpu="cpu", overrides=words))


def load(train: Any, **overrides: Any) -> prepare.Prepared:
    plan = plan_of(train, **overrides)
    return prepare.load(plan, build.tokenizer(plan), plan.training["eval_strategy"] != "no")


def said(ids: list[int], labels: list[int], tokenizer: Any) -> list[str]:
    """The text of each run of learned tokens."""
    out, run = [], []
    for token, label in [*zip(ids, labels, strict=True), (0, IGNORED)]:
        if label == IGNORED and run:
            out.append(tokenizer.decode(run))
            run = []
        elif label != IGNORED:
            assert label == token
            run.append(token)
    return out


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build.tokenizer(plan_of("rows.jsonl"))


words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=40).filter(
    str.strip
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(words, words), min_size=1, max_size=4), st.integers(4, 120), st.booleans())
def test_all_that_the_assistant_says_is_learned_and_nothing_else(
    tokenizer: Any, turns: list[tuple[str, str]], length: int, system: bool
) -> None:
    row = talk(*[word for turn in turns for word in turn])
    if system:
        row["messages"].insert(0, {"role": "system", "content": "Be brief."})
    choice = prepare.chat_templates.choose(tokenizer, None, True, True)
    encoder = prepare.Encoder(tokenizer, choice, True, True)
    [encoded] = prepare.tokens.encode([row], encoder)
    assert isinstance(encoded, Encoded)
    expected = [f"{m['content']}<|im_end|>" for m in row["messages"] if m["role"] == "assistant"]
    assert said(encoded.ids, encoded.labels, tokenizer) == expected
    for policy in ("right", "left", "split"):
        found = cut(encoded, length, policy)
        assert all(len(ids) <= length for ids, _ in found.parts)
        kept = sum(len(labels) - labels.count(IGNORED) for _, labels in found.parts)
        supervised = len(encoded.labels) - encoded.labels.count(IGNORED)
        assert kept + found.lost_supervised == supervised
        if policy == "split":
            assert found.lost == 0


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("right", Cut([([1, 2, 3, 4], [-100, -100, 3, 4])], 6, 4, 3, 0)),
        ("left", Cut([([7, 8, 9, 10], [7, -100, 9, 10])], 6, 3, 1, 0)),
        (
            "split",
            Cut(
                [([1, 2, 3, 4], [-100, -100, 3, 4]), ([5, 6, 7, 8], [5, -100, 7, -100]), ([9, 10], [9, 10])], answers=1
            ),
        ),
        ("drop", Cut([], 10, 6)),
    ],
)
def test_long_rows(policy: str, expected: Cut) -> None:
    ids = list(range(1, 11))
    row = Encoded(ids, [-100, -100, 3, 4, 5, -100, 7, -100, 9, 10], [(2, 5), (6, 7), (8, 10)])
    assert cut(row, 4, policy) == expected
    assert cut(row, 10, policy) == cut(row, None, policy) == Cut([(row.ids, row.labels)])


def test_parts_that_teach_nothing_are_left_out() -> None:
    row = Encoded([1, 2, 3, 4], [-100, -100, -100, 4], [(3, 4)])
    assert cut(row, 2, "right") == Cut([], 2, 1, 1, 1)
    assert cut(row, 2, "split") == Cut([([3, 4], [-100, 4])], unsupervised=1)


def by_trl(rows: Rows, tmp_path: Path, tokenizer: Any, **arguments: Any) -> tuple[list[Any], list[Any]]:
    """Tokens and labels as SFTTrainer prepares the same rows."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(output_dir=str(tmp_path / "trl"), use_cpu=True, bf16=False, report_to="none", **arguments)
    model = AutoModelForCausalLM.from_pretrained(ROOT / "recipes" / "models" / "nano")
    data = Dataset.from_list(rows)
    trainer = SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer)
    return trainer.train_dataset["input_ids"][:], trainer.train_dataset["labels"][:]


@pytest.mark.parametrize(
    ("rows", "arguments"),
    [
        (TALKS, {"assistant_only_loss": True, "max_length": 1024}),
        (TALKS, {"assistant_only_loss": True, "max_length": 24}),
        (TALKS, {"assistant_only_loss": False, "max_length": 1024}),
        (TALKS, {"assistant_only_loss": True, "max_length": 64, "packing": True}),
        ([{"text": f"Plain text number {n}."} for n in range(20)], {"max_length": 1024}),
        ([{"prompt": f"Say {n}", "completion": f" and no more than {n}"} for n in range(20)], {"max_length": 1024}),
        ([{"prompt": f"Say {n}", "completion": f" and {n}"} for n in range(20)], {"completion_only_loss": False}),
        ([{"prompt": t["messages"][:1], "completion": t["messages"][1:]} for t in TALKS], {"max_length": 1024}),
    ],
    ids=["messages", "cut", "all-tokens", "packed", "text", "completion", "prompt-too", "messages-in-two"],
)
def test_the_same_as_trl(rows: Rows, arguments: dict[str, Any], tmp_path: Path, tokenizer: Any) -> None:
    expected = by_trl(rows, tmp_path, tokenizer, **{"packing_strategy": "bfd", **arguments})
    found = load(
        written(tmp_path / "rows.jsonl", rows),
        **{f"training.{k}": v for k, v in arguments.items()},
        **{"training.packing_strategy": "bfd"},
    )
    assert found.train["input_ids"][:] == expected[0]
    assert found.train["labels"][:] == expected[1]


def test_every_row_knows_its_line(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n\n".join(json.dumps(t) for t in TALKS) + "\n")
    found = load(str(path))
    assert [found.places(i) for i in range(40)] == [[f"{path}:{2 * i + 1}"] for i in range(40)]
    packed = load(str(path), **{"training.packing": True, "training.max_length": 96})
    places = [place for i in range(len(packed.train)) for place in packed.places(i)]
    assert sorted(places) == sorted(f"{path}:{2 * i + 1}" for i in range(40))
    for index, entry in enumerate(packed.train):
        texts = tokenizer.decode(entry["input_ids"])
        for place in packed.places(index):
            turn = TALKS[int(place.rsplit(":", 1)[1]) // 2]["messages"][0]["content"]
            assert turn in texts
    shown = prepare.examples(packed, tokenizer, 3)
    assert [e["place"] for e in shown] == places[:3]
    assert "".join(p["text"] for p in shown[0]["pieces"]).startswith("<|im_start|>user\n")


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    rows = [*TALKS, TALKS[3], TALKS[4], talk("No answer?", "Short."), talk("Q" * 300, "cut away")]
    held = [TALKS[0], TALKS[1], talk("Another question?", "Another answer.")]
    more = {
        "data.eval": written(tmp_path / "held.jsonl", held),
        "training.eval_strategy": "steps",
        "training.max_length": 64,
        "data.min_tokens": 20,
    }
    found = load(written(tmp_path / "rows.jsonl", rows), **more)
    report = found.report
    assert report["dropped"] == {
        "duplicates": 2, "near_duplicates": 0, "leaked": 2, "too_short": 1, "too_long": 0, "over_max_length": 0,
        "unsupervised": 1, "capped": 0,
    }  # fmt: skip
    assert report["train"]["rows"] == len(found.train) == 38
    assert report["eval"]["rows"] == 3
    assert report["duplicates"]["examples"][0] == [f"{tmp_path}/rows.jsonl:41", f"{tmp_path}/rows.jsonl:4"]
    assert report["leaked"]["examples"][0] == [f"{tmp_path}/rows.jsonl:1", f"{tmp_path}/held.jsonl:1"]
    what = {f["what"]: f["severity"] for f in report["findings"]}
    assert what == {
        "1 row teaches nothing: no token of them is learned within 64 tokens": "warning",
        "2 rows were left out as duplicates": "warning",
        "2 rows of the training data stand in the evaluation data too, and were left out of training": "warning",
    }
    kept = load(written(tmp_path / "rows.jsonl", rows), **more, **{"data.dedupe": "none", "data.leakage": "keep"})
    assert kept.report["train"]["rows"] == 42
    assert [f["what"] for f in kept.report["findings"] if "evaluation" in f["what"]] == [
        "2 rows of the training data stand in the evaluation data too: the evaluation is too good"
    ]


def test_bad_rows_stop_it_unless_they_may_be_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*map(json.dumps, TALKS), '{"messages": []}', "{nope"]))
    with pytest.raises(UsageError) as caught:
        load(str(path))
    assert caught.value.problems[-1].what == "2 of 42 rows are bad, and none may be"
    found = load(str(path), **{"data.max_bad_rows": 0.1})
    assert found.report["bad_rows"]["count"] == 2
    assert [place for place, _ in found.report["bad_rows"]["examples"]] == [f"{path}:41", f"{path}:42"]
    assert not any((cache_root() / "prepared").glob("*.making"))


def test_shares_weights_caps_and_samples(tmp_path: Path) -> None:
    one = written(tmp_path / "one.jsonl", TALKS)
    two = written(tmp_path / "two.jsonl", [{"instruction": f"Do {n}", "output": f"Done {n}."} for n in range(10)])
    found = load([{"source": one, "weight": 3}, {"source": two, "weight": 1}])
    assert [s["used"] for s in found.report["sources"]] == [30, 10]
    assert found.report["dropped"]["capped"] == 10
    first = [found.places(i)[0].rsplit("/", 1)[1].split(":")[0] for i in range(8)]
    assert first.count("two.jsonl") == 2
    assert [s["format"] for s in found.report["sources"]] == ["messages", "alpaca"]
    assert load([{"source": one, "max_rows": 7}, two]).report["train"]["rows"] == 17
    assert load(one, **{"data.max_samples": 9}).report["train"]["rows"] == 9
    split = load(one, **{"data.eval": 0.25, "training.eval_strategy": "steps", "data.stratify_by": "level"})
    assert (split.report["train"]["rows"], split.report["eval"]["rows"]) == (30, 10)
    assert split.report["eval"]["fields"]["level"] == {"B": 5, "A": 5}
    assert split.report["split"] == "0.25 of the rows, seed 42, even over level"


def test_copies_that_are_kept_stay_on_one_side(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", TALKS * 3)
    more = {"data.eval": 0.3, "training.eval_strategy": "steps", "data.dedupe": "none"}
    found = load(path, **more)
    sides = [{(int(line) - 1) % 40 for line in part["line"]} for part in (found.train, found.eval or [])]
    assert not sides[0] & sides[1]
    assert (len(found.train), len(found.eval or [])) == (84, 36)


def test_rows_that_the_template_refuses_are_bad_rows(tmp_path: Path) -> None:
    strict = tmp_path / "strict.jinja"
    strict.write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
        "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% endfor %}"
    )
    rows = [*TALKS[:3], {"messages": [{"role": "system", "content": "x"}, *TALKS[3]["messages"]]}]
    with pytest.raises(UsageError) as caught:
        load(written(tmp_path / "rows.jsonl", rows), **{"data.chat_template": str(strict)})
    assert (
        caught.value.problems[0].what
        == f"{tmp_path}/rows.jsonl:4: the chat template takes no system message (message 1)"
    )


def test_a_prompt_that_runs_into_its_completion_is_told(tmp_path: Path, tokenizer: Any) -> None:
    rows = [
        {"prompt": "hi", "completion": "there"},
        *({"prompt": f"Say {n}:", "completion": f" {n}"} for n in range(9)),
    ]
    found = load(written(tmp_path / "rows.jsonl", rows))
    [finding] = [f for f in found.report["findings"] if "runs into" in f["what"]]
    assert finding["what"].startswith("in 1 row the end")
    assert finding["rows"] == [f"{tmp_path}/rows.jsonl:1"]
    assert said(found.train[0]["input_ids"], found.train[0]["labels"], tokenizer) == [
        "hithere<|im_end|>"
    ]  # as TRL has it


def test_messages_with_weight_0_are_not_learned(tmp_path: Path, tokenizer: Any) -> None:
    row = talk("a?", "first", "b?", "second")
    row["messages"][1]["weight"] = 0
    entry = load(written(tmp_path / "rows.jsonl", [row, *TALKS[:3]])).train[0]
    assert said(entry["input_ids"], entry["labels"], tokenizer) == ["second<|im_end|>"]


def test_steps_are_those_of_the_trainer(tmp_path: Path) -> None:
    from nothing_tune.plan.steps import steps

    # 13,482 rows, 8 x 2, 2 epochs: the training reference of Nothing-GPT
    reference = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_train_epochs": 2}
    assert steps(13_482, reference) == {"per_epoch": 843, "total": 1686, "epochs": 2.0, "global_batch": 16}


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4, "num_train_epochs": 1.5},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "max_steps": 5},
        {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 1, "dataloader_drop_last": True},
    ],
)
def test_the_steps_are_known_before(arguments: dict[str, Any], packing: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from nothing_tune.engine.train import Trainer

    named = {f"training.{k}": v for k, v in {**arguments, "packing": packing, "max_length": 96}.items()}
    plan = plan_of(written(tmp_path / "rows.jsonl", TALKS), **named)
    tokenizer = build.tokenizer(plan)
    found = prepare.load(plan, tokenizer, False)
    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(ROOT / "recipes" / "models" / "nano"),
        args=build.sft_config(plan, tmp_path / "out"),
        train_dataset=found.train,
        processing_class=tokenizer,
    )
    loader = trainer.get_train_dataloader()
    _, per_epoch, _, _, batch, _, total = trainer.set_initial_training_values(trainer.args, loader)
    report = found.report["steps"]
    assert (report["per_epoch"], report["total"], report["global_batch"]) == (per_epoch, total, batch)


def test_a_second_start_finds_them_and_another_place_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "rows.jsonl", [*TALKS, TALKS[3]])
    first = load(path)
    assert not first.report["cached"]
    monkeypatch.setattr(prepare, "prepare", None)  # nothing is made again
    assert load(path).report["cached"]
    (tmp_path / "moved").mkdir()
    moved = load(written(tmp_path / "moved" / "rows.jsonl", [*TALKS, TALKS[3]]))
    assert moved.report["cached"]
    assert moved.places(3) == [f"{tmp_path}/moved/rows.jsonl:4"]
    assert moved.report["duplicates"]["examples"] == [
        [f"{tmp_path}/moved/rows.jsonl:41", f"{tmp_path}/moved/rows.jsonl:4"]
    ]
    with pytest.raises(TypeError):
        load(path, **{"training.max_length": 32})
    with pytest.raises(TypeError):
        load(written(tmp_path / "other.jsonl", TALKS[:-1]))


@pytest.mark.parametrize("hurt", ["shorter", "gone", "report"])
def test_a_damaged_cache_is_made_anew(hurt: str, tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", TALKS)
    before = load(path).train[:]
    [folder] = [f for f in (cache_root() / "prepared").iterdir() if f.is_dir()]
    if hurt == "shorter":
        os.truncate(folder / "train.arrow", 100)
    elif hurt == "gone":
        (folder / "train.arrow").unlink()
    else:
        (folder / "report.json").write_text('{"written": ')
    again = load(path)
    assert again.train[:] == before
    assert not again.report["cached"]


CHILD = """
import sys, time
from pathlib import Path
from tests.engine.test_prepare import load
from nothing_tune.engine.prepare import pipeline
if len(sys.argv) > 2:
    encode = pipeline.encode
    def slow(*arguments):
        print("making", flush=True)
        while not Path(sys.argv[2]).exists():
            time.sleep(0.01)
        return encode(*arguments)
    pipeline.encode = slow
else:
    print("starting", flush=True)
print("cached" if load(sys.argv[1]).report["cached"] else "made", flush=True)
"""


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *words], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def test_killed_while_preparing_loses_nothing(tmp_path: Path, child: Callable[..., subprocess.Popen[str]]) -> None:
    path = written(tmp_path / "rows.jsonl", TALKS)
    process = child(path, str(tmp_path / "never"))
    assert process.stdout
    assert process.stdout.readline() == "making\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = [f.name for f in (cache_root() / "prepared").iterdir() if f.is_dir()]
    assert len(left) == 1
    assert left[0].endswith(".making")
    assert not load(path).report["cached"]
    assert not any(f.name.endswith(".making") for f in (cache_root() / "prepared").iterdir())


def test_two_at_once_prepare_once(tmp_path: Path, child: Callable[..., subprocess.Popen[str]]) -> None:
    path, go = written(tmp_path / "rows.jsonl", TALKS), tmp_path / "go"
    one = child(path, str(go))
    assert one.stdout
    assert one.stdout.readline() == "making\n"
    two = child(path)
    assert two.stdout
    assert two.stdout.readline() == "starting\n"
    time.sleep(1)
    assert two.poll() is None  # it waits
    go.touch()
    assert one.stdout.readline() == "made\n"
    assert two.stdout.readline() == "cached\n"


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    path = written(tmp_path / "rows.jsonl", TALKS)
    with monkeypatch.context() as patch:
        patch.setattr(store.Writer, "write", full)
        with pytest.raises(StorageError) as caught:
            load(path)
    [problem] = caught.value.problems
    assert problem.what == f"cannot keep prepared rows in {cache_root() / 'prepared'}: No space left on device"
    assert problem.hint == "free some space there, or set TUNE_CACHE_DIR to another folder"
    assert not [f for f in (cache_root() / "prepared").iterdir() if f.is_dir()]
    assert load(path).report["train"]["rows"] == 40


def test_what_nobody_used_for_a_month_goes(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", TALKS)
    load(path)
    [folder] = [f for f in (cache_root() / "prepared").iterdir() if f.is_dir()]
    old = time.time() - 40 * 86400
    os.utime(folder, (old, old))
    load(path, **{"training.max_length": 32})
    assert not folder.exists()


def test_batches_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "rows.jsonl", TALKS)
    whole = load(path).train[:]
    monkeypatch.setattr(pipeline, "BATCH", 3)
    monkeypatch.setenv("TUNE_CACHE_DIR", str(tmp_path / "another"))
    assert load(path).train[:] == whole
