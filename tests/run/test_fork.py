"""Forks: which mode the changed settings give, what the child gets, what is refused, and that the parent stays as it is."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

from nothing_tune import run as runs
from nothing_tune.artifacts import Run, checkpoint, read_json, write_json
from nothing_tune.errors import ResumeRefused, StorageError, UsageError
from nothing_tune.plan import drift
from nothing_tune.recipe import library
from nothing_tune.recipe.library import library_root
from nothing_tune.run.fork import refusals
from tests.run.support import event, flip, prepared, save

pytestmark = pytest.mark.engine  # nothing heavy is imported, but it takes seconds

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def parent(folder: Path) -> Run:
    run = prepared(folder)
    save(run, 10, epoch=0.5), save(run, 20, epoch=1.0)
    return run


def fork(parent: Run, *overrides: str, **options: Any) -> runs.Fork:
    """A child in the same folder, called child."""
    return runs.fork(parent, parent.path.parent, overrides, name="child", **options)


def inventory(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_goes_on(parent: Run) -> None:
    before = inventory(parent.path)
    made = fork(parent, "training.learning_rate=1e-5", "training.save_steps=5")
    assert (made.mode, made.step, made.because) == ("continue", 20, ())
    assert made.line() == (
        "child is a fork of parent at step 20: it goes on from there with the same optimizer state and position in the data"
    )
    changed = {"training.learning_rate": [0.0002, 1e-05], "training.save_steps": [10, 5]}
    assert read_json(made.run.path / "lock.json")["parent"] == {
        "run": "parent",
        "step": 20,
        "mode": "continue",
        "changed": changed,
    }
    child = made.run.checkpoints / "checkpoint-20"
    manifest = checkpoint.read(child)
    assert checkpoint.fault(child) is None
    assert checkpoint.steps(made.run.checkpoints) == [20]
    assert (manifest["run"], manifest["step"]) == ("child", 20)
    assert manifest["forked"] == {"run": "parent", "step": 20, "changed": changed}
    assert manifest["settings"]["training.learning_rate"] == 1e-5
    assert manifest["fingerprints"] == {"data": "abc"}
    assert made.run.plan()["training"]["learning_rate"] == 1e-5
    assert not (made.run.path / "events.jsonl").exists()
    assert made.run.status()["step"] == 20
    assert inventory(parent.path) == before


def test_starts_anew(parent: Run) -> None:
    before = inventory(parent.path)
    made = fork(parent, "training.per_device_train_batch_size=2", "training.optim=adamw_torch", start=10)
    assert (made.mode, made.step) == ("restart", 10)
    assert made.line() == (
        "child is a fork of parent at step 10: it starts a new count at step 0 with those weights and a new optimizer because of "
        "training.optim, training.per_device_train_batch_size"
    )
    assert not made.run.checkpoints.exists()
    initial = made.run.path / "initial"
    assert sorted(p.name for p in initial.iterdir()) == [
        "COMMIT.json",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert checkpoint.fault(initial) is None
    assert checkpoint.read(initial)["forked"]["step"] == 10
    assert "step" not in made.run.status()
    assert inventory(parent.path) == before


CONTINUES = (
    "training.learning_rate=1e-3", "training.lr_scheduler_type=linear", "training.warmup_steps=5", "training.weight_decay=0.1",
    "training.adam_beta2=0.95", "training.max_grad_norm=0.5", "peft.lora_dropout=0.2", "training.label_smoothing_factor=0.1",
    "training.logging_steps=3", "monitor.early_stopping_threshold=0.1", "training.max_steps=30", "tracking.project=other",
    "name=other",
)  # fmt: skip
RESTARTS = (
    "data.chat_template=chatml", "data.max_samples=5", "data.split_seed=7", "quantization.bnb_4bit_use_double_quant=false",
    "training.data_seed=1", "training.gradient_accumulation_steps=2", "training.max_length=64", "training.optim=sgd",
    "training.packing=true", "training.per_device_train_batch_size=1", "training.seed=2",
)  # fmt: skip
REFUSED = {
    "model.revision=main": "model.revision was null and would be main",
    "peft.lora_alpha=1": "peft.lora_alpha was 32 and would be 1",
    "peft.r=4": "peft.r was 16 and would be 4",
    "peft.target_modules=[q_proj]": 'peft.target_modules was all-linear and would be ["q_proj"]',
    "peft.use_dora=true": "peft.use_dora was null and would be true",
}


def test_what_lets_it_go_on(parent: Run) -> None:
    made = fork(parent, *CONTINUES)
    assert made.mode == "continue"
    assert {word.split("=")[0] for word in CONTINUES} <= set(made.changed)


def test_what_makes_it_start_anew(parent: Run) -> None:
    made = fork(parent, *RESTARTS, "training.learning_rate=1e-3")
    assert made.mode == "restart"
    assert made.because == tuple(word.split("=")[0] for word in RESTARTS)


def test_weights_that_do_not_fit(parent: Run) -> None:
    with pytest.raises(ResumeRefused) as caught:
        fork(parent, *REFUSED, "data.max_samples=5")
    problems = caught.value.problems
    assert [p.what for p in problems] == [
        f"{what}: the weights of a checkpoint do not fit that" for what in REFUSED.values()
    ]
    assert problems[0].hint == "start a new run: tune train runs/parent/recipe.yaml KEY=VALUE"
    assert not (parent.path.parent / "child").exists()


def test_the_start_of_an_adapter_goes_along(parent: Run) -> None:
    (parent.path / "start.safetensors").write_bytes(b"start")
    assert (fork(parent).run.path / "start.safetensors").read_bytes() == b"start"
    other = runs.fork(parent, parent.path.parent, name="other", restart=True)
    assert (other.run.path / "start.safetensors").read_bytes() == b"start"


def test_an_adapter_that_was_made_for_how_the_base_is_stored(parent: Run) -> None:
    found = [drift.Change("quantization.bnb_4bit_quant_type", "nf4", "fp4", "frozen")]
    assert refusals(parent, found, {"peft.init_lora_weights": "gaussian"}) == []
    (problem,) = refusals(parent, found, {"peft.init_lora_weights": "loftq"})
    assert problem.what == (
        "quantization.bnb_4bit_quant_type was nf4 and would be fp4: an adapter of that kind fits only the base as it was stored"
    )


def test_asked_to_start_anew(parent: Run) -> None:
    made = fork(parent, restart=True)
    assert made.mode == "restart"
    assert made.line().endswith("with those weights and a new optimizer")


@pytest.mark.parametrize(
    ("start", "step"), [(None, 20), ("10", 10), (20, 20), ("best", 10)], ids=["newest", "text", "number", "best"]
)
def test_where_it_starts(parent: Run, start: str | int | None, step: int) -> None:
    write_json(parent.path / "status.json", {**parent.status(), "best_step": 10})
    assert fork(parent, start=start).step == step


def test_best_from_the_events(parent: Run) -> None:
    with pytest.raises(UsageError, match="run parent has no best checkpoint: it has not evaluated"):
        fork(parent, start="best")
    event(parent, "checkpoint", step=20, best=True)
    event(parent, "checkpoint", step=10, best=True)
    assert fork(parent, start="best").step == 10


@pytest.mark.parametrize(
    ("start", "lines"),
    [
        ("7", ["error: run parent has no checkpoint of step 7", "  hint: it has checkpoints of the steps 10, 20"]),
        (
            "newest",
            [
                "error: 'newest' is no step of a checkpoint",
                "  hint: give a step or best; it has checkpoints of the steps 10, 20",
            ],
        ),
    ],
)
def test_no_such_checkpoint(parent: Run, start: str, lines: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        fork(parent, start=start)
    assert str(caught.value).splitlines() == lines


def test_a_damaged_checkpoint_is_passed_over_or_refused(parent: Run) -> None:
    flip(parent.checkpoints / "checkpoint-20" / "optimizer.pt")
    with pytest.raises(StorageError, match="checkpoint-20 of run parent is not complete"):
        fork(parent, start=20)
    assert fork(parent).step == 10


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["training.max_steps=20"], "training.max_steps is 20, and the checkpoint is at step 20"),
        (
            ["training.max_steps=-1", "training.num_train_epochs=1"],
            "training.num_train_epochs is 1, and the checkpoint is at the end of epoch 1",
        ),
    ],
)
def test_nothing_left_to_train(parent: Run, overrides: list[str], what: str) -> None:
    with pytest.raises(UsageError) as caught:
        fork(parent, *overrides)
    assert caught.value.problems[0].what == f"nothing is left to train: {what}"
    assert fork(parent, *overrides, restart=True).mode == "restart"


def test_what_is_missing_here(parent: Run) -> None:
    with pytest.raises(UsageError, match="there is no file more"):
        fork(parent, "data.train=more.jsonl")
    assert not (parent.path.parent / "child").exists()


def test_nothing_is_left_of_a_child_that_cannot_be_made(parent: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(checkpoint, "adopt", full)
    with pytest.raises(StorageError):
        fork(parent)
    assert not (parent.path.parent / "child").exists()


@pytest.mark.parametrize("file", ["../checkpoint-10/optimizer.pt", "/etc/hostname"])
@pytest.mark.parametrize("restart", [False, True])
def test_a_manifest_that_names_files_elsewhere(parent: Run, file: str, restart: bool) -> None:
    folder = parent.checkpoints / "checkpoint-20"
    forged = {k: v for k, v in checkpoint.read(folder).items() if k != "sha256"}
    forged["files"] = {**forged["files"], file: {"size": 0, "sha256": ""}}
    write_json(folder / checkpoint.COMMIT, {**forged, "sha256": checkpoint._digest(forged)})
    with pytest.raises((StorageError, UsageError), match="names files outside its folder"):
        fork(parent, start=20, restart=restart)
    assert not (parent.path.parent / "child").exists()


def test_a_taken_name(parent: Run) -> None:
    fork(parent)
    with pytest.raises(UsageError, match="a run named child exists"):
        fork(parent)
    assert checkpoint.fault(parent.path.parent / "child" / "checkpoints" / "checkpoint-20") is None


def test_a_child_that_waits_is_shown_as_stopped(parent: Run) -> None:
    assert fork(parent, waits=True).run.state() == "stopped"


def test_answers_to_out_of_memory_go_along_unless_the_batch_changes(parent: Run) -> None:
    answers = [{"attempt": 1, "training": {"per_device_train_batch_size": 2}}]
    write_json(parent.path / "adjustments.json", answers)
    assert read_json(fork(parent).run.path / "adjustments.json") == answers
    other = runs.fork(parent, parent.path.parent, ["training.per_device_train_batch_size=1"], name="other")
    assert not (other.run.path / "adjustments.json").exists()


def test_a_child_of_a_child(parent: Run) -> None:
    child = fork(parent, "training.learning_rate=1e-5").run
    grandchild = runs.fork(child, child.path.parent, ["training.learning_rate=1e-6"], name="grandchild")
    record = read_json(grandchild.run.path / "lock.json")["parent"]
    assert (record["run"], record["changed"]) == ("child", {"training.learning_rate": [1e-05, 1e-06]})


@pytest.mark.parametrize("restart", [False, True])
def test_a_run_of_version_0_1_0(folder: Path, restart: bool) -> None:
    old = Run(folder / "runs" / "old-run")
    old.path.mkdir(parents=True)
    with tarfile.open(ROOT / "tests/old_runs/0.1.0-stopped-at-13.tar.gz") as archive:
        archive.extractall(old.path, filter="data")
    for name in ("plan.json", "recipe.yaml"):
        text = (old.path / name).read_text(encoding="utf-8")
        (old.path / name).write_text(text.replace("@RECIPES@", str(library_root())), encoding="utf-8")
    made = fork(old, "training.learning_rate=1e-4", restart=restart)
    assert made.step == 13
    assert set(made.changed) == {"training.learning_rate"}
    assert runs.verify(made.run).ok
    assert checkpoint.fault(made.run.path / ("initial" if restart else "checkpoints/checkpoint-13")) is None


@pytest.mark.parametrize("share", [False, True])
def test_a_parent_of_version_1_chose_its_rows_otherwise(parent: Run, share: bool) -> None:
    """Without a share the child's rows are chosen as the parent's were; with one they cannot be."""
    plan = parent.plan()
    plan["version"] = 1
    for values in (plan["values"]["data"], plan["data"]):
        values["eval"] = 0.1 if share else None
        del values["dedupe"], values["leakage"]
    recipe = (parent.path / "recipe.yaml").read_text(encoding="utf-8")
    if share:
        recipe = recipe.replace("eval: null\n  sample", "eval: 0.1\n  sample").replace(
            "eval_strategy: 'no'", "eval_strategy: steps"
        )
        plan["values"]["training"]["eval_strategy"] = "steps"
    (parent.path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    write_json(parent.path / "plan.json", plan)
    made = fork(parent, "training.learning_rate=1e-5")
    child = made.run.plan()
    if share:
        assert (made.mode, made.because) == ("restart", ("how rows are held out, which changed",))
        assert (child["version"], child["data"]["dedupe"], child["data"]["leakage"]) == (2, "exact", "drop")
    else:
        assert (made.mode, made.because) == ("continue", ())
        assert (child["version"], child["data"]["dedupe"], child["data"]["leakage"]) == (1, "none", "keep")


def test_rows_that_are_not_the_parents_start_anew(parent: Run) -> None:
    rows = Path(parent.plan()["data"]["train"])
    rows.write_text(rows.read_text(encoding="utf-8") + rows.read_text(encoding="utf-8"), encoding="utf-8")
    made = fork(parent)
    assert (made.mode, made.because) == ("restart", (f"the rows of {library.shown(rows)}",))
    assert (made.run.path / "initial" / checkpoint.COMMIT).is_file()
