"""Writes how each output is served: `ollama/`, `vllm/` and `llama.cpp/` beside the outputs, whole files or none.

The chat template for Ollama is inferred from what the model's own renders (`outputs/go_template.py`), the stops are those of
`stops.py`, lengths are the model's and the training's.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import read_json, write_text
from nothing_tune.data import rows as data_rows
from nothing_tune.data import sources
from nothing_tune.engine import template_probes
from nothing_tune.engine.export import merge, stops
from nothing_tune.engine.export.source import Source
from nothing_tune.engine.job import Send
from nothing_tune.errors import StorageError, UsageError
from nothing_tune.outputs import Wanted, card, go_template, llama_cpp, ollama, vllm
from nothing_tune.outputs.record import is_hub_id
from nothing_tune.plan.architecture import Unlisted, shape
from nothing_tune.recipe.providers import providers

LARGE, SMALL = "a10", "t4"
"""GPUs that the files are for: of 24 GB and more, and of 16 GB and less."""
SMALL_BYTES = 100_000_000
"""Models with less to read for each token are bound by other things than bandwidth: no GPU is advised for them."""
ROWS = 64
"""Rows of the training data whose system prompt is looked at."""
TEMPERATURE = 0.7
_DAY = "strftime_now"


@dataclass(frozen=True)
class _Facts:
    """What the files are written from.

    Attributes:
        name: What requests call the model.
        config: config.json of the model.
        generation: generation_config.json of the export.
        tokenizer: With the chat template that is exported.
        context: The longest sequence of the model in tokens; None where unknown.
        trained: The longest sequence of the training in tokens; None where unknown.
    """

    name: str
    config: dict[str, Any]
    generation: dict[str, Any]
    tokenizer: Any
    context: int | None
    trained: int | None

    @property
    def length(self) -> int:
        """Tokens of a conversation: what was trained, as far as the model reads."""
        return vllm.conversation(self.trained, self.context)


def make(source: Source, wanted: Wanted, send: Send) -> list[dict[str, Any]]:
    """Writes the files for what lies in the folder of exports, and returns one `{name, path, command, what}` for each way to serve.

    Args:
        source: What was exported.
        wanted: `ollama` and `vllm` ask for theirs; llama.cpp's is written wherever there is a GGUF.
        send: Told of what cannot be written (`warning`), and with `vllm` of the GPUs (`advice`: `{rows, note}`).

    Raises:
        StorageError: The disk refuses.
        UsageError: The tokenizer cannot be loaded.
    """
    found = _ggufs(source)
    if not (wanted.ollama or wanted.vllm or found):
        return []
    facts = _facts(source)
    out: list[dict[str, Any]] = []
    if wanted.ollama:
        out += _ollama(source, wanted, facts, found, send)
    if wanted.vllm:
        out += _vllm(source, facts, send)
    if found:
        out += _llama_cpp(source, facts, found)
    return out


def _ggufs(source: Source) -> dict[str, str]:
    """Type -> file name of the GGUF files that are there, the one to serve first; `adapter-f16` for the adapter alone."""
    start = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', source.plan.name)}-"
    names = sorted(p.name for p in (source.folder / "gguf").glob("*.gguf") if not p.name.startswith("."))
    types = {name.removesuffix(".gguf").removeprefix(start): name for name in names}
    order = {name: number for number, name in enumerate(llama_cpp.BEST_FIRST)}
    plain = ("bf16", "f16", "f32")
    return dict(
        sorted(
            types.items(), key=lambda item: (item[0].startswith("adapter"), item[0] in plain, order.get(item[0], 99))
        )
    )


def of_card(source: Source, wanted: Wanted) -> card.Model:
    """What the examples of the cards need to know: the same as the files here say."""
    config = _config(source)
    inner = config.get("text_config") or config
    system = wanted.system if wanted.system is not None else system_of_data(source)
    limit = inner.get("max_position_embeddings")
    if system:
        from transformers import AutoTokenizer

        trust = bool(source.plan.model.get("trust_remote_code"))
        render = rendering(AutoTokenizer.from_pretrained(source.adapter, trust_remote_code=trust))
        told = render([{"role": "system", "content": system}, {"role": "user", "content": "Hello!"}])
        system = system if told and system.strip() in told else None  # the template may have no place for it
    return card.Model(int(limit) if limit else None, system or None, str(inner.get("model_type") or ""))


def _config(source: Source) -> dict[str, Any]:
    return _json(source.folder / "merged" / "config.json") or merge.base_config(source.plan)


def _facts(source: Source) -> _Facts:
    from transformers import AutoTokenizer

    folder = source.adapter
    trust = bool(source.plan.model.get("trust_remote_code"))
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    config = _config(source)
    inner = config.get("text_config") or config
    context, trained = inner.get("max_position_embeddings"), source.plan.training.get("max_length")
    return _Facts(
        name=re.sub(r"[^A-Za-z0-9._-]+", "-", source.plan.name),
        config=config,
        generation=_json(folder / "generation_config.json"),
        tokenizer=tokenizer,
        context=int(context) if context else None,
        trained=int(trained) if trained else None,
    )


def rendering(tokenizer: Any) -> go_template.Render:
    """Renders with the tokenizer's own chat template; see `go_template.Render`."""
    template = stops.own_template(tokenizer) or ""

    def render(
        messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = (), answer: bool = True
    ) -> str | None:
        prompt = answer and messages[-1]["role"] != "assistant"
        try:
            return template_probes.rendered(tokenizer, template, messages, tools or None, prompt=prompt)[0]
        except Exception:  # a template raises whatever it likes
            return None

    return render


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts the BOS token before a text by itself; the GGUF does, too, unless the template begins without."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and bool(ids) and ids[0] == tokenizer.bos_token_id


def _ollama(
    source: Source, wanted: Wanted, facts: _Facts, found: Mapping[str, str], send: Send
) -> list[dict[str, Any]]:
    models = {kind: name for kind, name in found.items() if not kind.startswith("adapter")}
    if not models:
        send(type="warning", what="there is no Modelfile: Ollama needs a GGUF", hint="add --gguf q4_k_m")
        return []
    chosen, *others = models.items()
    notes = [f"{facts.name}: ollama create {facts.name} -f Modelfile, then ollama run {facts.name}"]
    notes += [f"also made: FROM ../gguf/{name}" for _, name in others]
    pieces, told = _pieces(facts, send)
    system = wanted.system if wanted.system is not None else system_of_data(source)
    if system and pieces is not None and pieces.place == go_template.NONE:
        send(
            type="warning",
            what="the chat template has no place for a system prompt: the Modelfile has none",
            hint="say it in the first message",
        )
        system = None
    parameters, comments = _parameters(facts)
    words = stops.words(facts.tokenizer, facts.generation)
    text = ollama.modelfile(
        f"../gguf/{chosen[1]}", pieces, words, system, parameters,
        adds_bos=adds_bos(facts.tokenizer), notes=[*notes, *told], comments=comments,
    )  # fmt: skip
    path = _write(source.folder / "ollama" / "Modelfile", text)
    command = f"ollama create {facts.name} -f {shlex.quote(str(path))}"
    return [{"name": "ollama", "path": str(path), "command": command, "what": f"Ollama, with {chosen[0]}"}]


def _pieces(facts: _Facts, send: Send) -> tuple[go_template.Pieces | None, list[str]]:
    """The template's pieces, and what the Modelfile says of them; None where Ollama has to find a template of its own."""
    own = stops.own_template(facts.tokenizer)
    if not own:
        return None, ["no TEMPLATE: the model has no chat template, so that Ollama hands on what is said as it is"]
    bos = facts.tokenizer.bos_token or ""
    try:
        found = go_template.pieces(rendering(facts.tokenizer), bos)
    except go_template.NotLinear as error:
        send(
            type="warning",
            what=f"the chat template cannot be written for Ollama: {error}",
            hint="Ollama looks for one of its own that is like the GGUF's; llama-server --jinja uses the model's own",
        )
        return None, [f"no TEMPLATE: {error}; Ollama looks for one of its own that is like the GGUF's"]
    told = ["the template was compared with the model's own and writes the same text"]
    if found.trims:
        told.append("the model's own also strips what people say; Ollama's cannot")
    if _DAY in own:
        told.append("the model's own writes the day; here it is that of the export")
    if found.tools is None and template_probes.abilities(facts.tokenizer, own).tools == "template":
        told.append("functions are left out: the model's own writes them in a way that Ollama's templates cannot")
    elif found.tools is not None:
        told.append("functions are written as the model's own does, but for spaces in their JSON")
    return found, told


def _parameters(facts: _Facts) -> tuple[dict[str, Any], dict[str, str]]:
    known = facts.generation
    out: dict[str, Any] = {"num_ctx": facts.length, "temperature": float(known.get("temperature") or TEMPERATURE)}
    for name in ("top_p", "top_k", "min_p"):
        if isinstance(known.get(name), int | float) and not isinstance(known[name], bool):
            out[name] = known[name]
    out["repeat_penalty"] = float(known.get("repetition_penalty") or 1.0)
    reads = f"the model reads {facts.context:,} tokens" if facts.context else "what the model reads is not known"
    trained = f"it was trained on {facts.trained:,} at most" if facts.trained else "what it was trained on is not known"
    return out, {"num_ctx": f"{reads}, {trained}", "repeat_penalty": "1 is none: as it was trained and compared"}


def system_of_data(source: Source) -> str | None:
    """The system prompt that the first rows of the training data share; None where they have none, several, or cannot be read."""
    data, seen = source.plan.data, set()
    with contextlib.suppress(UsageError, OSError, KeyError, ValueError):
        if not all(sources.is_file(one.name) for one in sources.parse(data.get("train"), data)):
            return None
        stream = data_rows.stream(sources.open_all(data["train"], data), data, data_rows.Ledger())
        for number, row in enumerate(stream):
            messages = row.value.get("messages") or row.value.get("prompt") or [{}]
            first = messages[0] if isinstance(messages, list) else {}
            seen.add(first.get("content") if first.get("role") == "system" else None)
            if len(seen) > 1 or number + 1 >= ROWS:
                break
    return seen.pop() if len(seen) == 1 else None


def _vllm(source: Source, facts: _Facts, send: Send) -> list[dict[str, Any]]:
    out = []
    trust = bool(source.plan.model.get("trust_remote_code"))
    common: dict[str, Any] = {
        "model_type": str((facts.config.get("text_config") or facts.config).get("model_type") or ""),
        "context": facts.context, "trained": facts.trained, "trust": trust,
    }  # fmt: skip
    gpus = {name: vllm.gpu(name) for name in (LARGE, SMALL)}
    adapter = _json(source.adapter / "adapter_config.json") if not source.full else {}
    if adapter:
        why = vllm.refusal(adapter)
        if why:
            send(type="warning", what=f"vLLM cannot serve this adapter: {why}", hint="serve the merged model: --merge")
        else:
            base = str(source.plan.model.get("name_or_path") or "")
            hub = is_hub_id(base)
            base = base if hub else str(Path(base).expanduser().absolute())
            template = "../adapter/chat_template.jinja"
            serving = {
                name: vllm.adapter(
                    base, facts.name, "../adapter", adapter, gpu,
                    revision=source.plan.model.get("revision") if hub else None,
                    template=template if (source.adapter / "chat_template.jinja").is_file() else None, **common,
                )
                for name, gpu in gpus.items()
            }  # fmt: skip
            notes = [] if hub else ["the base's folder is that of the machine that trained: change it elsewhere"]
            if source.plan.quantization:
                notes.append("it was trained on a quantised base; --quantization bitsandbytes serves it on such a one")
            out.append(_vllm_files(source, "adapter", serving, notes))
    if (source.folder / "merged" / "config.json").is_file():
        serving = {name: vllm.merged("../merged", facts.name, gpu, **common) for name, gpu in gpus.items()}
        out.append(_vllm_files(source, "merged", serving, []))
    size = _bytes_a_token(facts.config, source.adapter)
    if size and size > SMALL_BYTES:
        rows = vllm.advice_rows(vllm.advice(size, providers(), common["model_type"]))
        note = f"upper bounds: bandwidth divided by the {size / 1e9:,.2f} GB of weights that a token reads, one conversation"
        send(type="advice", rows=rows, note=note)
    return out


def _vllm_files(source: Source, kind: str, serving: Mapping[str, vllm.Serving], notes: Sequence[str]) -> dict[str, Any]:
    """`KIND.yaml` for 24 GB and more, `KIND-t4.yaml`, and `KIND.sh` with both command lines."""
    folder = source.folder / "vllm"
    where = "paths are as seen from this folder: run it here"
    _write(
        folder / f"{kind}.yaml",
        vllm.config_file(
            serving[LARGE], [f"vllm serve --config {kind}.yaml", "GPUs with bf16 and 24 GB or more", where, *notes]
        ),
    )
    _write(
        folder / f"{kind}-{SMALL}.yaml",
        vllm.config_file(
            serving[SMALL], [f"vllm serve --config {kind}-{SMALL}.yaml", "a T4, or another of 16 GB", where, *notes]
        ),
    )
    lines = [
        "#!/bin/sh",
        f"# Serves the {kind} output with vLLM (options as of {vllm.VERSION}): sh {kind}.sh, or on a T4: sh {kind}.sh {SMALL}",
        *(f"# {note}" for note in notes),
        "set -e",
        'cd "$(dirname "$0")"',
        f'if [ "$1" = {SMALL} ]; then',
        "  shift",
        f'  exec {vllm.command(serving[SMALL])} \\\n  "$@"',
        "fi",
        f'exec {vllm.command(serving[LARGE])} \\\n  "$@"',
    ]
    path = _write(folder / f"{kind}.sh", "\n".join(lines) + "\n", runs=True)
    return {
        "name": f"vllm {kind}",
        "path": str(path),
        "command": f"sh {shlex.quote(str(path))}",
        "what": f"vLLM, {kind}",
    }


def _bytes_a_token(config: Mapping[str, Any], adapter: Path) -> int | None:
    """Bytes of weights that one token reads in 16 bits, adapter included; None for a family whose sizes are not known."""
    try:
        known = shape(config)
    except (Unlisted, KeyError, TypeError, ValueError):
        return None
    beside = adapter / "adapter_model.safetensors"
    return 2 * known.active_parameters + (beside.stat().st_size if beside.is_file() else 0)


def _llama_cpp(source: Source, facts: _Facts, found: Mapping[str, str]) -> list[dict[str, Any]]:
    models = [name for kind, name in found.items() if not kind.startswith("adapter")]
    alone = [name for kind, name in found.items() if kind.startswith("adapter")]
    lora = f"../gguf/{alone[0]}" if alone and not models else ""
    model = f"../gguf/{models[0]}" if models else "BASE.gguf"
    lines = [
        "#!/bin/sh",
        f"# Serves {facts.name} with llama.cpp on port {llama_cpp.PORT}, as OpenAI's API. The other server, with llama-cpp-python:",
        f"#   {llama_cpp.python_server(model, facts.length, facts.name, lora)}",
        f"# ({llama_cpp.PENALTY})",
        *([] if models else ["# BASE.gguf is the base model as GGUF: put its path there"]),
        "set -e",
        'cd "$(dirname "$0")"',
        f'exec {llama_cpp.server(model, facts.length, facts.name, lora)} "$@"',
    ]
    path = _write(source.folder / "llama.cpp" / "server.sh", "\n".join(lines) + "\n", runs=True)
    return [
        {
            "name": "llama.cpp",
            "path": str(path),
            "command": f"sh {shlex.quote(str(path))}",
            "what": "llama.cpp's server",
        }
    ]


def _write(path: Path, text: str, runs: bool = False) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}", hint="free some space or mend the permissions"
        ) from error
    write_text(path, text)
    if runs:
        path.chmod(0o755)
    return path


def _json(path: Path) -> dict[str, Any]:
    found = read_json(path)
    return found if isinstance(found, dict) else {}
