"""`tune init`: answers as options, the recipe that is written, everything that can be wrong, and the wizard on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.cli.init import by_bytes, data, look, offers, wizard
from nothing_tune.cli.init.questions import QUESTIONS
from nothing_tune.cli.init.state import State
from nothing_tune.plan import make_plan
from nothing_tune.plan.advice import Advice
from nothing_tune.recipe import load_recipe
from nothing_tune.recipe.library import library_root

pytestmark = pytest.mark.engine  # takes seconds

GEMMA2 = {
    "model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000, "max_position_embeddings": 8192, "sliding_window": 4096,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
}  # fmt: skip
MIXTRAL = {
    "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 32000, "max_position_embeddings": 32768,
}  # fmt: skip
MINI = ("--model", "nano", "--gpu", "cpu", "--data", "rows.jsonl", "--yes")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    """A folder with data of several kinds."""
    rows = (library_root() / "samples" / "quickstart.jsonl").read_text(encoding="utf-8").splitlines()[:40]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "qa.csv").write_text("question,reply\n" + "what?,that\nwho?,me\n" * 10)
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    (tmp_path / "plain.txt").write_text("one line\n" * 30)
    (tmp_path / "log.jsonl").write_text('{"speaker": "ANN", "text": "Hi."}\n{"speaker": "BOB", "text": "Ho."}\n' * 20)
    (tmp_path / "big").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.yaml").write_text("name: there\n")
    for name, config in (("gemma2", GEMMA2), ("mixtral", MIXTRAL)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text('{\n "model_type": "llama",\n "hidden_size" 8\n}')
    (tmp_path / "poor.jsonl").write_text('{"text": "a b c"}\nnot JSON\n' * 10)
    return tmp_path


def problems(said: str) -> list[str]:
    """The error lines, without their hints."""
    return [line.removeprefix("error: ") for line in said.splitlines() if line.startswith("error: ")]


WRONG: tuple[tuple[str, int, str, str], ...] = (
    ("", 2, "this is no terminal to ask on, and --model, --gpu, --method, --data, --goal, --eval, --tracker, --name are missing",
     "--yes takes the defaults of all but --model and --data"),
    ("--model nano --yes", 2, "--data is missing", "tune init --help tells what each may be"),
    ("--model nano --data rows.jsonl --gpu cpu --method lora --goal chat --eval 0.1 --name x", 2,
     "this is no terminal to ask on, and --tracker is missing", "--yes takes the defaults"),
    ("--model lama --data rows.jsonl --yes", 2, "'lama' is no model", "did you mean llama-2-13b or llama-2-7b? a hub id"),
    ("--model empty --data rows.jsonl --yes", 2, "the folder empty holds no model", "name a folder with a config.json"),
    ("--model ./emty --data rows.jsonl --yes", 2, "'./emty' is no model", "did you mean empty?"),
    ("--model nano --data rwos.jsonl --yes --gpu cpu", 2, "there is no data at rwos.jsonl: looked for", "did you mean rows.jsonl"),
    ("--model nano --data odd.csv --yes --gpu cpu", 2, "odd.csv has no format that is known: its columns are a, b", "name its columns"),
    ("--model nano --data qa.csv --yes --gpu cpu", 2, "qa.csv has no format that is known: its columns are question, reply",
     "perhaps --columns prompt=question --columns completion=reply"),
    ("--model nano --data empty --yes --gpu cpu", 2, "there is no data at empty", "name a file"),
    ("--model nano --data log.jsonl --yes --gpu cpu", 2, "--speaker is missing: log.jsonl is a chat log", "one of: ANN, BOB"),
    ("--model nano --data log.jsonl --speaker CAT --yes --gpu cpu", 2, "'CAT' speaks nowhere in log.jsonl", "one of: ANN, BOB"),
    ("--model nano --data rows.jsonl --speaker ANN --yes --gpu cpu", 2, "--speaker is for a chat log, and rows.jsonl has rows of messages",
     "leave --speaker out"),
    ("--model nano --data rows.jsonl --yes --gpu rtx4090", 2, "there is no GPU 'rtx4090' in the library", "did you mean rtx-4090?"),
    ("--model nano --data rows.jsonl --yes --gpu modal", 2, "Modal lends GPUs by the hour: ", "name the GPU"),
    ("--model nano --data rows.jsonl --yes --gpu mps --method qlora", 2, "qlora needs bitsandbytes, which does not run on mps", "lora, or"),
    ("--model nano --data rows.jsonl --yes --gpu cpu --method loftq", 2, "loftq is computed on a CUDA GPU, and this is cpu", "pissa"),
    ("--model nano --data rows.jsonl --yes --gpu cpu --method lorra", 2, "unknown method 'lorra'", "did you mean"),
    ("--model nano --data plain.txt --yes --gpu cpu --goal chat", 2, "chat learns answers, and plain.txt is plain text",
     "completion or style"),
    ("--model nano --data rows.jsonl --yes --gpu cpu --goal chatt", 2, "there is no goal 'chatt'", "did you mean chat?"),
    ("--model nano --data rows.jsonl --yes --gpu cpu --eval 5%", 2, "the share must be 10 % to 20 %, not 5 %", "PEFT Studio's range"),
    ("--model nano --data rows.jsonl --yes --eval plain.txt", 2, "plain.txt has rows of text, and the training data rows of messages",
     "name data of the same format"),
    ("--model nano --data rows.jsonl --yes --gpu cpu --tracker wandbb", 2, "there is no tracker 'wandbb'", "did you mean wandb?"),
    ("--model nano --data rows.jsonl --yes --gpu cpu --name Mine!", 2, "'Mine!' is no name for a recipe", "lower-case"),
    ("--model nano --data rows.jsonl --yes --gpu cpu --name there", 2, "there is a file there.yaml", "choose another name"),
    ("--model nano --data rows.jsonl --yes --gpu cpu --method full --rank 8", 2, "--rank is LoRA's, and full has none", "leave --rank out"),
    ("there.yaml --model nano --data rows.jsonl --yes", 2, "there is a file there.yaml", "name another one, or --force replaces it"),
    ("there.json --model nano --data rows.jsonl --yes", 2, "there.json is no name for a recipe", "recipes are YAML: there.yaml"),
    ("no/my.yaml --model nano --data rows.jsonl --yes", 2, "there is no folder no", "mkdir -p no"),
    ("a.yaml --out b.yaml --model nano --data rows.jsonl --yes", 2, "two files are named: a.yaml and b.yaml", "give one of them"),
    ("--model meta-llama/Llama-3.3-70B-Instruct --data rows.jsonl --yes --gpu t4", 3,
     "meta-llama/Llama-3.3-70B-Instruct with qlora does not fit t4: it needs ", " is the smallest GPU for it; "),
    ("--model torn --data rows.jsonl --yes", 2, "torn/config.json is not JSON: expecting ':' delimiter at line 3, column 16",
     "fetch the model's config.json again"),
    ("--model nano --data poor.jsonl --yes --gpu cpu", 3, "10 of 20 rows of poor.jsonl cannot be used, the first poor.jsonl:2: not JSON",
     "tune data inspect says what is wrong with them"),
    ("--model ./mixtral --data rows.jsonl --yes --gpu a100-80gb", 3, "./mixtral with qlora does not fit a100-80gb: it needs 9",
     "h200 (128.0 GiB) is the smallest GPU for it; "),
    ("--model ./mixtral --data rows.jsonl --yes --gpu h200 --dropout 0.05", 2,
     "--dropout must be 0 for ./mixtral: the adapter reaches experts, and PEFT has no dropout there", "leave --dropout out"),
    ("--model llama-2-13b --data rows.jsonl --yes --gpu l4 --method full", 3,
     "meta-llama/Llama-2-13b-hf with full does not fit l4: it needs ", "nearest that fits: "),
)  # fmt: skip
RANGES = (
    ("--rank 3", "--rank must be 4 to 64, not 3"),
    ("--rank 8.5", "--rank is a whole number, not 8.5"),
    ("--dropout 0.2", "--dropout must be 0 to 0.1, not 0.2"),
    ("--lr 0.1", "--lr must be 1e-6 to 0.01, not 0.1"),
    ("--lr fast", "--lr is a number, not 'fast'"),
    ("--lr nan", "--lr must be 1e-6 to 0.01, not nan"),
    ("--epochs 0", "--epochs must be 1 to 10, not 0"),
    ("--epochs 11", "--epochs must be 1 to 10, not 11"),
    ("--batch 64", "--batch must be 1 to 32, not 64"),
    ("--batch 2,5", "--batch is a whole number, not '2,5'"),
    ("--accumulation 33", "--accumulation must be 1 to 32, not 33"),
    ("--warmup 2000", "--warmup must be 0 to 1000, not 2000"),
    ("--warmup 1.5", "--warmup is a share below 1 or a whole number of steps, not 1.5"),
    ("--packing perhaps", "--packing is yes or no, not 'perhaps'"),
)


@pytest.mark.engine  # takes seconds
def test_what_is_wrong_is_said(tune: Callable[..., Any], folder: Path) -> None:
    before = sorted(p.name for p in folder.iterdir())
    for line, code, what, hint in WRONG:
        said = tune("init", *line.split())
        assert said.code == code, (line, said)
        assert problems(said.err)[0].startswith(what), (line, said.err)
        assert hint in said.err, (line, said.err)
        assert len(said.err.splitlines()) <= 2, (line, said.err)
    flags = [word for line, _ in RANGES for word in line.split()]
    for line, what in RANGES:
        assert problems(tune("init", *MINI, *line.split()).err) == [what], line
    assert len(problems(tune("init", *MINI, *flags).err)) > 5  # the last of each, all at once
    assert sorted(p.name for p in folder.iterdir()) == before


def test_the_recipe_is_written_and_used(tune: Callable[..., Any], folder: Path) -> None:
    (folder / "recipe.schema.json").write_text("{}")
    said = tune("init", "my.yaml", *MINI, "--rank", "12", "--lr", "1e-3", "--eval", "15 %", "--tracker", "tensorboard")
    assert (said.code, said.err) == (0, "")
    flag = "" if look.gpu("cpu").here else " --gpu cpu"
    assert said.out.splitlines() == [
        "wrote my.yaml",
        f"  plan      tune plan my.yaml{flag}",
        f"  rehearse  tune train my.yaml{flag} --rehearse",
        f"  run       tune train my.yaml{flag}",
    ]
    text = (folder / "my.yaml").read_text()
    assert text.splitlines()[0] == "# yaml-language-server: $schema=recipe.schema.json"
    body = [line for line in text.splitlines() if not line.startswith("#")]
    assert body[1:4] == [
        "layers: [methods/qlora, models/nano]",
        "name: my",
        "description: instruction on rows.jsonl; nano, qlora, cpu",
    ]
    for line in body:  # every value has its reason beside it, or above it
        value = re.fullmatch(r"  +[\w]+: +(\S.*)", line)
        assert value is None or " # " in line, line
    recipe = load_recipe("my.yaml", gpu="cpu")
    told = {
        "peft.r": 12, "peft.lora_alpha": 24, "training.learning_rate": 1e-3, "data.eval": 0.15, "tracking.project": "my",
        "tracking.tracker": "tensorboard", "data.train": str(folder / "rows.jsonl"), "training.num_train_epochs": 3,
        "training.per_device_train_batch_size": 4, "training.gradient_accumulation_steps": 2,
    }  # fmt: skip
    assert {key: recipe.get(key) for key in told} == told
    assert recipe.advice == ()
    assert tune("validate", "my.yaml", "--gpu", "cpu").code == 0
    assert tune("train", "my.yaml", "--gpu", "cpu", "--dry-run").code == 0
    assert tune("init", "my.yaml", *MINI).code == 2
    assert tune("init", "my.yaml", *MINI, "--force").code == 0
    assert "r: 8 " in (folder / "my.yaml").read_text()
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []


@pytest.mark.engine  # takes seconds
def test_methods_and_kinds_of_data(tune: Callable[..., Any], folder: Path) -> None:
    for words, told in (
        ("rows.jsonl --method lora --gpu l4", {"peft.r": 8, "training.per_device_train_batch_size": 8}),
        ("rows.jsonl --method full", {"peft.r": None}),
        ("plain.txt", {"data.eval": 0.2}),
        ("qa.csv --columns prompt=question --columns completion=reply --goal completion", {"training.completion_only_loss": False}),
        ("log.jsonl --speaker bob", {"data.transcript.speaker": "BOB", "data.format": "transcript"}),
        ("rows.jsonl --eval none", {"data.eval": None, "training.eval_strategy": "no"}),
        ("rows.jsonl --eval ./rows.jsonl", {"data.eval": "../rows.jsonl", "data.train": "../rows.jsonl"}),
        ("ORG/NAME:train --no-look", {"data.train": "ORG/NAME:train", "training.max_length": 1024}),
    ):  # fmt: skip
        gpu = () if "--gpu" in words else ("--gpu", "cpu")
        model = ("--model", "nano" if "eval" in words else str(library_root() / "models" / "nano"))
        said = tune("init", "empty/y.yaml", *model, *gpu, "--yes", "--data", *words.split(), "--dry-run", "--json")
        assert said.code == 0, (words, said)
        values = {s["key"]: s["value"] for s in said.json()["settings"]}
        # what the layers say already is not written: nano's own length is 512, that of base/qlora 1024
        known = {"training.max_length": 1024} if "max_length" in str(told) and "nano" in model[1] else {}
        assert {key: values.get(key, known.get(key)) for key in told} == told, (words, values)


def test_a_recipe_that_can_train(tune: Callable[..., Any], folder: Path) -> None:
    """What the architecture or the data needs is written with its reason, told, and as large as `tune plan` says."""
    lines = (folder / "rows.jsonl").read_text().splitlines()
    (folder / "mine.jsonl").write_text("\n".join([*lines[:20], "not JSON", *lines[20:]]) + "\n")
    said = tune("init", "g.yaml", "--model", "./gemma2", "--data", "mine.jsonl", "--gpu", "l4", "--yes")
    assert (said.code, said.err) == (
        0,
        "warning: 1 of 41 rows is bad and will be left out, the first mine.jsonl:21: not JSON (a value is expected at column 1)\n"
        "  hint: tune data inspect names them; mend them, and take data.max_bad_rows out of the recipe\n",
    )
    text = (folder / "g.yaml").read_text()
    why = "# gemma2 caps its attention scores, which PyTorch's own attention cannot do"
    assert re.search(rf"attn_implementation: eager +{re.escape(why)}", text)
    why = "# 1 of 41 rows is bad and left out, the first mine.jsonl:21: not JSON (a value is expected at column 1)"
    assert re.search(rf"{re.escape(why)}\n  max_bad_rows: 0.025", text)
    assert "tune train g.yaml --gpu l4 --rehearse" in text
    other = ("--model", "nano", "--gpu", "cpu", "--data", "rows.jsonl", "--eval", "./mine.jsonl", "--yes", "--dry-run")
    assert "# 1 of 81 rows is bad and left out, the first mine.jsonl:21: " in tune("init", *other).out
    planned = tune("plan", "g.yaml", "--gpu", "l4", "--rows", "32", "--json").json()
    assert (planned["verdict"], planned["errors"]) == ("fits", [])
    usable = re.search(r"l4 \(21.8 GiB usable, bf16\), ([\d.]+) GiB of its 21.8 GiB by estimate", text)
    assert usable is not None
    assert float(usable[1]) <= planned["memory"]["longest"]["peak"] / 2**30 + 0.06  # the plan knows no lengths here
    told = tune(
        "init", "--model", "./mixtral", "--data", "rows.jsonl", "--gpu", "h200", "--yes", "--dry-run", "--json"
    ).json()
    values = {s["key"]: s["value"] for s in told["settings"]}
    assert (values["peft.lora_dropout"], told["warnings"]) == (0.0, [])
    (folder / "long.jsonl").write_text(
        "".join(json.dumps({"text": f"{n} " + "word " * 4000}) + "\n" for n in range(40))
    )
    large = (
        "--model",
        "llama-2-13b",
        "--data",
        "long.jsonl",
        "--gpu",
        "a100-40gb",
        "--yes",
        "--batch",
        "32",
        "--max-length",
        "4096",
    )
    shown = tune("init", *large, "--dry-run")
    said = r"warning: it does not fit a100-40gb: [\d.]+ GiB at its peak, and 36.3 GiB are usable\n  hint: training\.\S+=.*\n"
    assert re.fullmatch(said, shown.err)
    named = tune("init", "--model", "org/thing-7b", "--data", "rows.jsonl", "--gpu", "l4", "--yes", "--dry-run")
    assert "l4 (21.8 GiB usable, bf16), about 10 GiB of it by a rule of thumb;" in named.out


def test_what_the_plan_finds_is_settled_or_told(
    tune: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever advice is an error: its changes are set, with its reason; without changes nothing is written."""
    monkeypatch.setattr("nothing_tune.cli.init.fit.musts", lambda model, method: ())
    words = ("init", "g.yaml", "--model", "./gemma2", "--data", "rows.jsonl", "--gpu", "l4", "--yes")
    assert tune(*words, "--dry-run").code == 0
    text = tune(*words, "--dry-run").out
    assert "attn_implementation: eager" in text
    assert "# its attention scores are capped, which PyTorch's own attention cannot do" in text

    def advise(facts: Any) -> list[Advice]:
        return [Advice("none", "error", "it cannot train", "because of this", (), "data.train", "us")]

    monkeypatch.setattr("nothing_tune.plan.advice.advise", advise)
    said = tune(*words)
    assert (said.code, said.err, said.out) == (3, "error: it cannot train\n  hint: because of this\n", "")
    assert not (folder / "g.yaml").exists()


def test_rows_by_their_bytes(folder: Path) -> None:
    plan = make_plan(load_recipe("quickstart", gpu="cpu", overrides=["training.max_length=40"]))
    seen = replace(data.look_at("rows.jsonl"), rows=40, lengths=(80,) * 30 + (400,) * 10)
    known = by_bytes.rows(seen, 0.2, plan)
    assert (known.train, known.eval, known.sequences, known.longest) == (32, 8, 32, 40)
    assert known.tokens == 24 * 20 + 8 * 40
    assert known.lengths == ((16, 24, 24), (96, 104, 8))
    packed = by_bytes.rows(seen, None, replace(plan, training={**plan.training, "packing": True}))
    assert (packed.train, packed.eval, packed.sequences, packed.longest) == (40, 0, 25, 40)
    assert by_bytes.rows(data.Data("ORG/NAME"), 0.1, plan).train is None


def test_files_that_are_no_rows_are_not_offered(folder: Path) -> None:
    (folder / "rows.jsonl").rename(folder / "a.jsonl")
    for name, text in (
        ("plan", '{\n "kind": "nothing-tune plan",\n "version": 1\n}'), ("config", '{\n "architectures": [\n  "X"\n ]\n}'),
        ("list", '[\n {"text": "a"}\n]'), ("lines", '{"text": "a"}\n{"text": "b"}\n'), ("numbers", "[1, 2]"),
        ("inside", '{"data": [{"text": "a"}]}'),
    ):  # fmt: skip
        (folder / f"{name}.json").write_text(text)
    offered = [p.name for p in data.near_files(folder) if p.suffix == ".json"]
    assert offered == ["inside.json", "lines.json", "list.json"]


def test_a_narrow_terminal_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nothing_tune.cli.console.width", lambda: 40)
    rows = [("qlora", "9.4 GiB", "LoRA on a base in 4 bits", "where memory is short"), ("full", "", "all", "")]
    assert offers._columns(rows, right=(1,)) == [
        "  qlora",
        "      9.4 GiB; LoRA on a base in 4 bits;",
        "      where memory is short",
        "  full",
        "      all",
    ]
    monkeypatch.setattr("nothing_tune.cli.console.width", lambda: 90)
    assert len(offers._columns(rows, right=(1,))) == 2


def test_dry_run_and_json_write_nothing(tune: Callable[..., Any], folder: Path) -> None:
    before = sorted(p.name for p in folder.iterdir())
    shown = tune("init", *MINI, "--dry-run")
    told = tune("init", *MINI, "--dry-run", "--json").json()
    assert sorted(p.name for p in folder.iterdir()) == before
    assert told["text"] == shown.out
    assert (told["path"], told["written"], told["layers"]) == (
        "rows-nano.yaml",
        False,
        ["methods/qlora", "models/nano"],
    )
    assert told["data"] == {"format": "messages", "rows": 40, "estimated": False}
    assert {"key": "data.eval", "value": 0.2, "why": "this share of the rows is held out: 8"} in told["settings"]
    assert tune("init", "--json").json()["exit_code"] == 2


def test_models_are_known_by_library_config_and_name(folder: Path) -> None:
    for text, size, template in (
        ("nano", 3, True), ("models/llama-2-7b", 6738, False), ("meta-llama/llama-3.2-3b-instruct", 3213, True),
        ("https://huggingface.co/Qwen/Qwen2.5-3B-Instruct", 3086, True), ("org/thing-360M", 360, None),
        ("org/thing-1.5b-it", 1500, True), ("org/Mixtral-8x7B-v0.1", 56000, None), ("org/thing", None, None),
    ):  # fmt: skip
        found = look.model(text)
        assert (found.parameters_b and round(found.parameters_b * 1000), found.template) == (size, template), text
    nano = library_root() / "models" / "nano"
    here = look.model(str(nano))
    assert (here.layer, here.context, here.source) == ("", look.model("nano").context, "config.json")
    assert here.template
    assert look.model("org/thing").told == "size unknown"


def test_a_look_at_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = data.look_at("rows.jsonl")
    assert (seen.rows, seen.about, seen.kind, seen.bad, seen.turns) == (40, False, "messages", 0, 2.0)
    assert [who for who, _ in seen.first] == ["user", "assistant"]
    assert data.look_at("log.jsonl").speakers == ("ANN", "BOB")
    (folder / "bad.jsonl").write_text('{"text": "a"}\n{"txt": \n{"text": "b"}\n')
    bad = data.look_at("bad.jsonl")
    assert (bad.rows, bad.bad, bad.first_bad.partition(": ")[0]) == (2, 1, "bad.jsonl:2")
    monkeypatch.setattr(data, "ROWS_READ", 1000)
    (folder / "many.jsonl").write_text("".join(f'{{"text": "row {n % 10} of many rows"}}\n' for n in range(100_000)))
    many = data.look_at("many.jsonl")
    assert many.about
    assert many.rows is not None
    assert 80_000 < many.rows < 120_000
    assert data.split_columns("my rows.csv prompt=a completion=b") == (
        "my rows.csv",
        {"prompt": "a", "completion": "b"},
    )


def test_a_look_at_the_hub_can_be_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C while data is fetched takes it unseen, and the wizard goes on."""
    asked = next(q for q in QUESTIONS if q.name == "data")
    state = State()

    def fetch(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nothing_tune.data.sources.open_all", fetch)
    assert wizard.keep(state, asked, "ORG/LEFT:train")
    assert (state.data.source, state.data.rows, state.look) == ("ORG/LEFT:train", None, False)
    assert "not looked at" in capsys.readouterr().out


class Terminal:
    """`tune init` on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.leader, follower = pty.openpty()
        known = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nothing_tune", "init", *arguments],
            stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
            env=known | {"TERM": "xterm-256color", "COLUMNS": "90"},
        )  # fmt: skip
        os.close(follower)

    def read(self, until: str = "> ", wait_s: float = 30) -> str:
        """What it says up to the next prompt, or to its end, without colours; nothing more after `wait_s` of silence."""
        said = b""
        while select.select([self.leader], [], [], wait_s)[0]:
            try:
                piece = os.read(self.leader, 65536)
            except OSError:
                break
            said += piece
            if not piece or self.plain(said).endswith(until):
                break
        return self.plain(said)

    @staticmethod
    def plain(said: bytes) -> str:
        """Text without escape codes."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode(errors="replace")).replace("\r\n", "\n")

    def say(self, line: str) -> str:
        """Types a line and reads up to the next prompt."""
        os.write(self.leader, line.encode() + b"\n")
        return self.read()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        """Ends it, however far it came."""
        self.process.kill()
        self.process.wait(20)
        os.close(self.leader)


@pytest.mark.engine  # takes seconds
def test_the_wizard(folder: Path) -> None:
    """Once through: an explanation, `back`, a bad value and its message, a change in the review, and the file."""
    with Terminal("--gpu", "cpu") as terminal:
        asked = terminal.read()
        assert asked.startswith("Enter takes what is in brackets")
        assert "Which model? [" in asked
        assert "did you mean llama-2-13b or llama-2-7b?" in terminal.say("lama")
        assert "Which method? [qlora]" in terminal.say("nano")
        assert "Which model?" in terminal.say("back")
        assert "Which method?" in terminal.say("nano")
        assert "qlora: LoRA on a base in 4 bits" in terminal.say("?")
        assert "Which data?" in terminal.say("")
        assert "perhaps: qa.csv prompt=question completion=reply" in terminal.say("qa.csv")
        said = terminal.say("rows.jsonl")
        assert "40 rows of messages" in said
        assert "What is it for? [instruction]" in said
        assert "held out for validation? [20 %]" in terminal.say("")
        assert "the share must be 10 % to 20 %, not 50 %" in terminal.say("50")
        terminal.say("")
        assert "What is the recipe called? [rows-nano]" in terminal.say("none")
        review = terminal.say("")
        assert "Review" in review
        assert "Enter writes rows-nano.yaml" in review
        number = next(line.split()[0] for line in review.splitlines() if line.split()[1:2] == ["rank"])
        assert "rank must be 4 to 64, not 99" in terminal.say(f"{number} 99")
        assert re.search(r"rank +32 +your choice", terminal.say("32"))
        assert re.search(r"alpha +32 ", terminal.say("3 lora"))
        assert "there is no line 77" in terminal.say("77")
        assert "wrote rows-nano.yaml" in terminal.say("")
        assert terminal.process.wait(20) == 0
    recipe = load_recipe("rows-nano.yaml", gpu="cpu")
    assert (recipe.get("peft.r"), recipe.get("quantization"), recipe.get("data.eval")) == (32, None, 0.2)


@pytest.mark.engine  # takes seconds
def test_leaving_leaves_nothing(folder: Path) -> None:
    before = sorted(p.name for p in folder.iterdir())
    with Terminal() as terminal:
        terminal.read()
        said = ""
        for _ in range(40):  # one that comes between the prompt and the reading of the answer is only seen by the next
            terminal.process.send_signal(signal.SIGINT)
            said += terminal.read(wait_s=0.5)
            if terminal.process.poll() is not None:
                break
        assert "nothing was written" in said
        assert terminal.process.wait(20) == 130
    assert sorted(p.name for p in folder.iterdir()) == before
