"""GGUF files with one fault each, read by llama.cpp: what each check says, and what is compared with the merged model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.engine.export import proof
from nothing_tune.outputs import limits
from tests.engine import exports
from tests.engine.test_proof_faults import Export, failed, made, silent

llama_cpp = pytest.importorskip("llama_cpp")
pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.gguf]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """A LoRA run of a small Llama in bfloat16 that learned to stop, exported."""
    tmp = tmp_path_factory.mktemp("faults")
    folder = exports.model("llama", tmp / "base", dtype="bfloat16")
    return made(exports.trained("lora", folder, tmp / "runs", **{"training.max_steps": 30}), folder)


def patch(file: Path, key: str, value: bytes) -> None:
    """Writes `value` over that of a number or truth value in a GGUF file: it stands after the key and four bytes for its type."""
    found = bytearray(file.read_bytes())
    place = found.index(key.encode()) + len(key) + 4
    found[place : place + len(value)] = value
    file.write_bytes(found)


def replace(file: Path, old: str, new: str) -> None:
    """Replaces the last `old` in a GGUF file by `new`, which is as long."""
    assert len(old) == len(new)
    found = file.read_bytes()
    place = found.rindex(old.encode())
    file.write_bytes(found[:place] + new.encode() + found[place + len(old) :])


def read_gguf(export: Export, file: Path) -> dict[str, Any]:
    return proof.gguf(file, "f16", export.source, export.ref)


def test_faults_in_gguf(export: Export, tmp_path: Path) -> None:
    """Files of llama.cpp with one fault each; the sound one passes."""
    from nothing_tune.engine.export import gguf

    sound = tmp_path / "sound.gguf"
    gguf.convert(export.merged, sound, "f16", silent)
    found = read_gguf(export, sound)
    assert all(c["ok"] for c in found["checks"]), found["checks"]
    assert found["kl"] < 1e-5
    assert found["kl_merged"] < 1e-6
    kept = export.source.folder / ".proof" / "merged.safetensors"
    shutil.move(export.merged, tmp_path / "away")
    told = [c for c in read_gguf(export, sound)["checks"] if c["name"] == "conversion"]
    assert (told[0]["ok"], told[0]["limit"]) == (True, limits.conversion("f16", 10**6).kl)
    kept.write_bytes(kept.read_bytes()[:-4] + b"\0\0\0\1")
    without = read_gguf(export, sound)
    assert [c for c in without["checks"] if c["ok"] is not True] == [
        {"name": "conversion", "ok": None, "value": None, "limit": None, "mild": True,
         "what": "cannot tell: the merged model that it was made from is gone"},
    ]  # fmt: skip
    assert (without["ok"], without["kl_merged"]) == (True, None)
    shutil.move(tmp_path / "away", export.merged)
    ids = {
        t: export.near.right.convert_tokens_to_ids(t)
        for t in ("<|finetune_right_pad_id|>", "<|end_of_text|>", "<|eot_id|>")
    }
    pad = ids["<|finetune_right_pad_id|>"].to_bytes(4, "little")
    faults: dict[str, tuple[Callable[[Path], None], str, str]] = {
        "pad as end": (
            lambda f: patch(f, "tokenizer.ggml.eos_token_id", pad), "stop-tokens",
            "the file's end token is the padding <|finetune_right_pad_id|>",
        ),
        "no BOS": (
            lambda f: patch(f, "tokenizer.ggml.add_bos_token", b"\0"), "beginning",
            "a plain text lacks the BOS in llama.cpp, unlike with the tokenizer",
        ),
        "wrong template": (
            lambda f: replace(f, "<|end_header_id|>", "<|end_header_id|}"), "chat-template",
            "the file's chat template renders a conversation otherwise than the tokenizer's",
        ),
        "truncated": (lambda f: f.write_bytes(f.read_bytes()[:-5000]) and None, "reload", "llama.cpp does not load it"),
    }  # fmt: skip
    for fault, (break_it, name, words) in faults.items():
        file = tmp_path / "broken.gguf"
        shutil.copyfile(sound, file)
        break_it(file)
        told = failed(read_gguf(export, file))
        assert told.get(name, "").startswith(words), (fault, told)
    other = tmp_path / "base.gguf"
    gguf.convert(export.base, other, "f16", silent)
    told = failed(read_gguf(export, other))
    assert told["conversion"].startswith("over 512 positions the answers lie KL "), told
    assert told["conversion"].endswith(" from the merged model's, the limit is 0.00025"), told
    assert told["differs-from-base"].startswith("it answers as the base"), told
    alone = tmp_path / "adapter.gguf"
    gguf.convert_adapter(export.source.adapter, export.base, alone, silent)
    found = proof.gguf(alone, "adapter-f16", export.source, export.ref, export.near)
    assert found["ok"], found["checks"]
    assert found["kl"] < 1e-5
    assert not list(tmp_path.glob(".base-of-*"))


def test_bos_doubled_in_gguf(tmp_path: Path) -> None:
    """A family without BOS, in a file that says that one is put before every text."""
    from nothing_tune.engine.export import gguf

    export = made(
        exports.trained("lora", exports.model("qwen2", tmp_path / "base"), tmp_path / "runs"), tmp_path / "base"
    )
    file = tmp_path / "broken.gguf"
    gguf.convert(export.merged, file, "f16", silent)
    assert read_gguf(export, file)["ok"]
    patch(file, "tokenizer.ggml.add_bos_token", b"\1")
    assert failed(read_gguf(export, file)) == {
        "beginning": "a conversation begins with one BOS too many in llama.cpp, unlike with the tokenizer"
    }


def test_a_template_without_the_bos_that_the_tokenizer_adds(tmp_path: Path) -> None:
    """As Zephyr's: a server that tokenises the rendered conversation must get what `apply_chat_template` gives."""
    from transformers import AutoTokenizer

    from nothing_tune.engine.export import gguf

    folder = exports.model("mistral", tmp_path / "base")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )
    run = exports.trained("lora", folder, tmp_path / "runs", **{"training.assistant_only_loss": False})
    export = made(run, folder)
    file = tmp_path / "small.gguf"
    said = gguf.convert(export.merged, file, "f16", silent)
    assert said["bos"] is False
    tokenizer = AutoTokenizer.from_pretrained(export.merged)
    talk = [{"role": "user", "content": "Where when?"}]
    wanted = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id != wanted[0]
    text = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
    model = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    adds = llama_cpp.llama_vocab_get_add_bos(model._model.vocab)
    assert model.tokenize(text.encode(), add_bos=adds, special=True) == wanted
    model.close()
    found = read_gguf(export, file)
    assert found["ok"], failed(found)
    assert [c["what"] for c in found["checks"] if c["name"] == "beginning"] == [
        "a conversation begins as with the tokenizer; a plain text has no BOS, as the chat template writes none"
    ]
    patch(file, "tokenizer.ggml.add_bos_token", b"\1")
    assert failed(read_gguf(export, file)) == {
        "beginning": "a conversation begins with one BOS too many in llama.cpp, unlike with the tokenizer"
    }
