"""Which server is taken, and its command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import write_json
from nothing_tune.errors import LaunchError, TuneError, UsageError
from nothing_tune.outputs.subjects import Subject
from nothing_tune.run import serve

RUN = Subject("run", Path("/runs/mine"), "mine")
GGUF = Subject("gguf", Path("/x/m.gguf"), "m")
LAID: dict[str, Any] = {
    "model": "/f/hub/x", "base": "/base", "adapter": None, "quantization": None, "dtype": "bfloat16", "attention": "sdpa", "cpu": False,
    "trust_remote_code": False, "context": 4096,
}  # fmt: skip


def refused(error: type[TuneError], *arguments: Any) -> str:
    with pytest.raises(error) as caught:
        serve.choose(*arguments)
    return str(caught.value)


def test_the_server_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"transformers", "vllm", "llama.cpp"}
    monkeypatch.setattr(serve, "missing", lambda name: [] if name in there else [f"module_of_{name}"])
    for subject, wanted, gpu, chosen in (
        (RUN, "auto", True, "vllm"), (RUN, "auto", False, "transformers"), (RUN, "transformers", True, "transformers"),
        (RUN, "vllm", False, "vllm"), (GGUF, "auto", True, "llama.cpp"), (GGUF, "llama.cpp", False, "llama.cpp"),
    ):  # fmt: skip
        assert serve.choose(subject, wanted, gpu) == chosen
    there.clear()
    assert refused(LaunchError, RUN, "auto", True) == (
        "error: transformers cannot serve here: module_of_transformers is not installed\n"
        '  hint: pip install "nothing-tune[serve]"'
    )
    assert 'pip install "nothing-tune[gguf]"' in refused(LaunchError, GGUF, "auto", False)
    assert "pip install vllm" in refused(LaunchError, RUN, "vllm", True)
    assert refused(UsageError, RUN, "ollama", False) == (
        "error: there is no server 'ollama'\n  hint: one of auto, transformers, vllm, llama.cpp"
    )
    assert "tune export mine --gguf q4_k_m makes one" in refused(UsageError, RUN, "llama.cpp", False)
    assert "vllm is not asked to serve GGUF files" in refused(UsageError, GGUF, "vllm", False)


def test_names_that_clients_use(tmp_path: Path) -> None:
    assert serve.model_name(RUN, None) == "mine"
    assert serve.model_name(RUN, "other-1.5") == "other-1.5"
    folder = Subject("model", Path("/x"), "quick/step-120/merged")
    assert serve.model_name(folder, None) == "quick-step-120-merged"
    merged = tmp_path / "exports" / "step-120" / "merged"
    write_json(tmp_path / "plan.json", {"name": "mine too"})
    merged.mkdir(parents=True)
    exported = Subject("model", merged, "quick/step-120/merged")
    assert serve.model_name(exported, None) == "quick-step-120-merged"  # nothing says that it is an export
    write_json(merged / "EXPORT.json", {"schema": 1, "outputs": {}})
    assert serve.model_name(exported, None) == "mine-too"
    assert serve.model_name(Subject("gguf", Path("/x"), "a--b  c"), None) == "a-b-c"
    with pytest.raises(UsageError, match="'a b' cannot be a model's name"):
        serve.model_name(RUN, "a b")


def command(server: str, **changes: Any) -> serve.Server:
    return serve.plan_of(
        server, {**LAID, **changes}, Path("/f"), "mine", "0.0.0.0", 9000, {"bf16": True, "memory_gb": 80}
    )


def test_what_a_dry_run_needs_is_in_the_plan(tmp_path: Path) -> None:
    plan: dict[str, Any] = {
        "model": {"init": {"dtype": "float32", "attn_implementation": "eager"}, "trust_remote_code": True},
        "training": {"use_cpu": True}, "peft": {"r": 8}, "quantization": {"load_in_8bit": True},
    }  # fmt: skip
    told = {"dtype": "float32", "attention": "eager", "cpu": True, "trust_remote_code": True}
    run = Subject("run", tmp_path, "mine")
    for peft, quantization in (({"r": 8}, {"load_in_8bit": True}), (None, None)):
        (tmp_path / "plan.json").write_text(json.dumps({**plan, "peft": peft}))
        assert serve.planned(run) == {**told, "quantization": quantization}
    (tmp_path / "plan.json").write_text(json.dumps({**plan, "peft": {"init_lora_weights": "loftq"}}))
    with pytest.raises(UsageError, match="a LoftQ adapter fits only the base as LoftQ rounded it"):
        serve.planned(run)
    assert serve.planned(Subject("model", tmp_path, "m"))["dtype"] == "auto"


def test_transformers() -> None:
    made = command("transformers")
    assert made.command == (
        sys.executable, "-m", "transformers.cli.transformers", "serve", "mine", "--host", "0.0.0.0", "--port", "9000",
        "--dtype", "bfloat16", "--attn-implementation", "sdpa",
    )  # fmt: skip
    assert (made.url, made.health) == ("http://127.0.0.1:9000/v1", "http://127.0.0.1:9000/health")
    assert (made.folder, made.env["HF_HUB_CACHE"], made.env["HF_HUB_OFFLINE"]) == (Path("/f"), "/f/hub", "1")
    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    for quantization, option, note in (
        (nf4, ("--quantization", "bnb-4bit"), "the base is served in 4 bits, as it trained"),
        ({"load_in_8bit": True}, ("--quantization", "bnb-8bit"), "the base is served in 8 bits, as it trained"),
        (
            {**nf4, "bnb_4bit_quant_type": "fp4"},
            (),
            "the base is served unquantised: the server has no quantization like that of the run",
        ),
    ):
        made = command("transformers", quantization=quantization)
        assert made.command[13:] == option
        assert made.notes == (note,)
    assert command("transformers", cpu=True, trust_remote_code=True, attention="auto").command[11:] == (
        "--device", "cpu", "--trust-remote-code",
    )  # fmt: skip


def test_vllm(tmp_path: Path) -> None:
    settings = {"peft_type": "LORA", "r": 24, "init_lora_weights": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "chat_template.jinja").write_text("x")
    made = command("vllm", adapter=str(tmp_path), quantization={"load_in_4bit": True})
    words = " ".join(made.command[3:])
    assert words.startswith("serve /base --enable-lora --lora-modules mine=")
    for part in (
        f"mine={tmp_path}", "--max-lora-rank 32", f"--chat-template {tmp_path}/chat_template.jinja", f"--tokenizer {tmp_path}",
        f"--generation-config {tmp_path}", "--served-model-name mine-base", "--host 0.0.0.0", "--port 9000",
    ):  # fmt: skip
        assert part in words, part
    assert words.count("--port") == 1
    assert made.notes == ("the base is served in 16 bits; it trained quantised, so that answers differ a little",)
    (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "use_dora": True}))
    with pytest.raises(UsageError, match="vLLM cannot serve this adapter beside its base: it does not know DoRA"):
        command("vllm", adapter=str(tmp_path))
    assert "--served-model-name mine " in " ".join(command("vllm").command)
