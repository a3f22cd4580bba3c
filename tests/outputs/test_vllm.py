"""vLLM's command lines and files, what adapters it refuses, and the GPUs by bandwidth; llama.cpp's command lines."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from nothing_tune.outputs import llama_cpp, vllm
from nothing_tune.recipe.providers import Price, Provider, providers


def test_served_as_the_source_serves_it() -> None:
    base = "meta-llama/Llama-3.2-3B-Instruct"
    t4, a10 = (
        vllm.adapter(base, "nothing-gpt", "../adapter", {"r": 32}, vllm.gpu(gpu), context=131_072, trained=1024) for gpu in ("t4", "a10")
    )  # fmt: skip
    assert (
        shlex.split(vllm.command(t4).replace("\\\n", ""))
        == (
            f"vllm serve {base} --enable-lora --lora-modules nothing-gpt=../adapter --max-lora-rank 32 --max-model-len 1024 "
            "--dtype half --enforce-eager --port 8000 --generation-config ../adapter"
        ).split()
    )
    assert yaml.safe_load(vllm.config_file(a10, ["a", "b"])) == {
        "model": base, "enable-lora": True, "lora-modules": ["nothing-gpt=../adapter"], "max-lora-rank": 32, "max-model-len": 2048,
        "dtype": "bfloat16", "port": 8000, "generation-config": "../adapter",
    }  # fmt: skip
    merged = vllm.merged("../merged", "it's", vllm.gpu("h100"), context=512, trust=True)
    assert shlex.split(vllm.command(merged).replace("\\\n", ""))[2:6] == [
        "../merged",
        "--served-model-name",
        "it's",
        "--max-model-len",
    ]
    assert (merged.options["max-model-len"], merged.options["trust-remote-code"]) == (512, True)
    assert vllm.merged("x", "x", vllm.gpu("t4"), trained=4096).options["max-model-len"] == 4096
    assert vllm.dtype(vllm.gpu("t4"), "gemma3_text") == "float32"


def test_ranks_and_refusals() -> None:
    for rank, allowed in ((1, 1), (2, 8), (8, 8), (9, 16), (33, 64), (300, 320), (512, 512)):
        assert vllm.max_rank({"r": rank}) == allowed
    assert vllm.max_rank({"r": 8, "rank_pattern": {"q_proj": 20}}) == 32
    assert vllm.refusal({"r": 8, "use_rslora": True, "init_lora_weights": True, "bias": "none"}) == ""
    for config, why in (
        ({"use_dora": True}, "it does not know DoRA"), ({"r": 1024}, "its rank 1024 is above 512"),
        ({"modules_to_save": ["lm_head"]}, "it takes no modules_to_save (lm_head)"), ({"bias": "all"}, "it takes no biases"),
        ({"init_lora_weights": "loftq"}, "it does not know the start loftq"), ({"peft_type": "IA3"}, "it serves LoRA alone, this is IA3"),
        ({"trainable_token_indices": [1]}, "it takes no single tokens that were trained"),
    ):  # fmt: skip
        assert vllm.refusal({"r": 8, **config}) == why


def test_gpus_by_bandwidth() -> None:
    prices = (Price("t4", 0.6, "x", "s", None), Price("a10", 1.2, "x", "s", None), Price("any", 9.0, "x", "s", None))
    own = Provider("own", "own", (Price("any", 0.0, "own", "s", None),))
    found = {one.gpu: one for one in vllm.advice(6_000_000_000, [Provider("p", "P", prices), own])}
    t4, a10 = found["t4"], found["a10"]
    assert t4.tokens_per_s == pytest.approx(320 / 6)
    assert a10.tokens_per_s == pytest.approx(100)
    assert (t4.usd_per_hour, t4.provider) == (0.6, "p")
    assert t4.usd_per_million == pytest.approx(0.6 / (320 / 6 * 3600) * 1e6)
    assert "cpu" not in found
    rows = vllm.advice_rows(vllm.advice(20_000_000_000, []))
    assert "t4" not in [row[0] for row in rows]  # 20 GB do not fit
    assert next(row for row in rows if row[0] == "a10") == ("a10", "24 GB", "600 GB/s", "30", "-", "-")


def test_llama_cpp() -> None:
    assert (
        llama_cpp.server("m.gguf", 1024, "x", "a.gguf")
        == "llama-server -m m.gguf --lora a.gguf -c 1024 --jinja --alias x --port 8080"
    )
    assert llama_cpp.python_server("a b.gguf", 64, "x") == (
        "python -m llama_cpp.server --model 'a b.gguf' --chat_format chat_template.default --n_ctx 64 --model_alias x --port 8080"
    )
    known = [(2048, 1024), (None, 512), (512, None), (None, None), (512, 1024)]
    assert [vllm.conversation(*one) for one in known] == [1024, 512, 512, 4096, 512]


def test_the_page_has_the_table_of_today() -> None:
    page = (Path(__file__).parents[2] / "docs/serving.md").read_text(encoding="utf-8")
    for row in vllm.advice_rows(vllm.advice(2 * 3_212_749_824, providers())):  # Llama 3.2 3B
        assert f"| {' | '.join(row)} |" in page
