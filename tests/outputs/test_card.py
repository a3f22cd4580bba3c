"""The model card: its front matter, what it says, and what must not be in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from nothing_tune.outputs import card, manifest, record
from tests.outputs.runs import TOKEN, run_of


def made(
    folder: Path, facts: dict[str, Any], kind: str = "adapter", proof: Any = None, **config: Any
) -> tuple[dict[str, Any], str]:
    """Front matter and text of the card of a folder of this kind."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 32, **config}))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    name = "q8_0" if kind == "gguf" else kind
    manifest.add(folder, kind, name, {"run": "r", "step": 60, "base": {}}, [folder / "adapter_config.json"], {}, 1.0)
    if proof:
        manifest.set_proof(folder, name, proof)
    text = card.card(folder, facts)
    found = re.match(r"---\n(.*?)\n---\n\n# ", text, re.S)
    assert found
    return yaml.safe_load(found.group(1)), text


def test_what_a_card_says(tmp_path: Path) -> None:
    facts = record.of_run(run_of(tmp_path))
    checks = [
        {"name": "answers", "ok": True, "value": 1.5e-9, "limit": 1e-5, "what": "mean KL | nats"},
        {"name": "top-token", "ok": True, "value": 0.97, "limit": 0.9},
        {"name": "llama.cpp", "ok": None},
    ]
    front, text = made(tmp_path / "a", facts, proof={"ok": True, "checks": checks})
    assert front == {
        "base_model": "meta-llama/Llama-3.2-3B-Instruct", "base_model_relation": "adapter", "library_name": "peft",
        "pipeline_tag": "text-generation", "license": "llama3.2", "datasets": ["org/rows"], "tags": ["nothing-tune", "sft", "qlora"],
    }  # fmt: skip
    for line in (
        "An adapter for `meta-llama/Llama-3.2-3B-Instruct` (revision `abc`), trained with QLoRA: LoRA on a ",
        "LoRA on a base in 4 bits. Talks about nothing. Made by nothing-tune in run",
        'BASE = "meta-llama/Llama-3.2-3B-Instruct"', 'from_pretrained(BASE, dtype="auto", revision="abc")',
        "--lora-modules x=./", "--max-lora-rank 32", "| train | `rows.jsonl` | `abababababababab` | 3 |",
        "| train | `org/rows:train` | `-` | - |", "10 % of the rows were held out for evaluation.", "4 were repeated and left out.",
        "| 60 | 1.5 | 1.5 |", "Best: eval_loss 1.5 at step 60. These weights are that step's.", "**held-out** (step 60)",
        "| loss | 1.5 (1.4 to 1.6) | 3 |",
        "| time | 2.0 h (60 min to 3.0 h) | 60 min |", "| peak memory | 6.0 GiB (5.0 GiB to 7.0 GiB) | 6.5 GiB |",
        "| cost at modal | $1.60 ($0.80 to $2.40) | $0.80 |", "**adapter**: proved to be what was trained.",
        "| check |  | measured | set against | what |", "| answers | ok | 1.5e-09 | at most 1e-05 | mean KL \\| nats |",
        "| top-token | ok | 97 % | at least 90 % |  |", "| llama.cpp | not proved | - | - |  |",
        "That of the base, `meta-llama/Llama-3.2-3B-Instruct`: llama3.2. The base is gated", "python 3.11.7, torch 2.13.0.",
        "`rows.jsonl` was made by nothing-tune 0.1.0.", "| hardware | NVIDIA L4 |",
    ):  # fmt: skip
        assert line in text, line
    for secret in (str(tmp_path), "secret-customer", TOKEN):
        assert secret not in text


def test_kinds_licences_and_bases(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    facts = record.of_run(run)
    front, text = made(tmp_path / "m", facts, "merged")
    assert (front["library_name"], front["base_model_relation"]) == ("transformers", "finetune")
    assert "not proved. Nobody compared it with the run" in text
    assert "AutoModelForCausalLM.from_pretrained(MODEL" in text
    front, text = made(tmp_path / "g", facts, "gguf", {"ok": False, "checks": []})
    assert (front["library_name"], "gguf" in front["tags"]) == ("gguf", True)
    assert "**q8_0**: NOT what was trained." in text
    assert "llama-server -m" in text
    assert "This server takes repeat_penalty as 1.1, at temperature 0 too, unless a request says 1.0." in text
    assert "**Ollama, once uploaded to the hub**" in text
    assert "Modelfile" not in text
    (tmp_path / "ollama").mkdir()
    (tmp_path / "ollama" / "Modelfile").write_text("FROM ../g/x.gguf\n")
    assert "ollama create x -f ../ollama/Modelfile" in card.card(tmp_path / "g", facts)
    known = card.Model(context=1024, system='Be "brief".\nAlways.')
    for kind in ("adapter", "merged"):
        text = (
            card.card(tmp_path / ("m" if kind == "merged" else "l0"), facts, known)
            if kind == "merged"
            else made(tmp_path / "l0", facts)[1]
        )
        assert ("--max-model-len 1024" in text) == (kind == "merged")
        assert ('{"role": "system", "content": "Be \\"brief\\".\\nAlways."},' in text) == (kind == "merged")
    assert " -c 1024 " in card.card(tmp_path / "g", facts, known)
    _, text = made(tmp_path / "d", facts, use_dora=True)
    assert "alone passes over DoRA's magnitudes without a word." in text
    assert "**vLLM** cannot serve this adapter beside its base: it does not know DoRA." in text
    local = {
        **facts,
        "base": {**facts["base"], "name_or_path": "/home/someone/nano", "hub": False, "licence": "My Own, 2026"},
    }
    front, text = made(tmp_path / "l", local)
    assert "base_model" not in front
    assert (front["license"], front["license_name"]) == ("other", "my-own-2026")
    assert "/home/someone" not in text
    assert "`nano`, is a folder of whoever trained it" in text
    assert (
        "`EXPORT.json` name the base's folder on the machine that trained; `tune export --push` takes it out." in text
    )
    front, text = made(tmp_path / "u", {**facts, "base": {**facts["base"], "licence": None}})
    assert (front["license"], front["license_name"]) == ("other", "unknown")
    assert "is not known here: find it out before you share this" in text
