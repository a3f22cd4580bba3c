"""What is merged is what was trained: by logits, by formulas of its own, and whatever goes wrong on the way."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nothing_tune.artifacts import Run, write_json
from nothing_tune.engine.export import adapter, base, merge, tensors
from nothing_tune.engine.export.source import Source, source
from nothing_tune.errors import ProofFailed, StorageError, UsageError
from tests.engine import exports
from tests.engine.merging import Heard, adapted, copied, kl, log_probs, merged, plain, random_adapter, weights

LIMITS = {"float32": 1e-6, "bfloat16": 5e-5}
"""Mean KL in nats between adapter and merged model; the merged weights are rounded once to the type that the base stores."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama in three files."""
    return exports.model("llama", tmp_path_factory.mktemp("small") / "base", shards=3)


@pytest.fixture(scope="module")
def lora(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A LoRA run of it."""
    return exports.trained("lora-all", small, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def copy(lora: Run, small: Path, tmp_path: Path) -> Run:
    """The same with its base, to be damaged."""
    return copied(lora, small, tmp_path)


FEW = [
    ("llama", "tokens", {"room": False}),
    ("qwen2", "bias", {}),
    ("mistral", "pissa", {"dtype": "bfloat16"}),
    ("gemma", "dora", {"dtype": "bfloat16"}),
    ("qwen2", "full", {"dtype": "bfloat16"}),
]
KINDS: tuple[dict[str, Any], ...] = ({}, {"room": False}, {"tied": False, "dtype": "bfloat16"})
EDGES = ("tokens", "embed", "saved-embed", "head")
"""Methods that reach embeddings or head, where families differ: each with every family, while the kinds take turns."""
INNER = [m for m in exports.METHODS if m not in EDGES]
"""The others: each with one family, those that depend on the stored type with every kind, while the families take turns."""
NAMES = list(exports.FAMILIES)
MORE = [
    *((family, method, KINDS[(i + j + 1) % 3]) for j, method in enumerate(EDGES) for i, family in enumerate(NAMES)),
    *(
        (NAMES[(i + j) % len(NAMES)], method, kind)
        for j, method in enumerate(INNER)
        for i, kind in enumerate(KINDS if method in ("qlora", "dora") else KINDS[:1])
    ),
]


@pytest.mark.parametrize(("family", "method", "kind"), FEW, ids=str)
def test_merged_equals_the_adapter(family: str, method: str, kind: dict[str, Any], tmp_path: Path) -> None:
    equals(family, method, kind, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "method", "kind"), [m for m in MORE if m not in FEW], ids=str)
def test_merged_equals_the_adapter_everywhere(family: str, method: str, kind: dict[str, Any], tmp_path: Path) -> None:
    equals(family, method, kind, tmp_path)


def equals(family: str, method: str, kind: dict[str, Any], tmp: Path) -> None:
    """Trains, merges, loads all of it again, and compares; types, names and tokenizer too."""
    from transformers import AutoTokenizer

    model = exports.model(family, tmp / "base", shards=2, **kind)
    run = exports.trained(method, model, tmp / "runs")
    found, folder, heard = merged(run)
    result = plain(folder)
    before, now = log_probs(plain(model)), log_probs(result)
    trained = log_probs(plain(run.adapter) if found.full else adapted(model, found.adapter))
    assert trained.shape == now.shape
    apart, moved = kl(trained, now), kl(trained, before)
    print(f"{family} {method} {kind}: KL adapter-merged {apart:.1e}, adapter-base {moved:.1e}")
    assert moved > 1e-3, "the training was meant to change something"
    assert abs(apart) < LIMITS[kind.get("dtype", "float32")]
    old, new = weights(model), weights(folder)
    if not found.full or len(old) == len(new):
        assert {n: t.dtype for n, t in old.items()} == {n: t.dtype for n, t in new.items() if n in old}
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["tie_word_embeddings"] == ("lm_head.weight" not in new)
    if found.full:  # equal as saved by the run itself, rounded once
        assert all(torch.equal(new[n], t.to(old[n].dtype)) for n, t in weights(run.adapter).items())
        assert config["dtype"] == kind.get("dtype", "float32")
    tok = AutoTokenizer.from_pretrained(folder)
    assert len(tok) <= config["vocab_size"] == now.shape[-1]
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    turn = "<|im_end|>" if method == "tokens" else exports.FAMILIES[family].turn
    assert tok.convert_tokens_to_ids(turn) in (ends if isinstance(ends, list) else [ends])
    assert "generation %}" not in tok.chat_template
    progress = heard.of("progress")
    assert progress[-1]["done"] == progress[-1]["total"]


@pytest.mark.parametrize(
    "method", ["dora", "patterns", *(pytest.param(m, marks=pytest.mark.slow) for m in ("lora-all", "rslora"))]
)
def test_every_weight_is_what_the_formula_says(method: str, small: Path, tmp_path: Path) -> None:
    run = exports.trained(method, small, tmp_path / "runs")
    found, folder, _ = merged(run)
    settings = json.loads((found.adapter / "adapter_config.json").read_text())
    parts, old, new = load_file(found.adapter / adapter.WEIGHTS), weights(small), weights(folder)
    touched = {n.removeprefix("base_model.model.").split(".lora_")[0] + ".weight" for n in parts}
    assert touched
    for name, was in old.items():
        if name not in touched:
            assert torch.equal(new[name], was), name
            continue
        key = f"base_model.model.{name.removesuffix('.weight')}"
        a, b = parts[f"{key}.lora_A.weight"].double(), parts[f"{key}.lora_B.weight"].double()
        leaf = name.split(".")[-2]
        rank, alpha = (
            settings[k].get(leaf, settings[v]) for k, v in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha"))
        )
        assert a.shape[0] == rank
        expected = was.double() + alpha / (rank**0.5 if settings["use_rslora"] else rank) * b @ a
        if settings["use_dora"]:
            expected *= (parts[f"{key}.lora_magnitude_vector"].double() / expected.norm(dim=1))[:, None]
        torch.testing.assert_close(new[name].double(), expected, rtol=1e-5, atol=1e-6)
        assert not torch.equal(new[name], was)


def test_files_are_those_of_the_base_unless_a_length_is_given(lora: Run, small: Path) -> None:
    found, folder, _ = merged(lora)
    assert {p.name for p in folder.glob("*.safetensors")} == {p.name for p in small.glob("*.safetensors")}
    whole = weights(folder)
    heard = Heard()
    merge.make(found, base.find(found.plan), folder, heard, shard_bytes=60_000)
    files = sorted(folder.glob("*.safetensors"))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(files) > 3
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert all(index["weight_map"][name] == file.name for file in files for name in load_file(file))
    for file in files:
        held = load_file(file)
        assert sum(t.nbytes for t in held.values()) <= 60_000 or len(held) == 1
        assert os.stat(file).st_mode & 0o044, "a server of another user must read it"
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in whole.values())
    again = weights(folder)
    assert again.keys() == whole.keys()
    assert all(torch.equal(again[n], whole[n]) for n in whole)
    merge.make(found, base.find(found.plan), folder, heard, shard_bytes=10**9)
    assert [p.name for p in folder.glob("model*")] == ["model.safetensors"]
    assert kl(log_probs(adapted(small, found.adapter)), log_probs(plain(folder))) < 1e-6


class Killed(BaseException):
    """Ends a merge at once, whatever it does."""


def test_a_merge_that_was_interrupted_goes_on_after_its_last_whole_file(lora: Run, tmp_path: Path) -> None:
    found, folder, _ = merged(lora)
    expected = {p.name: p.read_bytes() for p in folder.iterdir()}
    other = tmp_path / "merged"
    journal = tmp_path / ".merged.partial" / merge.JOURNAL

    def stop(**fields: Any) -> None:
        if journal.is_file() and len(json.loads(journal.read_text())["files"]) == 1 and fields["type"] == "progress":
            raise Killed

    model = base.find(found.plan)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        patched.setattr(merge, "EVERY_S", 0.0)
        with pytest.raises(Killed):
            merge.make(found, model, other, stop)
    assert not other.exists()
    [first] = json.loads(journal.read_text())["files"]
    stamp = (journal.parent / first).stat()
    merge.make(found, model, other, Heard())
    assert {p.name: p.read_bytes() for p in other.iterdir()} == expected
    assert (other / first).stat().st_ino == stamp.st_ino, "a whole file is not written again"
    assert not journal.parent.exists()


def test_what_is_whole_of_another_adapter_is_not_used(lora: Run, tmp_path: Path) -> None:
    found, folder, _ = merged(lora)
    partial = tmp_path / ".merged.partial"
    shutil.copytree(folder, partial)
    files = {p.name: {"size": p.stat().st_size, "sha256": "0", "changed": []} for p in partial.glob("*.safetensors")}
    for path in partial.glob("*.safetensors"):
        path.write_bytes(b"\0" * path.stat().st_size)
    write_json(partial / merge.JOURNAL, {"key": "of something else", "files": files})
    merge.make(found, base.find(found.plan), tmp_path / "merged", Heard())
    assert weights(tmp_path / "merged").keys() == weights(folder).keys()
    assert kl(log_probs(plain(folder)), log_probs(plain(tmp_path / "merged"))) == 0


KILL = """
import sys, time
from pathlib import Path
from nothing_tune.artifacts import Run
from nothing_tune.engine.export import base, merge, tensors
from nothing_tune.engine.export.source import source
found = source(Run(Path(sys.argv[1])), "handed-over")
original = tensors.write
def slow(*args):
    out = original(*args)
    time.sleep(0.3)
    return out
tensors.write = slow
merge.make(found, base.find(found.plan), Path(sys.argv[2]), lambda **f: None)
"""


@pytest.mark.slow
def test_a_killed_process_loses_nothing_that_was_whole(lora: Run, tmp_path: Path) -> None:
    _, folder, _ = merged(lora)
    out = tmp_path / "merged"
    command = [sys.executable, "-c", KILL, str(lora.path), str(out)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = tmp_path / ".merged.partial" / merge.JOURNAL
    while not journal.is_file():
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not out.exists()
    assert json.loads(journal.read_text())["files"]
    assert subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture
def no_long_files() -> Iterator[None]:
    """The system refuses files longer than 100 kB, as a full disk does."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_refuses_leaves_what_was_there(copy: Run, tmp_path: Path, no_long_files: None) -> None:
    found = source(copy, "handed-over")
    adapter.make(found, Heard())
    out = tmp_path / "merged"
    out.mkdir()
    (out / "model.safetensors").write_text("the last export")
    with pytest.raises(StorageError, match=r"cannot write .*: File too large") as caught:
        merge.make(found, base.find(found.plan), out, Heard())
    assert caught.value.problems[0].hint == "free some space, then the same command goes on"
    assert (out / "model.safetensors").read_text() == "the last export"


def test_another_base_is_refused(copy: Run, tmp_path: Path) -> None:
    found = source(copy, "handed-over")
    adapter.make(found, Heard())
    same = exports.model("llama", tmp_path / "same", seed=9)
    with pytest.raises(UsageError, match="is not the base model that run run trained: its weights differ"):
        merge.make(found, base.at(same), tmp_path / "merged", Heard())
    wide = exports.model("llama", tmp_path / "wide", hidden=128)
    unknown = Source(found.run, found.plan, 6, found.folder, found.weights, False, {})  # of a run without fingerprints
    with pytest.raises(UsageError, match=r"the adapter does not belong to this base model: .*size mismatch"):
        merge.make(unknown, base.at(wide), tmp_path / "merged", Heard())
    deep = exports.model("llama", tmp_path / "deep", layers=1)
    with pytest.raises(UsageError, match="there is no place for 14 of its tensors"):
        merge.make(unknown, base.at(deep), tmp_path / "merged", Heard())
    deep = exports.model("llama", tmp_path / "deeper", layers=3)
    path = found.adapter / adapter.CONFIG
    leaves = sorted({name.split(".")[-1] for name in json.loads(path.read_text())["target_modules"]})
    write_json(path, {**json.loads(path.read_text()), "target_modules": leaves})
    with pytest.raises(UsageError, match="the adapter has nothing for 14 weights"):
        merge.make(unknown, base.at(deep), tmp_path / "merged", Heard())
    assert not (tmp_path / "merged").exists()


def test_a_merge_that_changes_nothing_is_an_error(copy: Run, tmp_path: Path) -> None:
    found = source(copy, "handed-over")
    adapter.make(found, Heard())
    path = found.adapter / adapter.WEIGHTS
    parts = load_file(path)
    some = {n: torch.zeros_like(t) if "lora_B" in n and "layers.0" in n else t for n, t in parts.items()}
    save_file(some, path, metadata={"format": "pt"})
    heard = Heard()
    merge.make(found, base.find(found.plan), tmp_path / "some", heard)
    [warning] = heard.of("warning")
    assert warning["what"].startswith("7 of 14 modules that the adapter reaches stay what they were in float32, first")
    save_file({n: torch.zeros_like(t) for n, t in parts.items()}, path, metadata={"format": "pt"})
    with pytest.raises(ProofFailed) as caught:
        merge.make(found, base.find(found.plan), tmp_path / "none", Heard())
    assert caught.value.problems[0].what == (
        "the merged model is the base model: none of the 14 modules that the adapter reaches changes in float32"
    )
    assert not (tmp_path / "none").exists()
    save_file({n: t * float("nan") for n, t in parts.items()}, path, metadata={"format": "pt"})
    with pytest.raises(ProofFailed, match="is not finite after the merge"):
        merge.make(found, base.find(found.plan), tmp_path / "none", Heard())


def other_methods() -> dict[str, Any]:
    import peft

    names = ["q_proj", "down_proj"]
    return {
        "ia3": peft.IA3Config(target_modules=names, feedforward_modules=["down_proj"]),
        "vera": peft.VeraConfig(target_modules=["q_proj"], r=8, d_initial=1.0),
        "loha": peft.LoHaConfig(target_modules=names, r=4),
        "lokr": peft.LoKrConfig(target_modules=names, r=4),
        "oft": peft.OFTConfig(target_modules=names, oft_block_size=16, r=0),
        "adalora": peft.AdaLoraConfig(target_modules=names, total_step=10),
        "lora-bias": peft.LoraConfig(target_modules=names, bias="lora_only"),
        "dora-embed": peft.LoraConfig(target_modules=["embed_tokens", "q_proj"], use_dora=True),
        "lora-head": peft.LoraConfig(target_modules=["lm_head", "q_proj"]),
        "tokens-and-lora": peft.LoraConfig(target_modules=names, trainable_token_indices=[7, 9, 30]),
    }


@pytest.mark.parametrize("method", ["ia3", "lora-head", "tokens-and-lora"])
def test_other_methods_are_merged_by_pefts_own_arithmetic(method: str, tmp_path: Path) -> None:
    by_another_method(method, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["vera", "loha", "lokr", "oft", "adalora", "lora-bias", "dora-embed"])
def test_still_other_methods(method: str, tmp_path: Path) -> None:
    by_another_method(method, tmp_path)


def by_another_method(method: str, tmp: Path) -> None:
    """Merges a random adapter and compares."""
    model = exports.model("qwen2", tmp / "base")
    found, made = random_adapter(model, tmp / "out", other_methods()[method])
    merge.make(found, base.at(model), tmp / "merged", Heard())
    trained = log_probs(made)
    assert kl(trained, log_probs(plain(model))) > 1e-4
    assert abs(kl(trained, log_probs(plain(tmp / "merged")))) < 1e-6


@pytest.mark.parametrize("kind", ["gpt2", "mixtral", pytest.param("qwen3_moe", marks=pytest.mark.slow)])
def test_other_ways_to_store_weights(kind: str, tmp_path: Path) -> None:
    """Transposed weights without the model's prefix (GPT-2), and experts that are stored one by one (Mixtral)."""
    import peft
    from transformers import AutoConfig, AutoModelForCausalLM

    tok, model = exports.tokenizer("qwen2"), tmp_path / "base"
    tok.save_pretrained(model)
    special = {f"{name}_token_id": getattr(tok, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    sizes: dict[str, Any] = {"vocab_size": len(tok), **special}
    if kind == "gpt2":
        sizes |= {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
        settings = peft.LoraConfig(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    else:
        sizes |= {
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "initializer_range": 0.1,
        }  # fmt: skip
        sizes |= (
            {"num_local_experts": 4}
            if kind == "mixtral"
            else {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "head_dim": 16}
        )
        settings = peft.LoraConfig(
            target_modules=["q_proj"],
            target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
            task_type="CAUSAL_LM",
        )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).save_pretrained(model)
    found, made = random_adapter(model, tmp_path / "out", settings)
    merge.make(found, base.at(model), tmp_path / "merged", Heard())
    trained = log_probs(made)
    assert kl(trained, log_probs(plain(model))) > 1e-4
    assert abs(kl(trained, log_probs(plain(tmp_path / "merged")))) < 1e-6
    assert weights(tmp_path / "merged").keys() == weights(model).keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"init_lora_weights": "loftq"}, "a LoftQ adapter belongs to the base as LoftQ quantised it"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication makes a model of other layers"),
    ],
)
def test_what_no_merge_can_hold_is_refused(change: dict[str, Any], words: str, copy: Run, tmp_path: Path) -> None:
    found = source(copy, "handed-over")
    adapter.make(found, Heard())
    path = found.adapter / "adapter_config.json"
    write_json(path, {**json.loads(path.read_text()), **change})
    with pytest.raises(UsageError, match=words) as caught:
        merge.make(found, base.find(found.plan), tmp_path / "merged", Heard())
    assert caught.value.problems[0].hint == "the adapter alone can be exported"


def test_tensors_are_written_as_the_format_says(tmp_path: Path) -> None:
    held = {
        "a": torch.randn(3, 5),
        "b": torch.arange(4),
        "c": torch.randn(7).to(torch.bfloat16),
        "d": torch.empty(0, 2),
    }
    kinds = {"a": "F32", "b": "I64", "c": "BF16", "d": "F32"}
    planned = {n: (kinds[n], tuple(t.shape)) for n, t in held.items()}
    size, digest = tensors.write(tmp_path / "x.safetensors", planned, lambda n: tensors.pieces(held[n]), lambda _: None)
    read = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(read[n], t) and read[n].dtype == t.dtype for n, t in held.items())
    entries = tensors.header(tmp_path / "x.safetensors")
    assert size == (tmp_path / "x.safetensors").stat().st_size
    assert digest == merge._sha256(tmp_path / "x.safetensors")
    assert torch.equal(tensors.load(tmp_path / "x.safetensors", entries["c"]), held["c"])
    assert torch.equal(tensors.sample(tmp_path / "x.safetensors", entries["a"], 4), held["a"].flatten()[::3][:4])
