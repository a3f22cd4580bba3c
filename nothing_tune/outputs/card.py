"""The model card: README.md of an exported folder, as the Hugging Face hub reads it, written from the run's record.

The front matter's keys are those of huggingface.co/docs/hub/model-cards (read 2026-11). `base_model_relation` is `adapter` for an
adapter and `finetune` for the rest: `merge` means several models in one there, and `quantized` the base's own weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import read_json
from nothing_tune.outputs import evaluation, llama_cpp, manifest, record, report_results, vllm
from nothing_tune.plan.memory.notes import gib

LIBRARIES = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}
RELATIONS = {"adapter": "adapter", "merged": "finetune", "gguf": "finetune"}
LICENCES = (
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "bigcode-openrail-m", "bigscience-bloom-rail-1.0", "bsd",
    "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0",
    "gpl-3.0", "agpl-3.0", "lgpl-3.0", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "gemma", "unlicense",
    "afl-3.0", "artistic-2.0", "isc", "other",
)  # fmt: skip
"""Licences that the hub knows by name and bases of language models have; any other is `other` with a name."""
TIMES = 12
"""Rows of the table of curves."""
_SETTINGS = (
    ("peft", ("r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save")),
    ("training", (
        "learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps", "per_device_train_batch_size",
        "gradient_accumulation_steps", "max_length", "packing", "optim", "weight_decay", "neftune_noise_alpha", "seed",
    )),
)  # fmt: skip
_UNNEEDED = ("gpu", "advice", "tracking", "export")
"""Sections of the recipe that say nothing of the model."""


@dataclass(frozen=True)
class Model:
    """What the examples of a card need to know of the model besides the run's record.

    Attributes:
        context: The longest sequence of the model in tokens; None where unknown.
        system: The system prompt that the data has; None for none.
        model_type: As config.json says; empty where unknown.
    """

    context: int | None = None
    system: str | None = None
    model_type: str = ""


def card(folder: Path, facts: Mapping[str, Any], model: Model = Model()) -> str:
    """The card of an exported folder.

    Args:
        folder: Has EXPORT.json.
        facts: The run's record, see `record.of_run`; nothing secret and no folder of this machine gets into the card.
        model: What is known of the model.
    """
    data = manifest.read(folder) or {}
    kind = str(data.get("kind") or "merged")
    run: dict[str, Any] = record.public(facts)
    base = _base(facts, data)
    step = (data.get("source") or {}).get("step")
    parts = [
        _front(kind, run, base),
        f"# {run['name']}",
        _about(kind, run, base, step),
        "## How to use it\n\n" + _use(kind, folder, run, base, model),
        "## Data\n\n" + _data(run),
        "## Training\n\n" + _training(run),
        "## Curves\n\n" + _curves(run, step),
        "## Evaluation\n\n" + _evaluation(run, step),
        "## Plan against measured\n\n" + _against(run),
        "## Proof\n\n" + _proof(data),
        "## Licence\n\n" + _licence(base),
        "## Versions\n\n" + (", ".join(f"{k} {v}" for k, v in _versions(run, data).items() if v) or "Not known") + ".",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _base(facts: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """The base as the card names it: `shown` is its hub id, or the name of its folder."""
    base = facts["base"]
    exported = (data.get("source") or {}).get("base") or {}
    name = str(base["name_or_path"])
    return {
        "hub": base["hub"],
        "shown": name if base["hub"] else record.file_name(name),
        "revision": base["revision"] or exported.get("revision"),
        "licence": base["licence"] or exported.get("licence") or exported.get("license") or "",
        "gated": base["gated"],
    }


def _front(kind: str, run: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    licence = str(base["licence"] or "").lower()
    datasets = list(dict.fromkeys(s["name"] for s in run["data"]["sources"] if s["hub"]))
    lines: list[tuple[str, Any]] = []
    if base["hub"]:
        lines += [("base_model", base["shown"]), ("base_model_relation", RELATIONS[kind])]
    lines += [("library_name", LIBRARIES[kind]), ("pipeline_tag", "text-generation")]
    lines.append(("license", licence if licence in LICENCES else "other"))
    if licence not in LICENCES:
        lines.append(("license_name", re.sub(r"[^a-z0-9.-]+", "-", licence) or "unknown"))
    if datasets:
        lines.append(("datasets", datasets))
    lines.append(("tags", ["nothing-tune", "sft", run["method"]["name"], *(["gguf"] if kind == "gguf" else [])]))
    return "---\n" + "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in lines) + "\n---"


def _versions(run: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Those that the run was locked to, else those that made the export."""
    entries = list((data.get("outputs") or {}).values())
    known = {k: v for k, v in run["versions"].items() if v}
    return known or (entries[0].get("versions") or {} if entries else {})


def _about(kind: str, run: Mapping[str, Any], base: Mapping[str, Any], step: Any) -> str:
    what = {
        "adapter": "An adapter for", "merged": "A whole model, fine-tuned from", "gguf": "GGUF files of a model fine-tuned from",
    }[kind]  # fmt: skip
    revision = f" (revision `{base['revision']}`)" if base["revision"] else ""
    lines = [f"{what} `{base['shown']}`{revision}, trained with {run['method']['words']}."]
    if run["description"]:
        lines.append(f"{run['description'][0].upper()}{run['description'][1:]}.")
    at = f", at step {step} of {run['total_steps']}" if step and run["total_steps"] else ""
    lines.append(f"Made by nothing-tune in run `{run['id']}`{at}.")
    if not base["hub"]:
        lines.append(
            f"The base, `{base['shown']}`, is a folder of whoever trained it: it is not on the hub under that name."
        )
    return "\n\n".join([" ".join(lines), *run["notes"]])


def _use(kind: str, folder: Path, run: Mapping[str, Any], base: Mapping[str, Any], facts: Model) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(run["name"]))
    chat = (folder / "chat_template.jinja").is_file() or bool(
        _json(folder / "tokenizer_config.json").get("chat_template")
    )
    known = run["recipe"]["training"].get("max_length")
    trained = int(known) if known else None
    context = facts.context
    if kind == "gguf":
        length = vllm.conversation(trained, context)
        found = [f for entry in (manifest.read(folder) or {}).get("outputs", {}).values() for f in entry["files"]]
        models = sorted((f for f in found if not f.endswith("-adapter-f16.gguf")), key=_rank)
        lora = next((f for f in found if f.endswith("-adapter-f16.gguf")), "")
        first = models[0] if models else "BASE.gguf"
        out = [
            _code("llama.cpp", "sh", llama_cpp.server(first, length, name, "" if models else lora)),
            _code("llama-cpp-python", "sh", llama_cpp.python_server(first, length, name, "" if models else lora)),
            f"{llama_cpp.PENALTY[0].upper()}{llama_cpp.PENALTY[1:]}.",
        ]
        if models:
            out.append(_code("Ollama, once uploaded to the hub", "sh", "ollama run hf.co/ORG/NAME-GGUF"))
            if (folder.parent / "ollama" / "Modelfile").is_file():
                create = f"ollama create {name} -f ../ollama/Modelfile"
                out.append(_code("Ollama, from the folder of exports", "sh", create))
        return "\n\n".join(out)
    load = _adapter_code(base) if kind == "adapter" else _MERGED
    if (run["recipe"]["values"].get("model") or {}).get("trust_remote_code"):
        load = load.replace('dtype="auto"', 'dtype="auto", trust_remote_code=True')
    title = "peft and transformers" if kind == "adapter" else "transformers"
    messages = [{"role": "system", "content": record.public(facts.system)}] if facts.system else []
    messages.append({"role": "user", "content": "Hello!"})
    out = [_code(title, "python", load + (_CHAT.replace("MESSAGES", _literal(messages)) if chat else _PLAIN))]
    gpu = vllm.gpu("a10")
    if kind == "adapter" and not base["hub"]:
        out.append(
            "Copied by hand, `adapter_config.json` and `EXPORT.json` name the base's folder on the machine that trained; "
            "`tune export --push` takes it out."
        )
    config = _json(folder / "adapter_config.json")
    if kind == "adapter" and config.get("use_dora"):
        out.append(
            "Load it with PEFT, as above: `AutoModelForCausalLM.from_pretrained` alone passes over DoRA's magnitudes without a word."
        )
    if kind == "merged":
        serving = vllm.merged(".", name, gpu, model_type=facts.model_type, context=context, trained=trained)
        out.append(_code("vLLM", "sh", vllm.command(serving)))
        return "\n\n".join(out)
    why = vllm.refusal(config)
    if why:
        out.append(
            f"**vLLM** cannot serve this adapter beside its base: {why}. Merge it: `tune export {run['id']} --merge --vllm`."
        )
    else:
        template = "./chat_template.jinja" if (folder / "chat_template.jinja").is_file() else None
        serving = vllm.adapter(
            base["shown"], name, "./", config, gpu, model_type=facts.model_type, context=context, trained=trained,
            revision=base["revision"], template=template,
        )  # fmt: skip
        out.append(_code("vLLM, in this folder", "sh", vllm.command(serving)))
    out.append(
        f"**llama.cpp and Ollama** take GGUF files: `tune export {run['id']} --gguf q4_k_m --ollama` makes them with a Modelfile; "
        f"`--gguf-adapter` makes one of the adapter alone, for `llama-server -m BASE.gguf --lora ADAPTER.gguf`."
    )
    return "\n\n".join(out)


def _rank(file: str) -> int:
    """Place of a GGUF file among those of a model, the one to serve first."""
    return next((n for n, kind in enumerate(llama_cpp.BEST_FIRST) if file.endswith(f"-{kind}.gguf")), len(file) + 100)


def _adapter_code(base: Mapping[str, Any]) -> str:
    revision = f', revision="{base["revision"]}"' if base["revision"] and base["hub"] else ""
    where = "" if base["hub"] else "  # the folder of the base model"
    return f'''from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

BASE = "{base["shown"]}"{where}
ADAPTER = "."  # this folder, or its repository on the hub
tokenizer = AutoTokenizer.from_pretrained(ADAPTER)
model = AutoModelForCausalLM.from_pretrained(BASE, dtype="auto"{revision})
if len(tokenizer) > model.get_input_embeddings().num_embeddings:
    model.resize_token_embeddings(len(tokenizer))
model = PeftModel.from_pretrained(model, ADAPTER)
settings = GenerationConfig.from_pretrained(ADAPTER, max_new_tokens=128)  # with the tokens that end an answer
'''


_MERGED = """from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

MODEL = "."  # this folder, or its repository on the hub
tokenizer = AutoTokenizer.from_pretrained(MODEL)
model = AutoModelForCausalLM.from_pretrained(MODEL, dtype="auto")
settings = GenerationConfig.from_pretrained(MODEL, max_new_tokens=128)  # with the tokens that end an answer
"""
_CHAT = """
messages = MESSAGES
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**inputs, generation_config=settings)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""
_PLAIN = """
inputs = tokenizer("Once upon a time", return_tensors="pt", return_token_type_ids=False)
answer = model.generate(**inputs, generation_config=settings)
print(tokenizer.decode(answer[0], skip_special_tokens=True))
"""


def _data(run: Mapping[str, Any]) -> str:
    data = run["data"]
    rows = [("part", "source", "sha256", "bytes")]
    for one in data["sources"]:
        rows.append(
            (one["role"], f"`{one['shown']}`", f"`{str(one.get('sha256') or '-')[:16]}`", _count(one.get("bytes")))
        )
    lines = [_table(rows)] if data["sources"] else ["Not known."]
    if data["held_out"]:
        lines.append(f"{100 * data['held_out']:g} % of the rows were held out for evaluation.")
    if data["rows"] is not None:
        counts = ", ".join(f"{v:,} {_WORDS[k]}" for k, v in data["counts"].items() if v and k in _WORDS)
        lines.append(
            f"{data['rows']:,} rows were trained on, {data['eval_rows'] or 0:,} evaluated on; format {data['format']}."
            + (f" Learned from: {data['supervised_tokens']:,} tokens." if data["supervised_tokens"] else "")
            + (f" {counts[0].upper() + counts[1:]}." if counts else "")
        )
    made = [f"`{s['shown']}` was made by {s['card']['made_by']}" for s in data["sources"] if s["card"].get("made_by")]
    return "\n\n".join([*lines, *([". ".join(made) + "."] if made else [])])


_WORDS = {
    "bad": "could not be read", "duplicates": "were repeated and left out", "leaked": "were in the evaluation too and left out",
    "cut": "were cut at their end",
}  # fmt: skip


def _training(run: Mapping[str, Any]) -> str:
    values, method = run["recipe"]["values"], run["method"]
    rows = [("setting", "value"), ("method", method["words"])]
    if method["trainable"]:
        rows.append(
            ("trained weights", f"{method['trainable']:,}" + (f" of {method['total']:,}" if method["total"] else ""))
        )
    for section, keys in _SETTINGS:
        known = (method["peft"] if section == "peft" else run["recipe"]["training"] or values.get(section)) or {}
        rows += [(key, _value(known[key])) for key in keys if known.get(key) not in (None, [])]
    machine = run["machine"]
    rows.append(("precision", str(method["dtype"] or "-")))
    rows.append(("hardware", str(machine["gpu_name"] or machine["gpu"] or machine["device"] or "-")))
    kept = {k: v for k, v in values.items() if k not in _UNNEEDED and v is not None}
    layers = " · ".join(f"`{name}`" for name in run["recipe"]["layers"])
    text = json.dumps(kept, indent=1, ensure_ascii=False)
    recipe = f"<details><summary>The whole recipe, resolved</summary>\n\n```json\n{text}\n```\n\n</details>"
    return "\n\n".join([_table(rows), *([f"Layers: {layers}"] if layers else []), recipe])


def _curves(run: Mapping[str, Any], step: Any) -> str:
    loss, evaluated = dict(run["curves"]["loss"]), dict(run["curves"]["eval"])
    if not loss and not evaluated:
        return "None were recorded."
    rows = [("step", "training loss", "evaluation loss")]
    shown = {s for s, *_ in record.thinned(sorted(loss.items()), TIMES)} | {
        s for s, *_ in record.thinned(sorted(evaluated.items()), TIMES)
    }
    rows += [(str(s), _number(loss.get(s)), _number(evaluated.get(s))) for s in sorted(shown)]
    best = run["best"]
    lines = [_table(rows)]
    if best:
        mine = (
            " These weights are that step's."
            if step == best["step"]
            else f" These weights are of step {step}."
            if step
            else ""
        )
        lines.append(f"Best: {best['metric']} {_number(best['value'])} at step {best['step']}.{mine}")
    return "\n\n".join(lines)


def _evaluation(run: Mapping[str, Any], step: Any) -> str:
    told = []
    for one in run["evaluations"]:
        metrics, base = one.get("metrics") or {}, one.get("base") or {}
        metrics, base = (m.get("metrics", m) if isinstance(m, Mapping) else {} for m in (metrics, base))
        rows: list[tuple[str, ...]] = [("metric", "this model", *(["base"] if base else []))]
        for name, value in metrics.items():
            label = evaluation.fact(str(name)).label
            rows.append((label, _interval(value), *([_interval(base.get(name))] if base else [])))
        if len(rows) > 1:
            at = f" (step {one['step']})" if one.get("step") is not None else ""
            told.append(f"**{one['name']}**{at}\n\n{_table(rows)}")
    return "\n\n".join(told) or "Nothing was evaluated beside the loss above: `tune eval` compares with the base."


def _against(run: Mapping[str, Any]) -> str:
    rows = [("", "planned", "measured")]
    for one in run["plan_against_measured"]:
        unit, span = one["unit"], ""
        if one["low"] is not None and one["high"] is not None:
            span = f" ({_quantity(one['low'], unit)} to {_quantity(one['high'], unit)})"
        planned = "-" if one["planned"] is None else _quantity(one["planned"], unit) + span
        rows.append((one["what"], planned, "-" if one["measured"] is None else _quantity(one["measured"], unit)))
    return _table(rows) if len(rows) > 1 else "Nothing was planned or measured."


def _proof(data: Mapping[str, Any]) -> str:
    lines = []
    for name, entry in (data.get("outputs") or {}).items():
        proof = entry.get("proof")
        if not isinstance(proof, Mapping):
            lines.append(f"**{name}**: not proved. Nobody compared it with the run; `tune export --verify DIR` does.")
            continue
        words = {True: "proved to be what was trained", False: "NOT what was trained", None: "not wholly proved"}
        verdict = words[proof.get("ok")]
        rows = [("check", "", "measured", "set against", "what")]
        for check in proof.get("checks") or []:
            mark = {True: "ok", False: "fails", None: "not proved"}[check.get("ok")]
            what = str(check.get("what") or "")
            measured, against = (said or "-" for said in report_results.measured(check))
            rows.append((str(check.get("name")), mark, measured, against, what))
        lines.append(f"**{name}**: {verdict}." + (f"\n\n{_table(record.public(rows))}" if len(rows) > 1 else ""))
    return "\n\n".join(lines) or "Not proved."


def _licence(base: Mapping[str, Any]) -> str:
    if not base["licence"]:
        return f"The licence of the base, `{base['shown']}`, is not known here: find it out before you share this."
    gated = " The base is gated: its terms must be accepted on the hub." if base["gated"] else ""
    return f"That of the base, `{base['shown']}`: {base['licence']}.{gated} Mind that of the data as well."


def _literal(messages: Sequence[Mapping[str, str]]) -> str:
    """Messages as Python, one a line where there are several."""
    lines = [json.dumps(one, ensure_ascii=False) for one in messages]
    return f"[{lines[0]}]" if len(lines) == 1 else "[\n    " + ",\n    ".join(lines) + ",\n]"


def _code(title: str, language: str, text: str) -> str:
    return f"**{title}**\n\n```{language}\n{text.rstrip()}\n```"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars inside of cells are escaped."""
    head, *rest = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rest)])


def _interval(value: Any) -> str:
    if isinstance(value, Mapping):
        low, high = value.get("low"), value.get("high")
        span = f" ({_number(low)} to {_number(high)})" if low is not None and high is not None else ""
        return _number(value.get("value")) + span
    return _number(value)


def _quantity(value: float, unit: str) -> str:
    if unit == "bytes":
        return gib(value)
    if unit == "s":
        return (
            f"{value / 3600:.1f} h" if value >= 5400 else f"{value / 60:.0f} min" if value >= 90 else f"{value:.0f} s"
        )
    if unit == "usd":
        return f"${value:.2f}"
    return f"{value:,.0f}" + (" tokens/s" if unit == "tokens/s" else "")


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) and not isinstance(value, bool) else "-"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "-"


def _json(path: Path) -> dict[str, Any]:
    found = read_json(path)
    return found if isinstance(found, dict) else {}
