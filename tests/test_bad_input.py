"""What happens when something is missing or unreadable: one clear message, the right exit code, nothing half-made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.command import tune as run_tune

TRAIN = ("train", "quickstart", "--gpu", "cpu")


def tune(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a command line in `folder`, without a network."""
    return run_tune(folder, *arguments, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0", **env)


def refused(done: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    """Asserts the exit code, and that the message has every part of `said`, in order, and no traceback."""
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    text = done.stderr
    for part in said:
        assert part in text, f"{part!r} is not in, or not at its place in:\n{done.stderr}"
        text = text[text.index(part) + len(part) :]


def made(folder: Path) -> list[str]:
    """Everything that lies in `folder`, to see that nothing was left behind."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def recipe(folder: Path, text: str) -> str:
    (folder / "mine.yaml").write_text(f"layers: [methods/lora, models/nano]\nname: mine\n{text}", encoding="utf-8")
    return "mine.yaml"


def test_missing_recipe_names_near_ones(tmp_path: Path) -> None:
    refused(tune(tmp_path, "train", "quickstrat"), 2, "no recipe 'quickstrat'", "did you mean quickstart?")
    refused(tune(tmp_path, "show-config", "recipes/nothing-gtp.yaml"), 2, "no recipe", "did you mean nothing-gpt?")
    assert made(tmp_path) == []


def test_missing_recipe_says_where_it_looked(tmp_path: Path) -> None:
    refused(tune(tmp_path, "validate", "none/such.yaml"), 2, str(tmp_path / "none/such.yaml"), "the library")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training: {learning_rate: 2e-4", ("mine.yaml:", "hint:")),
        ("training:\n\tlearning_rate: 2e-4\n", ("mine.yaml:4:1", "hint:")),
        ("training: {seed: 1}\ntraining: {seed: 2}\n", ("training is given twice", "mine.yaml:4:1")),
        ("- a list\n", ("mine.yaml:",)),
    ],
    ids=["open brace", "tab", "duplicate key", "list"],
)
def test_unreadable_yaml(tmp_path: Path, text: str, said: tuple[str, ...]) -> None:
    for command in (["train"], ["validate"], ["show-config"]):
        done = tune(tmp_path, *command, recipe(tmp_path, text))
        refused(done, 2, *said)
    assert made(tmp_path) == ["mine.yaml"]


def test_recipe_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"name: \xff\xfe\n")
    refused(tune(tmp_path, "validate", "mine.yaml"), 2, "not UTF-8", "mine.yaml:1:7", "save the file as UTF-8")


def test_recipe_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    refused(tune(tmp_path, "train", "mine"), 2, "mine is a folder, not a recipe")


def test_missing_dataset_says_where_it_looked(tmp_path: Path) -> None:
    done = tune(
        tmp_path,
        "train",
        recipe(
            tmp_path,
            "data: {train: rows.jsonl, eval: null}\ntraining: {eval_strategy: no, load_best_model_at_end: false}\n",
        ),
    )
    refused(done, 2, "data.train", "rows.jsonl", "mine.yaml:3:15", "set by: layer", "hint: put the file there")
    assert made(tmp_path) == ["mine.yaml"]


def test_missing_model_folder(tmp_path: Path) -> None:
    done = tune(tmp_path, *TRAIN, "model.name_or_path=./no/such/model")
    refused(done, 2, "model.name_or_path", "no/such/model")
    assert made(tmp_path) == []


def test_gated_model_without_a_token(tmp_path: Path) -> None:
    done = tune(tmp_path, "train", "nothing-gpt", "--gpu", "l4", "tracking.tracker=none")
    refused(done, 2, "model.name_or_path", "gated", "no Hugging Face token", "hf auth login", "--with models/nano")
    assert made(tmp_path) == []


def test_missing_data_model_and_key_are_said_at_once(tmp_path: Path) -> None:
    done = tune(tmp_path, "train", "nothing-gpt", "--gpu", "l4")
    refused(done, 2, "data.train", "model.name_or_path")
    assert done.stderr.count("error: ") == 2
    tried = tune(tmp_path, "train", "nothing-gpt", "--gpu", "l4", "--dry-run")
    assert tried.stderr.splitlines()[0] == (
        "advice: tracking.tracker is wandb, but there is no key for it: the run trains without it, and tune runs sync sends it later"
    )


@pytest.mark.parametrize("command", [["runs", "show"], ["watch"], ["resume"], ["stop"], ["chat"]], ids=" ".join)
def test_unknown_run(tmp_path: Path, command: list[str]) -> None:
    refused(tune(tmp_path, *command, "20261120"), 2, "there is no run in", "hint: ", "tune train")
    run = tmp_path / "runs" / "20261120-120000-quickstart-cpu-abcd"
    run.mkdir(parents=True)
    refused(tune(tmp_path, *command, "20261121-quick"), 2, "no run '20261121-quick'", "nearest: ", run.name)


def test_ambiguous_run(tmp_path: Path) -> None:
    for end in ("aaaa", "bbbb"):
        (tmp_path / "runs" / f"20261120-120000-quickstart-cpu-{end}").mkdir(parents=True)
    refused(tune(tmp_path, "runs", "show", "20261120"), 2, "'20261120' names 2 runs", "give more of the id")


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "runs" / "20261120-120000-quickstart-cpu-aaaa").mkdir(parents=True)
    refused(tune(tmp_path, "runs", "show", "latest"), 2, "is not a run directory", "plan.json")


def test_runs_that_cannot_be_written(tmp_path: Path) -> None:
    """A file in the place of the folder refuses root too."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    for place in (tmp_path / "file", tmp_path / "file" / "runs", Path("/proc/runs")):
        refused(tune(tmp_path, *TRAIN, "--runs-dir", str(place)), 74, "cannot make a run in", "--runs-dir")
    assert made(tmp_path) == ["file"]


def test_a_name_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "runs" / "nightly").mkdir(parents=True)
    refused(tune(tmp_path, *TRAIN, "--name", "nightly"), 2, "a run named nightly exists", "--continue")


def test_a_name_that_leads_elsewhere(tmp_path: Path) -> None:
    refused(tune(tmp_path, *TRAIN, "--name", "../../elsewhere"), 2, "cannot be a run's name")
    assert made(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], ("no such command: trian", "did you mean train?")),
        (["train", "quickstart", "--gpu", "t44"], ("unknown GPU 't44'", "did you mean t4?")),
        (["train", "quickstart", "--scenario", "debgu"], ("unknown scenario 'debgu'", "did you mean debug?")),
        (["train", "quickstart", "--with", "models/nanu"], ("no layer 'models/nanu'", "did you mean models/nano?")),
        (["train", "quickstart", "training.learning_rat=1"], ("training.learning_rat", "did you mean learning_rate?")),
        (["train", "quickstart", "training.seed=[1"], ("training.seed",)),
        (["train", "quickstart", "--max-steps", "many"], ("--max-steps",)),
        (["list", "gpu"], ("'gpu'", "did you mean gpus?")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_command_lines_with_a_slip(tmp_path: Path, arguments: list[str], said: tuple[str, ...]) -> None:
    refused(tune(tmp_path, *arguments), 2, *said)
    assert made(tmp_path) == []


@pytest.mark.engine
@pytest.mark.parametrize(
    "values",
    [["model.name_or_path=someone/no-such-model"], ["data.train=someone/no-such-data"]],
    ids=["model", "data"],
)
def test_no_network(tmp_path: Path, values: list[str]) -> None:
    """What is on the Hub cannot be had without a network: one message that names it, wherever that comes to light."""
    done = tune(tmp_path, *TRAIN, "--max-steps", "1", *values)
    assert done.returncode in (2, 5), done.stdout + done.stderr
    text = done.stdout + done.stderr
    assert "Traceback" not in text
    assert values[0].split("=")[1] in text
    assert "network" in text or "reach" in text
    assert "hint:" in text
    assert text.count("error: ") == 1


@pytest.mark.engine
def test_rows_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"messages": [{"role": "user"', encoding="utf-8")
    done = tune(tmp_path, *TRAIN, "--max-steps", "1", "data.train=rows.jsonl")
    assert done.returncode in (2, 5), done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "rows.jsonl" in done.stdout + done.stderr
