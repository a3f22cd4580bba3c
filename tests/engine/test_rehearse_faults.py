"""Faults that a rehearsal must find, each with the key to change, a cure, and the exit code."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.engine import train
from nothing_tune.engine.rehearse import children, model, proofs
from nothing_tune.errors import Problem, TuneError
from tests.engine.rehearsals import RECIPE, full_size, in_this_process, talk, tried, write_rows
from tests.engine.support import CHATML, tiny_tokenizer

NO_MARKERS = CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", "").replace("<|im_start|>", "<<")
BROKEN = "{% for m in messages %}{{ m['content'] }"
END_OUTSIDE = CHATML.replace(
    "m['content'] + '<|im_end|>' }}{% endgeneration %}", "m['content'] }}{% endgeneration %}<|im_end|>"
)


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    in_this_process(monkeypatch)
    monkeypatch.setenv("TUNE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", talk())


def found(folder: Path, model: Path, *overrides: str, which: int = 0, **more: Any) -> tuple[int, Problem]:
    """`(exit code, the first problem, or that of number `which`)` of a rehearsal that must fail."""
    with pytest.raises(TuneError) as caught:
        tried(folder, model, *overrides, **more)
    return caught.value.exit_code, caught.value.problems[which]


NAMES = [
    (
        ["peft.target_modules=[query_key_value]"],
        2,
        "peft.target_modules",
        "peft.target_modules names query_key_value, and LlamaForCausalLM has no such module",
        "it has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj; or all-linear, which takes all of them",
    ),
    (
        ["peft.target_modules=[q_porj, v_proj]"],
        2,
        "peft.target_modules",
        "peft.target_modules names q_porj, which LlamaForCausalLM has not",
        "did you mean q_proj?",
    ),
    (
        ["peft.modules_to_save=[classifier]"],
        2,
        "peft.modules_to_save",
        "peft.modules_to_save names classifier, which LlamaForCausalLM has not",
        "",
    ),
    (
        ["peft.target_modules=[q_proj]", "peft.layers_to_transform=[0, 27, 28]"],
        2,
        "peft.layers_to_transform",
        "peft.layers_to_transform names layer 28, and the model has 28 (0 to 27)",
        "layers count from 0; name some from 0 to 27, or leave it out for all",
    ),
    (
        ["training.eval_steps=200", "training.eval_delay=7"],
        2,
        "training.eval_delay",
        "the best checkpoint is to be handed over, and nothing is evaluated: training.eval_delay is 7 steps, and the training "
        "ends after 6 steps",
        "set training.eval_delay=0, or training.load_best_model_at_end=false",
    ),
]


@pytest.mark.parametrize(("overrides", "code", "key", "what", "hint"), NAMES, ids=lambda v: str(v)[:30])
def test_settings_that_do_not_fit_the_model(
    tmp_path: Path, overrides: list[str], code: int, key: str, what: str, hint: str
) -> None:
    got, problem = found(tmp_path, full_size(tmp_path / "model"), *overrides)
    assert (got, problem.key, problem.what) == (code, key, what)
    assert problem.hint == hint or (not hint and problem.hint)


def test_an_evaluation_at_the_end_is_one(tmp_path: Path) -> None:
    """The Trainer evaluates after its last step, whatever eval_steps is: nothing is refused that trains."""
    told = tried(tmp_path, full_size(tmp_path / "model"), "training.eval_steps=200", "training.save_steps=150")
    assert told.stages["evaluation"][0] == "proved"


@pytest.mark.parametrize("template", [NO_MARKERS, BROKEN, END_OUTSIDE], ids=["no markers", "broken", "end not learned"])
def test_templates(tmp_path: Path, template: str) -> None:
    code, problem = found(tmp_path, full_size(tmp_path / "model", template=template))
    assert code == 2
    assert problem.key in ("data.chat_template", "data.max_bad_rows", "data")
    assert problem.hint


def test_rows(tmp_path: Path) -> None:
    folder = full_size(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl", [{"question": "a", "answer": str(n)} for n in range(8)])
    code, problem = found(tmp_path, folder)
    assert code == 2
    assert problem.hint


def test_rows_without_anything_learned(tmp_path: Path) -> None:
    folder = full_size(tmp_path / "model")
    rows = [{"prompt": f"alpha {n}", "completion": ""} for n in range(12)]
    write_rows(tmp_path / "rows.jsonl", rows)
    code, problem = found(tmp_path, folder, which=-1)
    assert (code, problem.key) == (2, "data.max_bad_rows")
    assert problem.hint == (
        "mend them, or set data.max_bad_rows to 1, which leaves them out; tune data inspect RECIPE shows the rows as the model "
        "sees them"
    )


def test_a_length_that_cuts_all_answers(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", talk(words=120))
    code, problem = found(tmp_path, full_size(tmp_path / "model"), "training.max_length=16")
    assert (code, problem.key) == (2, "training.max_length")
    assert problem.what.startswith(f"no training row is left: 24 unsupervised; {tmp_path}/rows.jsonl:1, ")
    assert problem.hint == "raise training.max_length, shorten the prompts, or give rows with an answer"


def test_a_column_that_is_missing(tmp_path: Path) -> None:
    code, problem = found(tmp_path, full_size(tmp_path / "model"), "data.columns={messages: talk}")
    assert code == 2
    assert "talk" in problem.what
    assert problem.hint


def test_bad_rows_are_named_where_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(path.read_text() + '{"messages": [\n')
    code, problem = found(tmp_path, full_size(tmp_path / "model"))
    assert (code, problem.key, problem.hint) == (2, "", "")
    assert "rows.jsonl:25" in problem.what


def test_a_tokenizer_that_is_larger_than_the_model(tmp_path: Path) -> None:
    code, problem = found(tmp_path, full_size(tmp_path / "a", vocabulary=260))
    assert (code, problem.key) == (2, "model.name_or_path")
    assert "the model knows 260 tokens" in problem.what
    assert problem.hint


def test_a_padding_token_beyond_the_embeddings(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    folder = full_size(tmp_path / "model", vocabulary=len(tokenizer))
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    code, problem = found(tmp_path, folder)
    assert (code, problem.key) == (2, "model.name_or_path")
    assert f"<pad> ({len(tokenizer) - 1}) is beyond its embeddings" in problem.what


def test_a_token_that_nobody_uses_is_no_fault(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    folder = full_size(tmp_path / "model", vocabulary=len(tokenizer))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    told = tried(tmp_path, folder)
    assert told.report["warnings"] == [
        f"the tokenizer knows {len(tokenizer):,} tokens and the model {len(tokenizer) - 1:,}; no row holds one that is beyond it"
    ]


def test_attention_that_the_architecture_has_not(tmp_path: Path) -> None:
    code, problem = found(tmp_path, full_size(tmp_path / "model", "gemma2"))
    assert (code, problem.key, problem.hint) == (5, "model.attn_implementation", "set model.attn_implementation=eager")


def test_dropout_on_experts(tmp_path: Path) -> None:
    code, problem = found(tmp_path, full_size(tmp_path / "model", "mixtral", num_hidden_layers=2))
    assert (code, problem.key) == (5, "peft.lora_dropout")
    assert problem.hint.startswith("set peft.lora_dropout=0")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model_type": "llamma"}, "does not know the architecture 'llamma'"),
        ({"architectures": "absent"}, "names no class in `architectures`"),
    ],
)
def test_configs(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    code, problem = found(tmp_path, full_size(tmp_path / "model", **changes))
    assert (code, problem.key) == (2, "model.name_or_path")
    assert what in problem.what
    assert problem.hint


def test_positions_that_the_model_has_not(tmp_path: Path) -> None:
    gpt2 = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 64,
    }  # fmt: skip
    folder = full_size(tmp_path / "model")
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**gpt2, "vocab_size": known["vocab_size"]}))
    write_rows(tmp_path / "rows.jsonl", talk(words=60))
    code, problem = found(tmp_path, folder, "quantization=null", "training.max_length=1024")
    assert (code, problem.key) == (2, "training.max_length")
    assert problem.hint == "set training.max_length=64, the positions that it has"


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_padding_token_that_is_not_there(tmp_path: Path) -> None:
    code, problem = found(tmp_path, full_size(tmp_path / "model"), "training.pad_token=<nothing>")
    assert (code, problem.key) == (5, "training.pad_token")


def test_a_resume_that_is_not_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgets(self: Any, folder: str | None) -> None:
        """Goes on without the state of the optimizer."""

    monkeypatch.setattr(train.Trainer, "_load_optimizer_and_scheduler", forgets)
    code, problem = found(tmp_path, full_size(tmp_path / "model"))
    assert (code, problem.key) == (5, "training.save_steps")
    assert problem.what.startswith("going on from the checkpoint of step 2 does not give the same as not stopping: ")


def test_a_checkpoint_that_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halfway = proofs.halfway

    def damaged(*arguments: Any) -> Any:
        run = halfway(*arguments)
        (run.checkpoints / "checkpoint-2" / "optimizer.pt").write_bytes(b"torn")
        return run

    monkeypatch.setattr(proofs, "halfway", damaged)
    code, problem = found(tmp_path, full_size(tmp_path / "model"))
    assert (code, problem.key) == (5, "training.save_steps")
    assert problem.what.startswith("the run did not go on at its checkpoint of step 2")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(model, "_bring", full)
    code, problem = found(tmp_path, full_size(tmp_path / "model"))
    assert code == 74
    assert problem.what == "the disk refused to write: No space left on device"
    assert problem.hint == "free some space, or set TMPDIR to another folder"
    assert problem.key == ""


def test_a_child_that_is_killed(tmp_path: Path) -> None:
    assert (
        children.died(-9, tmp_path / "log").problems[0].what
        == "a process of the rehearsal ended by signal 9 without a word"
    )


def test_a_model_that_is_not_here(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, problem = found(tmp_path, tmp_path / "empty")
    assert (code, problem.key) == (2, "model.name_or_path")
    code, problem = found(
        tmp_path / "empty", Path("nobody/nothing"), recipe=RECIPE.replace("rows.jsonl", "../rows.jsonl")
    )
    assert (code, problem.key) == (2, "model.name_or_path")
    assert problem.hint
