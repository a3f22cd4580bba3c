"""The families of models that the recipes name, and a few more: special tokens, template, and what each supervises.

A tokenizer of the family's kind is trained here, on a handful of words, with the family's special tokens. Templates of
the models themselves come from TRL's installed copies, else from the files beside this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.engine.support import WORDS, tiny_tokenizer

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
ASSISTANT_LLAMA = "<|start_header_id|>assistant<|end_header_id|>\n\n"
CALL_QWEN = '<tool_call>\n{"name": "look", "arguments": {"at": "Città di 🏰", "n": 2}}\n</tool_call>'
CALL_CHATML = CALL_QWEN
CALL_LLAMA = '{"name": "look", "parameters": {"at": "Città di 🏰", "n": 2}}'
CALL_NEMOTRON = '<TOOLCALL>[{"name": "look", "arguments": {"at": "Città di 🏰", "n": 2}}]</TOOLCALL>'
CALL_MISTRAL = '[TOOL_CALLS] [{"name": "look", "arguments": {"at": "Città di 🏰", "n": 2}, "id": "{id}"}]'
CALL_TEXT = '<functioncall> {"name": "look", "arguments": {"at": "Città di 🏰", "n": 2}}'


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        tokens: Its special tokens; the first is the beginning of the sequence where `bos` says so.
        template: Its own template: `trl:NAME`, a file beside this one, or None for a base model without one.
        source: Where the training template comes from (`Choice.source`).
        end: What ends an assistant turn; supervised.
        before: What is supervised of a turn before the answer, besides it.
        after: What is supervised of a turn behind `end`.
        last: What is supervised behind the last turn besides.
        trims: Whether the template strips the answer.
        call: A tool call as it is supervised, `end` left out.
        tools: Whether the template shows tools itself (`template`) or they are written as text.
        roles: Which roles besides user and assistant it shows.
        bos: How often the token for the beginning stands in a row.
        sentencepiece: Whether the tokenizer is of the SentencePiece kind; else byte-level BPE.
        adds_bos: Whether the tokenizer itself puts its first token before a text.
        strips: Special tokens that swallow the white space behind them (`rstrip`), as Phi-3's do.
        refuses: What is said of a row with a system message, where there can be none.
        alternates: Whether user and assistant must take turns.
        drops_system: Whether the system message appears in a prompt only, in no row that is learned from.
        rewrites: Whether the training version renders another text than the model's own.
    """

    tokens: tuple[str, ...]
    template: str | None
    source: str
    end: str
    call: str
    before: str = ""
    after: str = ""
    last: str = ""
    trims: bool = False
    tools: str = "template"
    roles: frozenset[str] = frozenset({"system", "developer", "tool"})
    bos: int = 1
    eos: str | None = None
    sentencepiece: bool = False
    adds_bos: bool = False
    strips: tuple[str, ...] = ()
    refuses: str = ""
    alternates: bool = False
    drops_system: bool = False
    rewrites: bool = False


LLAMA = (
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|python_tag|>",
    "<|pad|>",
)
QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
GEMMA = ("<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>")
PHI = ("<s>", "<|endoftext|>", "<|assistant|>", "<|user|>", "<|system|>", "<|end|>", "<unk>")
MISTRAL = (
    "<s>", "</s>", "<unk>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
)  # fmt: skip
SENTENCEPIECE = ("<s>", "</s>", "<unk>")
_BASE = Family(
    SENTENCEPIECE, None, "chatml", "<|im_end|>", CALL_CHATML, eos="</s>", sentencepiece=True, adds_bos=True
)  # fmt: skip
_TEXT: dict[str, Any] = {"tools": "text", "call": CALL_TEXT}

FAMILIES = {
    "llama-2": _BASE,  # 7b and 13b: base models
    "minerva": _BASE,
    "mistral-7b-v0.1": _BASE,
    "llama-3": Family(LLAMA, "trl:llama3", "trl", "<|eot_id|>", trims=True, eos="<|eot_id|>", **_TEXT),
    "llama-3.1": Family(LLAMA, "trl:llama3_1", "llama3_1", "<|eot_id|>", CALL_LLAMA, trims=True, eos="<|eot_id|>"),
    "llama-3.2": Family(LLAMA, "trl:llama3_2", "llama3_2", "<|eot_id|>", CALL_LLAMA, trims=True, eos="<|eot_id|>"),
    "nemotron-nano-4b": Family(
        LLAMA, "nemotron_nano.jinja", "nemotron_nano", "<|eot_id|>", CALL_NEMOTRON, trims=True, eos="<|eot_id|>",
        roles=frozenset({"system", "tool"}), alternates=True,
    ),
    # TRL's training version begins the mask at the newline behind `assistant` and ends it behind the newline of the turn
    "qwen2.5": Family(
        QWEN, "trl:qwen2_5", "trl", "<|im_end|>", CALL_QWEN, before="\n", after="\n", bos=0, eos="<|im_end|>",
        roles=frozenset({"system", "tool"}),
    ),
    # TRL's training version puts an empty thought into every turn and learns it; the model's own only into the last
    "qwen3": Family(
        QWEN, "trl:qwen3", "trl", "<|im_end|>", CALL_QWEN, before="<think>\n\n</think>\n\n", after="\n", bos=0, eos="<|im_end|>",
        roles=frozenset({"system", "tool"}), rewrites=True,
    ),
    "gemma": Family(
        GEMMA, "trl:gemma", "trl", "<end_of_turn>", after="\n", trims=True, eos="<eos>", roles=frozenset(), sentencepiece=True,
        adds_bos=True, refuses="the chat template takes no system message (message 1)", alternates=True, **_TEXT,
    ),
    "gemma3": Family(
        GEMMA, "trl:gemma3", "trl", "<end_of_turn>", after="\n", trims=True, eos="<eos>", roles=frozenset({"system"}),
        sentencepiece=True, adds_bos=True, alternates=True, **_TEXT,
    ),
    "phi-3": Family(
        PHI, "trl:phi3", "trl", "<|end|>", after="\n", last="<|endoftext|>", bos=0, eos="<|endoftext|>", sentencepiece=True,
        roles=frozenset({"system"}), strips=("<|end|>", "<|user|>", "<|system|>", "<|assistant|>"), **_TEXT,
    ),
    "mistral-instruct-v0.1": Family(
        MISTRAL[:3], "mistral_v1.jinja", "mistral_v1", "</s>", roles=frozenset(), eos="</s>", sentencepiece=True, adds_bos=True,
        refuses="the chat template takes no system message (message 1)", alternates=True, **_TEXT,
    ),
    "mistral-instruct-v0.3": Family(
        MISTRAL, "mistral_v3.jinja", "mistral_v3", "</s>", CALL_MISTRAL, before=" ", trims=True, roles=frozenset({"tool"}),
        eos="</s>", sentencepiece=True, adds_bos=True, drops_system=True,
    ),
    "nano": Family((), None, "the model", "<|im_end|>", CALL_QWEN, bos=0, eos="<|im_end|>"),
}  # fmt: skip


def own_template(name: str) -> str | None:
    """The model's own template; None for a base model."""
    family = FAMILIES[name]
    if name == "nano":
        return (ROOT / "recipes/models/nano/chat_template.jinja").read_text(encoding="utf-8")
    if family.template is None:
        return None
    if family.template.startswith("trl:"):
        import trl

        return (Path(trl.__file__).parent / "chat_templates" / f"{family.template[4:]}.jinja").read_text(
            encoding="utf-8"
        )
    return (HERE / family.template).read_text(encoding="utf-8")


def tokenizer(name: str) -> Any:
    """A new tokenizer of the family `name`, its own template set."""
    family = FAMILIES[name]
    if name == "nano":
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(ROOT / "recipes/models/nano"))
    special = {"eos_token": family.eos, "pad_token": family.tokens[-1] if family.tokens is LLAMA else family.eos}
    if family.adds_bos or family.bos:
        special["bos_token"] = family.tokens[0]
    tok = sentencepiece_like(family, **special) if family.sentencepiece else tiny_tokenizer(family.tokens, **special)
    tok.chat_template = own_template(name)
    return tok


def sentencepiece_like(family: Family, **special: Any) -> Any:
    """A tokenizer that works as converted SentencePiece models do: `▁` for a space and before each piece, bytes for the rest."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokens = [*family.tokens, *(["<unk>"] if "<unk>" not in family.tokens else [])]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=[*tokens, *(f"<0x{b:02X}>" for b in range(256))],
        show_progress=False,
    )
    core.train_from_iterator([" ".join(WORDS), "\n", '{"name": "arguments"}'] * 20, trainer)
    core.add_special_tokens([AddedToken(t, special=True, normalized=False, rstrip=t in family.strips) for t in tokens])
    if family.adds_bos:
        first = family.tokens[0]
        core.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, core.token_to_id(first))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", **special)
