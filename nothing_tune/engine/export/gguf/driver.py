"""A child: llama.cpp's converter on a merged model, with a vocabulary that was seen to split text as the tokenizer does.

Runs with the converter's folder first on the module path; nothing in that folder is changed.

    in:  {"model": folder, "out": file, "type": "f16", "name": "marco"}
    out: progress and warnings; done with {"pre", "model", "bos", "eos", "stops", "differs"}
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nothing_tune.engine.export import stops
from nothing_tune.engine.export.gguf import agreement, vocabulary
from nothing_tune.engine.export.gguf.vocabulary import Vocabulary
from nothing_tune.errors import RunError, UsageError

Send = Callable[..., None]
_KEY = "tokenizer.ggml."
_EVERY_S = 0.1


def work(request: dict[str, Any], send: Send) -> dict[str, Any]:
    """Converts, and returns what was written of the tokenizer.

    Raises:
        UsageError: llama.cpp has no form for the architecture, or model and tokenizer do not belong together.
        RunError: It has none for the tokenizer.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    import gguf
    import torch
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
    from transformers import AutoTokenizer, GenerationConfig

    folder, out = Path(request["model"]), Path(request["out"])
    hparams = ModelBase.load_hparams(folder, False)
    name = get_model_architecture(hparams, ModelType.TEXT)
    try:
        kind = get_model_class(name)
    except NotImplementedError:
        raise UsageError(
            f"GGUF has no form for {name}: llama.cpp's converter does not know it",
            hint="serve the merged model with vLLM or transformers: tune export RUN --merge --vllm",
        ) from None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    try:
        generation = GenerationConfig.from_pretrained(folder)
    except OSError:
        generation = None
    rows = _rows(hparams, tokenizer)
    send(type="progress", stage="tokenizer", done=0, total=1, unit="tensors")
    compared = agreement.Comparison(tokenizer)
    facts = _facts(tokenizer, generation, hparams, compared, send)
    chosen = _chosen(gguf, kind, tokenizer, rows, facts, compared, send, request["name"])

    class Model(kind):  # type: ignore[misc, valid-type]
        model_arch = kind.model_arch

        def set_vocab(self) -> None:
            embedded = next(
                (t["token_embd.weight"].shape[0] for t in self.gguf_writer.tensors if "token_embd.weight" in t), rows
            )
            _write(self.gguf_writer, _cut(chosen, int(embedded)), facts)

        def modify_tensors(self, data_torch: Any, name: str, bid: int | None) -> Any:
            for new, made in super().modify_tensors(data_torch, name, bid):
                whole = (
                    "embed_tokens" not in name or made.shape[1:] != data_torch.shape[1:] or len(made) >= len(data_torch)
                )
                yield new, made if whole else data_torch  # rows that no token uses have their share of the probability

    types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16"}
    with torch.inference_mode(), _Progress(send):
        Model(
            folder,
            getattr(gguf.LlamaFileType, types[request["type"]]),
            out,
            hparams=hparams,
            model_name=request["name"],
        ).write()
    best, found = compared.first_good(out, [""], strict=chosen.merges is not None)
    if best is None:
        raise agreement.refused(found, chosen.model)
    return {
        "pre": chosen.pre, "model": chosen.model, "differs": best.wrong["edges"][:8],
        **{k: facts[k] for k in ("bos", "eos", "stops")},
    }  # fmt: skip


def _rows(hparams: dict[str, Any], tokenizer: Any) -> int:
    rows = int(hparams.get("vocab_size") or len(tokenizer))
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise UsageError(
            f"the tokenizer has tokens up to {highest:,}, and the model has rows for {rows:,}",
            hint="model and tokenizer do not belong together: export the run again",
        )
    return rows


def _chosen(
    gguf: Any,
    kind: Any,
    tokenizer: Any,
    rows: int,
    facts: dict[str, Any],
    compared: agreement.Comparison,
    send: Send,
    name: str,
) -> Vocabulary:
    """The way to write the tokenizer that agrees with it best."""
    ways = list(vocabulary.candidates(tokenizer, rows)) if getattr(tokenizer, "is_fast", False) else []
    found: list[agreement.Finding] = []
    usable: list[tuple[agreement.Finding, Vocabulary]] = []
    with tempfile.TemporaryDirectory(prefix="gguf-") as folder:
        while ways:
            first = ways[0]
            alike = [w for w in ways if replace(w, pre="") == replace(first, pre="")]
            ways = [w for w in ways if w not in alike]
            file = Path(folder) / "vocabulary.gguf"
            writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[kind.model_arch])
            writer.add_name(name)
            _write(writer, first, facts)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.close()
            best, tried = compared.first_good(file, [w.pre for w in alike], strict=first.merges is not None)
            found += tried
            if best:
                way = next(w for w in alike if w.pre == best.pre)
                usable.append((best, way))
                if best.perfect:
                    break
    if not usable:
        model = type(getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)).__name__
        raise agreement.refused(found, f"tokenizers of the kind {model}")
    best, way = min(usable, key=lambda pair: pair[0].faults)
    agreement.warnings(best, compared.chats, send)
    return way


def _facts(
    tokenizer: Any, generation: Any, hparams: dict[str, Any], compared: agreement.Comparison, send: Send
) -> dict[str, Any]:
    """Special tokens and template, as transformers uses them."""
    start, end = compared.own_start, compared.end
    ends = stops.stops(tokenizer, generation)
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else (ends[0] if ends else None)
    if eos is None:
        raise UsageError(
            "the tokenizer has no token that ends an answer", hint="set eos_token in tokenizer_config.json"
        )
    bos = tokenizer.bos_token_id
    if len(start) == 1:
        bos = start[0]
    if bos is None:
        configured = hparams.get("bos_token_id")
        bos = configured if isinstance(configured, int) and 0 <= configured < len(tokenizer) else eos
    if len(compared.start) > 1 or len(end) > 1 or (end and end != [eos]):
        words = tokenizer.convert_ids_to_tokens([*compared.start, *end])
        send(
            type="warning",
            what=f"llama.cpp cannot put {' '.join(words)} around plain text, as the tokenizer does",
            hint="conversations are not affected where the chat template writes them",
        )
    others = [i for i in ends if i != eos]
    if len(others) > 2:
        lost = tokenizer.convert_ids_to_tokens(others[2:])
        send(
            type="warning",
            what=f"a GGUF file names three tokens that end an answer; {', '.join(lost)} must be given to the server",
            hint="the Modelfile and the llama.cpp command that are exported name them",
        )
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = [{"name": k, "template": v} for k, v in template.items()]
    own = {"unknown": tokenizer.unk_token_id, "padding": tokenizer.pad_token_id}
    ids = {
        "bos": bos,
        "eos": eos,
        "eot": others[0] if others else None,
        "eom": others[1] if len(others) > 1 else None,
        **own,
    }
    return {
        "ids": {k: int(v) for k, v in ids.items() if v is not None},
        "bos": len(compared.start) == 1, "eos": end == [eos], "stops": ends, "template": template,
    }  # fmt: skip


def _write(writer: Any, vocabulary_: Vocabulary, facts: dict[str, Any]) -> None:
    """Writes the tokenizer's facts into a file that is being made."""
    writer.add_tokenizer_model(vocabulary_.model)
    writer.add_tokenizer_pre(vocabulary_.pre)
    writer.add_token_list(list(vocabulary_.tokens))
    types = list(vocabulary_.types)
    for ending in facts["stops"]:
        if ending < len(types):
            types[ending] = vocabulary.CONTROL
    writer.add_token_types(types)
    if vocabulary_.scores is not None:
        writer.add_token_scores(list(vocabulary_.scores))
    if vocabulary_.merges is not None:
        writer.add_token_merges(list(vocabulary_.merges))
    if vocabulary_.charsmap:
        writer.add_precompiled_charsmap(vocabulary_.charsmap)
    if vocabulary_.space_prefix is not None:
        writer.add_add_space_prefix(vocabulary_.space_prefix)
    if vocabulary_.one_space is not None:
        writer.add_remove_extra_whitespaces(vocabulary_.one_space)
    for name, token in facts["ids"].items():
        writer.add_uint32(f"{_KEY}{name}_token_id", token)
    writer.add_add_bos_token(facts["bos"])
    writer.add_add_eos_token(facts["eos"])
    if facts["template"]:
        writer.add_chat_template(facts["template"])


def _cut(way: Vocabulary, rows: int) -> Vocabulary:
    """`way` for an embedding of `rows` rows: converters drop rows that no token uses."""
    if rows == len(way.tokens):
        return way
    if rows > len(way.tokens) or any(t != vocabulary.UNUSED for t in way.types[rows:]):
        raise RunError(
            f"the converter wrote {rows:,} rows for {len(way.tokens):,} tokens", hint="please report this model"
        )
    return replace(way, tokens=way.tokens[:rows], types=way.types[:rows], scores=way.scores and way.scores[:rows])


class _Progress:
    """Tells how many bytes are written, in the place of the converter's progress bar."""

    def __init__(self, send: Send) -> None:
        self.send, self.told = send, 0.0

    def __enter__(self) -> None:
        import tqdm

        outer = self

        class Bar:
            def __init__(self, *_: Any, total: int | None = None, **__: Any) -> None:
                self.done, self.total = 0, total

            def update(self, count: int) -> None:
                self.done += count
                last = self.done == self.total
                if self.total and (last or time.monotonic() - outer.told > _EVERY_S):
                    outer.told = time.monotonic()
                    outer.send(type="progress", stage="convert", done=self.done, total=self.total, unit="bytes")

        self.module, self.before = tqdm, tqdm.tqdm
        tqdm.tqdm = Bar

    def __exit__(self, *_: object) -> None:
        self.module.tqdm = self.before
