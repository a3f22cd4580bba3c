"""How exports are served: Ollama's template against the models' own and through Go itself, Modelfile, vLLM, llama.cpp, the card's code."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from nothing_tune.artifacts import Run
from nothing_tune.outputs import Wanted, card, go_template, manifest, ollama, record
from nothing_tune.outputs.go_template import NotLinear, Pieces

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
PICTURES = {"idefics3", "llava_next", "smolvlm"}
"""Templates that take lists of parts instead of words: they are not linear."""
WITH_TOOLS = {"qwen2_5", "qwen3", "qwen3_instruct_2507", "qwen3_vl"}
TALKS: list[list[dict[str, Any]]] = [
    [{"role": role, "content": words} for role, words in talk]
    for talk in (
        [("user", 'Wie geht\'s? {{ .System }} {{- if }} """ %}')],
        [("system", "Answer\nin one word. <|x|>"), ("user", "naïve 日本 🙂")],
        [("user", "1"), ("assistant", "a\n\nb"), ("user", "2\n"), ("assistant", "}} {{"), ("user", "3")],
        [("system", "S"), ("user", "1"), ("assistant", "a"), ("user", "2")],
    )
]
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}},
}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"at": "Rome"}}}],
}
TOLD = {"role": "tool", "content": "Sunny."}
TOOL_TALKS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Look."}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Look."}, CALL, TOLD],
    [{"role": "user", "content": "Look."}, CALL, TOLD, {"role": "assistant", "content": "Sun."}, {"role": "user", "content": "And?"}],
    [{"role": "user", "content": "Look."}, {**CALL, "tool_calls": CALL["tool_calls"] * 2}, TOLD, TOLD],
]  # fmt: skip


def own_templates() -> dict[str, str]:
    """Chat templates of the models themselves: all that TRL ships, and the tests'."""
    import trl

    shipped = (Path(trl.__file__).parent / "chat_templates").glob("*.jinja")
    paths = [p for p in shipped if "training" not in p.name] + list((ROOT / "tests/engine/families").glob("*.jinja"))
    return {p.stem: p.read_text(encoding="utf-8") for p in sorted(paths)}


def renderer(template: str) -> go_template.Render:
    """Renders as transformers does."""
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(messages: Any, tools: Any = (), answer: bool = True) -> str | None:
        prompt = answer and messages[-1]["role"] != "assistant"
        try:
            texts, _ = render_jinja_template(
                conversations=[[dict(m) for m in messages]], tools=[dict(t) for t in tools] or None, chat_template=template,
                add_generation_prompt=prompt, **SPECIAL,
            )  # fmt: skip
        except Exception:
            return None
        return str(texts[0])

    return render


def found_pieces() -> dict[str, Pieces | NotLinear]:
    """Pieces of every template, or why there are none."""
    out: dict[str, Pieces | NotLinear] = {}
    for name, template in own_templates().items():
        try:
            out[name] = go_template.pieces(renderer(template), "<s>")
        except NotLinear as error:
            out[name] = error
    return out


@pytest.fixture(scope="module")
def known() -> dict[str, Pieces | NotLinear]:
    return found_pieces()


def test_the_pieces_write_what_the_models_own_templates_write(known: dict[str, Pieces | NotLinear]) -> None:
    assert {name for name, pieces in known.items() if isinstance(pieces, NotLinear)} == PICTURES
    assert {name for name, pieces in known.items() if isinstance(pieces, Pieces) and pieces.tools} == WITH_TOOLS
    places = {name: pieces.place for name, pieces in known.items() if isinstance(pieces, Pieces)}
    assert (places["gemma"], places["gemma3"], places["mistral_v3"], places["qwen2_5"]) == (
        "none",
        "first-user",
        "last-user",
        "own",
    )
    for name, pieces in known.items():
        render = renderer(own_templates()[name])
        for talk in TALKS if isinstance(pieces, Pieces) else []:
            said = [{**m, "content": m["content"].strip()} for m in talk] if pieces.trims else talk
            if pieces.place == "none" and talk[0]["role"] == "system":
                continue
            assert go_template.rendered(pieces, said) == render(said), (name, talk)
        for talk in TOOL_TALKS if isinstance(pieces, Pieces) and pieces.tools else []:
            assert go_template.rendered(pieces, talk, [TOOL]) == render(talk, [TOOL]), (name, talk)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}", "it writes earlier turns otherwise than the last one"),
        ("{{ messages[-1].content }}", "it does not write what is said once and in order"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "it does not write what is said once and in order"),
        ("{% for m in messages %}{{ m.role }}{{ m.content | replace('One', '1') }}|{% endfor %}", None),
        ("{% for m in messages %}{{ m.role }}{{ m.content }}|{% endfor %}{% if messages | length > 6 %}!{% endif %}", None),
    ],
)  # fmt: skip
def test_what_is_not_linear_is_told(template: str, why: str | None) -> None:
    with pytest.raises(NotLinear) as told:
        go_template.pieces(renderer(template))
    assert str(told.value) == why if why else "its pieces write another text than it does after" in str(told.value)


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")
def test_go_writes_what_the_models_own_templates_write(known: dict[str, Pieces | NotLinear], tmp_path: Path) -> None:
    requests, expected = [], []
    for name, pieces in known.items():
        if not isinstance(pieces, Pieces):
            continue
        render = renderer(own_templates()[name])
        modelfile = ollama.modelfile("./x.gguf", pieces, ["</s>"], adds_bos=False)
        template = dict(ollama.parse(modelfile))["template"]
        for talk in [list(c) for c in go_template.CONVERSATIONS] + TALKS:
            said = [{**m, "content": m["content"].strip()} for m in talk] if pieces.trims else talk
            if pieces.place != "none" or talk[0]["role"] != "system":
                requests.append({"template": template, "messages": said})
                expected.append((name, render(said)))
        for talk in TOOL_TALKS if pieces.tools else []:
            requests.append({"template": template, "messages": talk, "tools": [TOOL]})
            text = render(talk, [TOOL]) or ""
            for value in (TOOL, {"at": "Rome"}):  # Go's JSON has no spaces
                text = text.replace(json.dumps(value), json.dumps(value, separators=(",", ":")))
            expected.append((name, text))
    done = subprocess.run(
        ["go", "run", str(ROOT / "tests/outputs/render.go")], input=json.dumps(requests), capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin:/usr/local/go/bin", "HOME": str(tmp_path), "GOCACHE": str(tmp_path / "go"), "GOFLAGS": "-p=1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for (name, text), answer in zip(expected, json.loads(done.stdout), strict=True):
        assert answer == {"text": text, "error": ""}, name


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of a small Qwen2 with its adapter, the merged model and what stands in for GGUF files; and what was told."""
    from nothing_tune.engine.export import adapter, base, merge, source
    from tests.engine import exports

    folder = tmp_path_factory.mktemp("serving")
    found = source.source(
        exports.trained("lora", exports.model("qwen2", folder / "base"), folder / "runs"), "handed-over"
    )
    told: list[dict[str, Any]] = []

    def send(**fields: Any) -> None:
        told.append(fields)

    adapter.make(found, send)
    merge.make(found, base.find(found.plan), found.folder / "merged", send)
    gguf = found.folder / "gguf"
    gguf.mkdir()
    for name in ("small-f16.gguf", "small-q4_k_m.gguf", "small-q8_0.gguf", "small-adapter-f16.gguf"):
        (gguf / name).write_bytes(b"GGUF")
    for kind in ("adapter", "merged"):
        here = found.folder / kind
        manifest.add(here, kind, kind, found.facts, [p for p in here.rglob("*") if p.is_file()], {}, 1.0)
        manifest.set_proof(here, kind, {"ok": True, "checks": []})
    told.clear()
    return found, told, send


def test_files_for_every_server(exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from nothing_tune.engine.export import serving

    found, told, send = exported
    uses = serving.make(found, Wanted(ollama=True, vllm=True, system='Say "no".\nAlways.'), send)
    assert [use["name"] for use in uses] == ["ollama", "vllm adapter", "vllm merged", "llama.cpp"]
    written = {
        str(p.relative_to(found.folder)) for f in ("ollama", "vllm", "llama.cpp") for p in (found.folder / f).iterdir()
    }
    assert written == {
        "ollama/Modelfile", "vllm/adapter.sh", "vllm/adapter.yaml", "vllm/adapter-t4.yaml", "vllm/merged.sh", "vllm/merged.yaml",
        "vllm/merged-t4.yaml", "llama.cpp/server.sh",
    }  # fmt: skip
    lines = ollama.parse((found.folder / "ollama/Modelfile").read_text())
    assert [name for name, _ in lines] == [
        "from",
        "template",
        "system",
        "stop",
        "num_ctx",
        "temperature",
        "repeat_penalty",
    ]
    values = dict(lines)
    assert (values["from"], values["system"], values["stop"]) == (
        "../gguf/small-q8_0.gguf",
        'Say "no".\nAlways.',
        "<|im_end|>",
    )
    assert values["num_ctx"] == "256"  # what it was trained on; the model reads 2,048
    assert (found.folder / "ollama" / values["from"]).resolve().is_file()
    for kind, eager, length in (
        ("adapter", False, 2048),
        ("adapter-t4", True, 1024),
        ("merged", False, 2048),
        ("merged-t4", True, 1024),
    ):
        options = yaml.safe_load((found.folder / f"vllm/{kind}.yaml").read_text())
        assert (options.get("enforce-eager", False), options["max-model-len"]) == (eager, length)
        assert options["dtype"] == ("half" if eager else "bfloat16")
        assert flags((found.folder / f"vllm/{kind.removesuffix('-t4')}.sh").read_text(), eager) == options
    adapter = yaml.safe_load((found.folder / "vllm/adapter.yaml").read_text())
    assert (adapter["lora-modules"], adapter["max-lora-rank"]) == (["small=../adapter"], 8)
    assert Path(adapter["model"]).is_dir()
    for script in found.folder.glob("*/*.sh"):
        assert subprocess.run(["sh", "-n", str(script)]).returncode == 0
        assert script.stat().st_mode & 0o111
    assert not [event for event in told if event["type"] == "advice"]  # so small a model is bound by other things
    monkeypatch.setattr(serving, "SMALL_BYTES", 0)
    serving.make(found, Wanted(vllm=True), send)
    [advice] = [event for event in told if event["type"] == "advice"]
    assert advice["rows"][0][0] == "GPU"
    assert not [event for event in told if event["type"] == "warning"]
    assert serving.make(found, Wanted(vllm=True), send)[0]["name"] == "vllm adapter"  # and once more over what is there


def flags(script: str, small: bool) -> dict[str, Any]:
    """The options of a command in a script, as its YAML would have them."""
    text = re.findall(r"exec (vllm serve .*?)\n(?:fi|\Z)", script.replace("\\\n", " "), re.S)[0 if small else 1]
    _, _, model, *words = shlex.split(text.replace('"$@"', ""))
    out: dict[str, Any] = {"model": model}
    name = ""
    for word in words:
        if word.startswith("--"):
            name = word[2:]
            out[name] = True
        else:
            value: Any = int(word) if word.isdigit() else word
            out[name] = [value] if name == "lora-modules" else value
    return out


def test_the_scripts_run_what_they_say(exported: Any, tmp_path: Path) -> None:
    from nothing_tune.engine.export import serving

    found, _, send = exported
    serving.make(found, Wanted(vllm=True), send)
    for name in ("vllm", "llama-server"):
        (tmp_path / name).write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}

    def run(*arguments: str) -> list[str]:
        return subprocess.run(
            ["sh", *arguments], env=env, cwd="/", capture_output=True, text=True, check=True
        ).stdout.splitlines()

    folder = str(found.folder)
    small = run(f"{folder}/vllm/merged.sh", "t4", "--port", "9")
    assert (small[0], small[1:3], small[-2:]) == (f"{folder}/vllm", ["serve", "../merged"], ["--port", "9"])
    assert "--enforce-eager" in small
    assert "--enforce-eager" not in run(f"{folder}/vllm/adapter.sh")
    assert run(f"{folder}/llama.cpp/server.sh")[1:3] == ["-m", "../gguf/small-q8_0.gguf"]


def test_what_cannot_be_served_is_told(exported: Any, tmp_path: Path) -> None:
    from dataclasses import replace

    from nothing_tune.engine.export import serving

    found, told, send = exported
    told.clear()
    other = replace(found, folder=tmp_path)
    shutil.copytree(found.adapter, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    (tmp_path / "adapter/chat_template.jinja").write_text(
        "{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}"
    )
    assert serving.make(other, Wanted(ollama=True, vllm=True), send) == []
    assert [event["what"] for event in told if event["type"] == "warning"] == [
        "there is no Modelfile: Ollama needs a GGUF",
        "vLLM cannot serve this adapter: it does not know DoRA",
    ]
    told.clear()
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf/small-q4_k_m.gguf").write_bytes(b"GGUF")
    serving.make(other, Wanted(ollama=True), send)
    assert (
        told[0]["what"]
        == "the chat template cannot be written for Ollama: it writes earlier turns otherwise than the last one"
    )
    assert [name for name, _ in ollama.parse((tmp_path / "ollama/Modelfile").read_text())][:2] == ["from", "stop"]
    full = replace(other, full=True)
    assert full.adapter == tmp_path / "merged"


def test_the_system_prompt_of_the_data(exported: Any, tmp_path: Path) -> None:
    from dataclasses import replace

    from nothing_tune.engine.export import serving

    found, _, _ = exported
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]

    def told(*systems: str | None) -> str | None:
        rows = [{"messages": [*([{"role": "system", "content": s}] if s else []), *said]} for s in systems]
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        plan = replace(found.plan, data={**found.plan.data, "train": str(path), "format": "messages"})
        return serving.system_of_data(replace(found, plan=plan))

    assert told("Be brief.", "Be brief.", "Be brief.") == "Be brief."
    assert told("Be brief.", "Be long.", "Be brief.") is None
    assert told("Be brief.", None) is None
    assert told(None, None) is None
    path = tmp_path / "gone.jsonl"
    assert (
        serving.system_of_data(replace(found, plan=replace(found.plan, data={**found.plan.data, "train": str(path)})))
        is None
    )


def test_the_cards_code_works(exported: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    from huggingface_hub import ModelCard

    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("transformers"), "level", logging.WARNING)

    found, _, _ = exported
    facts = record.of_run(Run(found.run.path))
    for kind in ("adapter", "merged"):
        text = card.card(found.folder / kind, facts, card.Model(context=64, system="Be brief."))
        assert str(found.run.path.parent) not in text
        front = ModelCard(text).data.to_dict()
        assert front["library_name"] == {"adapter": "peft", "merged": "transformers"}[kind]
        code = re.findall(r"```python\n(.*?)```", text, re.S)[0]
        code = code.replace('BASE = "base"', f'BASE = "{found.plan.model["name_or_path"]}"')
        code = code.replace('= "."', f'= "{found.folder / kind}"').replace(
            "max_new_tokens=128", "max_new_tokens=4, do_sample=False"
        )
        space: dict[str, Any] = {}
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, space)
        assert out.getvalue()
        assert not (words := [r.getMessage() for r in caplog.records if r.name.startswith("transformers")]), words
        assert "Be brief." in space["tokenizer"].decode(space["inputs"]["input_ids"][0])
        assert space["settings"].eos_token_id == space["tokenizer"].convert_tokens_to_ids("<|im_end|>")
        if kind == "adapter":
            kept = space
    import torch

    with torch.no_grad():
        one, other = (made["model"](**space["inputs"]).logits for made in (kept, space))
    assert torch.allclose(one, other, atol=1e-4)
