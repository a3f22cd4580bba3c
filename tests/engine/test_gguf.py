"""GGUF files made by llama.cpp's own converter: whole, quantised as foretold, and split into the tokens that the tokenizer makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.engine.export import gguf
from nothing_tune.engine.export.gguf import adapter, agreement, sources
from nothing_tune.errors import LaunchError, RunError, UsageError
from nothing_tune.outputs import gguf_file, quantizations
from tests.engine import exports, sentences
from tests.engine.support import tiny_model

llama_cpp = pytest.importorskip("llama_cpp")
pytestmark = [pytest.mark.slow, pytest.mark.gguf]
ROOT = Path(__file__).parents[2]
NANO = ROOT / "recipes" / "models" / "nano"


def silent(**_: Any) -> None:
    """Hears no event."""


@pytest.fixture(scope="session")
def tree() -> Path:
    """The converter; downloaded once into the user's cache."""
    try:
        return gguf.tree()
    except LaunchError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def made(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path, dict[str, Any]]]:
    """Model folder, its f16 file, and what was said of its tokenizer, by name."""
    folder = tmp_path_factory.mktemp("gguf")
    out = {}
    for name, model in (
        ("nano", NANO),
        ("llama", exports.model("llama", folder / "llama", hidden=256)),
        ("qwen2", exports.model("qwen2", folder / "qwen2", hidden=64)),
        ("gemma", exports.model("gemma", folder / "gemma", hidden=256)),
        ("sentences", tiny_model(folder / "sentences", template=sentences.TEMPLATE, tokenizer=sentences.bpe("legacy"))),
    ):
        file = folder / f"{name}-f16.gguf"
        out[name] = (model, file, gguf.convert(model, file, "f16", silent))
    return out


def divergence(model: Path, file: Path, ids: list[int], lora: Path | None = None, peft: Path | None = None) -> float:
    """Mean Kullback-Leibler divergence of the file's next-token distributions from the model's, in nats a token."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if peft:
        from peft import PeftModel

        loaded = PeftModel.from_pretrained(loaded, peft)
    with torch.no_grad():
        ours = torch.log_softmax(loaded(torch.tensor([ids])).logits[0].float(), -1)
    other = llama_cpp.Llama(str(file), n_ctx=64, logits_all=True, verbose=False, lora_path=str(lora) if lora else None)
    other.eval(ids)
    theirs = torch.log_softmax(torch.tensor(np.array(other.scores[: len(ids)])), -1)
    other.close()
    return float((ours.exp() * (ours - theirs)).sum(-1).mean())


def test_tokens_and_endings_are_those_of_the_tokenizer(made: dict[str, Any]) -> None:
    from transformers import AutoTokenizer

    expected = {
        "nano": ("gpt2", "smollm", False), "llama": ("gpt2", "smaug-bpe", True), "qwen2": ("gpt2", "qwen2", False),
        "gemma": ("gpt2", "gpt-2", True), "sentences": ("llama", "default", True),
    }  # fmt: skip
    for name, (model, file, said) in made.items():
        assert (said["model"], said["pre"], said["bos"]) == expected[name], name
        tokenizer = AutoTokenizer.from_pretrained(model)
        facts = gguf_file.check(file).facts
        assert facts["tokenizer.ggml.add_bos_token"] is said["bos"]
        assert facts["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
        assert facts["tokenizer.chat_template"] == tokenizer.chat_template
        ends = {facts.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom")}
        assert set(said["stops"]) <= ends
        loaded = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
        for text in ("Où est-ce 12345 ?\n\n\tif x:  y()", "🙂 日本 <|im_end|>"):
            assert loaded.tokenize(text.encode(), add_bos=True, special=True) == tokenizer(text)["input_ids"], (
                name,
                text,
            )
        loaded.close()


def test_answers_are_those_of_the_model(made: dict[str, Any]) -> None:
    for name in ("nano", "gemma", "qwen2"):
        model, file, _ = made[name]
        assert divergence(model, file, list(range(5, 45))) < 1e-4, name


def test_quantised_files_are_as_foretold(made: dict[str, Any], tree: Path, tmp_path: Path) -> None:
    for name in ("nano", "qwen2", "gemma"):
        model, file, _ = made[name]
        config = json.loads((model / "config.json").read_text())
        for kind in ("q8_0", "q4_k_m", "q3_k_m", "iq4_xs", "q2_k"):
            out = tmp_path / f"{name}-{kind}.gguf"
            seen: list[tuple[int, int]] = []
            gguf.quantize(file, out, kind, lambda seen=seen, **event: seen.append((event["done"], event["total"])))
            head = gguf_file.check(out)
            assert seen[-1] == (len(head.tensors), len(head.tensors))
            foretold = {t.name: used for t, _, used in quantizations.types(config, kind) if not t.kept}
            assert {t.name.removesuffix(".weight"): t.type for t in head.tensors if t.type != "f32"} == foretold, (
                name,
                kind,
            )
            weights = head.size - head.data
            guessed = quantizations.size(config, kind) - quantizations.TOKEN * config["vocab_size"] - 8_000
            assert guessed == pytest.approx(weights, rel=0.02), (name, kind)
            llama_cpp.Llama(str(out), n_ctx=32, verbose=False).close()
    code = "import sys, gguf; r = gguf.GGUFReader(sys.argv[1]); print(sorted([t.name, t.tensor_type.name.lower()] for t in r.tensors))"
    theirs = subprocess.run(
        [sys.executable, "-P", "-c", code, str(out)], env={**os.environ, "PYTHONPATH": str(tree / "gguf-py")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert theirs.stdout.strip() == str(sorted([t.name, t.type] for t in head.tensors))
    with pytest.raises(UsageError) as caught:
        gguf.quantize(out, tmp_path / "again.gguf", "q8_0", silent)
    assert caught.value.problems[0].what.startswith(f"{out.name} is quantised already (q")
    assert not (tmp_path / "again.gguf").exists()


def test_a_tokenizer_without_a_form_is_refused(tree: Path, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "uni", template=None, tokenizer=sentences.unigram(one_space=True))
    with pytest.raises(RunError) as caught:
        gguf.convert(model, tmp_path / "uni.gguf", "f16", silent)
    problem = caught.value.problems[0]
    assert problem.what.startswith(
        "this tokenizer cannot be written as GGUF: of 4 ways that llama.cpp has, none splits text as it does"
    )
    assert problem.hint == "this model can be served with vLLM or transformers: tune export RUN --merge --vllm"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["uni"]


def test_a_difference_in_the_vocabulary_is_seen(made: dict[str, Any]) -> None:
    from transformers import AutoTokenizer

    compared = agreement.Comparison(AutoTokenizer.from_pretrained(made["nano"][0]))
    good, _ = compared.first_good(made["nano"][1], [""])
    assert good is not None
    assert good.perfect
    bad, found = compared.first_good(made["nano"][1], ["poro-chat", "default", "no-such-name"])
    assert bad is None
    assert [f.pre for f in found] == ["poro-chat", "default", "no-such-name"]
    doubled = agreement.Comparison(AutoTokenizer.from_pretrained(made["nano"][0]))
    doubled.start = [1]
    assert doubled.first_good(made["nano"][1], [""])[0] is None


def test_an_adapter_alone_answers_like_the_trained_model(made: dict[str, Any], tmp_path: Path) -> None:
    base, file, _ = made["llama"]
    ids = list(range(6, 46))
    run = exports.trained("patterns", base, tmp_path / "runs", **{"peft.use_rslora": True})
    out = tmp_path / "adapter.gguf"
    gguf.convert_adapter(run.path / "adapter", base, out, silent)
    assert divergence(base, file, ids, out, run.path / "adapter") < 1e-4
    assert divergence(base, file, ids, None, run.path / "adapter") > 1e-2


def test_adapters_without_a_form_are_refused() -> None:
    plain = {"peft_type": "LORA", "lora_alpha": 16}
    assert adapter.refusal(plain) == ""
    for change, words in (
        ({"use_dora": True}, "DoRA"), ({"modules_to_save": ["lm_head"]}, "whole modules (lm_head)"), ({"bias": "all"}, "biases"),
        ({"peft_type": "IA3"}, "the method IA3"),
        ({"trainable_token_indices": {"embed_tokens": [1]}}, "trained tokens (trainable_token_indices)"),
    ):  # fmt: skip
        assert adapter.refusal({**plain, **change}) == words


SCRIPT = """
import json, os, sys
from pathlib import Path
from tests.faults import mounts
from nothing_tune.engine.export import gguf
from nothing_tune.errors import TuneError
what, model, file, out, kib = sys.argv[1:]
if int(kib):
    try:
        mounts._call("unshare", mounts.NEW_MOUNTS)
        mounts._call("mount", b"none", b"/", None, mounts.RECURSIVE | mounts.PRIVATE, None)
        mounts._call("mount", b"tmpfs", str(Path(out).parent).encode(), b"tmpfs", 0, f"size={kib}k".encode())
    except OSError as error:
        sys.exit(f"no mounts: {error}")

def send(**event):
    if not int(kib) and event.get("type") == "progress" and event["stage"] == what and event["done"]:
        os.kill(os.getpid(), 9)

try:
    gguf.convert(Path(model), Path(out), "f16", send) if what == "convert" else gguf.quantize(Path(file), Path(out), "q8_0", send)
except TuneError as error:
    print(json.dumps([error.exit_code, error.problems[0].what, sorted(p.name for p in Path(out).parent.iterdir())]))
"""


def attempt(what: str, made: dict[str, Any], out: Path, kib: int = 0) -> subprocess.CompletedProcess[str]:
    """Converts or quantises nano in a process of its own: on a disk of `kib` KiB, or killed (0) at the first progress."""
    model, file, _ = made["nano"]
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, what, str(model), str(file), str(out), str(kib)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("what", ["convert", "quantize"])
def test_a_full_disk_is_told_and_leaves_nothing(what: str, made: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    done = attempt(what, made, tmp_path / "small" / "nano.gguf", 1024)
    if "no mounts" in done.stderr:
        pytest.skip(done.stderr.strip())
    code, words, left = json.loads(done.stdout)
    assert code == 74, done.stderr[-800:]
    assert "disk" in words or words == "nano.gguf was not written to its end"
    assert left == []


@pytest.mark.parametrize("what", ["convert", "quantize"])
def test_a_kill_in_the_middle_leaves_no_file_under_the_name(what: str, made: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "nano.gguf"
    assert attempt(what, made, out).returncode == -9
    assert not out.exists()
    deadline = time.monotonic() + 10
    while _children(out) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _children(out) == []
    if what == "quantize":
        gguf.quantize(made["nano"][1], out, "q8_0", silent)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["nano.gguf"]


def _children(out: Path) -> list[int]:
    """Processes that still have the half-made file open."""
    found = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(out.parent in Path(os.readlink(link)).parents for link in folder.iterdir()):
                found.append(int(folder.parent.name))
        except OSError:
            continue
    return found


def test_another_llama_cpp_is_refused(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    other = tmp_path / "llama.cpp"
    shutil.copytree(tree, other)
    monkeypatch.setenv(sources.VARIABLE, str(other))
    assert sources.tree() == other
    with open(other / "conversion" / "base.py", "a") as handle:
        handle.write("\n")
    with pytest.raises(UsageError) as caught:
        sources.tree()
    assert caught.value.problems[0].what == (
        f"TUNE_LLAMA_CPP={other} is another llama.cpp than that of llama-cpp-python 0.3.36, which is installed"
    )
    monkeypatch.setenv(sources.VARIABLE, str(tmp_path))
    with pytest.raises(UsageError) as caught:
        sources.tree()
    assert (
        caught.value.problems[0].what == f"TUNE_LLAMA_CPP={tmp_path} is no llama.cpp: it has no convert_hf_to_gguf.py"
    )
    wrong = tmp_path / "llama_cpp_python-0.3.36.tar.gz"
    wrong.write_bytes(b"no archive")
    monkeypatch.setenv(sources.VARIABLE, str(wrong))
    monkeypatch.setenv("TUNE_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(UsageError) as caught:
        sources.tree()
    assert caught.value.problems[0].what == (
        "llama_cpp_python-0.3.36.tar.gz is not the source package of llama-cpp-python 0.3.36: its sha256 differs"
    )
    monkeypatch.setattr(sources.importlib.metadata, "version", lambda _: "0.3.16")
    with pytest.raises(UsageError) as caught:
        sources.installed()
    assert caught.value.problems[0].what == "llama-cpp-python 0.3.16 is installed, and the converter belongs to 0.3.36"
