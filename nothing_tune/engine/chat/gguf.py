"""A GGUF file as what answers, through llama.cpp: its own chat template rendered as transformers renders it, its own stop tokens."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from nothing_tune.errors import UsageError
from nothing_tune.outputs import gguf_file

CONTEXT = 8192
"""Most tokens of context that are set up: the cache for all of a long context would take gigabytes before a word is said."""


class LlamaCpp:
    """A GGUF file that was loaded, as `replies` asks it."""

    kind = "llama.cpp"
    can_leave_off = False
    tokenizer: Any = None

    def __init__(self, path: Path) -> None:
        """Loads `path`.

        Raises:
            UsageError: llama-cpp-python is not installed, the file cannot be read, or it holds an adapter alone.
        """
        try:
            import llama_cpp
        except ImportError as error:
            raise UsageError(
                "reading a GGUF file needs llama-cpp-python", hint='pip install "nothing-tune[gguf]"'
            ) from error
        from transformers.utils.chat_template_utils import (
            render_jinja_template,  # takes seconds: not at the first message
        )

        self._library, self._render = llama_cpp, render_jinja_template
        facts = gguf_file.check(path).facts
        kind = str(facts.get("general.type") or "model")
        if kind != "model":
            raise UsageError(f"{path.name} is no model but of type {kind}", hint="name the GGUF file of a whole model")
        limit = int(facts.get(f"{facts.get('general.architecture')}.context_length") or CONTEXT)
        size = min(limit, CONTEXT)
        try:
            self.model: Any = llama_cpp.Llama(str(path), n_ctx=size, n_gpu_layers=-1, verbose=False)
        except (ValueError, RuntimeError, AssertionError) as error:
            raise UsageError(
                f"llama.cpp cannot load {path}: {str(error).splitlines()[0] if str(error) else 'it says no more'}",
                hint="it may be of a kind of model that this llama.cpp does not know: pip install -U llama-cpp-python",
            ) from error
        self.context: int | None = size
        self.device = "gpu" if llama_cpp.llama_supports_gpu_offload() else "cpu"
        self.dtype = ""
        self._vocab = self.model._model.vocab
        size = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._stops = frozenset(i for i in range(size) if llama_cpp.llama_vocab_is_eog(self._vocab, i))
        self._control = frozenset(i for i in range(size) if llama_cpp.llama_vocab_is_control(self._vocab, i))

    @property
    def stops(self) -> frozenset[int]:
        """Tokens that end an answer, as the file names them."""
        return self._stops

    def _text(self, token: int) -> str:
        if token < 0:
            return ""
        return str(self._library.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace"))

    def encode(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> list[int]:
        """The conversation as the file's chat template writes it, in tokens; the template alone says whether BOS comes first."""
        template = self.model.metadata.get("tokenizer.chat_template")
        if not template:
            text = str(messages[-1].get("content") or "")
            begins = bool(self._library.llama_vocab_get_add_bos(self._vocab))
            return list(self.model.tokenize(text.encode(), add_bos=begins, special=True))
        rendered, _ = self._render(
            conversations=[[dict(message) for message in messages]],
            tools=[dict(tool) for tool in tools] if tools else None,
            chat_template=template,
            add_generation_prompt=True,
            bos_token=self._text(self._library.llama_vocab_bos(self._vocab)),
            eos_token=self._text(self._library.llama_vocab_eos(self._vocab)),
        )
        return list(self.model.tokenize(rendered[0].encode(), add_bos=False, special=True))

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The text of tokens; control tokens only with `special`."""
        kept = [i for i in ids if special or i not in self._control]
        # not `detokenize`, which takes a leading space away: pieces are put together by us
        return b"".join(self._piece(i) for i in kept).decode("utf-8", "replace")

    def _piece(self, token: int) -> bytes:
        import ctypes

        buffer = ctypes.create_string_buffer(64)
        length = self._library.llama_token_to_piece(self._vocab, token, buffer, 64, 0, True)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = self._library.llama_token_to_piece(self._vocab, token, buffer, -length, 0, True)
        return buffer.raw[:length]

    def without_adapter(self) -> AbstractContextManager[Any]:
        """There is none."""
        raise UsageError("a GGUF file has no adapter that could be left off")

    def tokens(self, ids: Sequence[int], settings: Mapping[str, Any], cancel: threading.Event) -> Iterator[int]:
        """Generates after `ids` until a stop token, which is the last one given, `max_new_tokens`, or `cancel`."""
        if settings.get("seed") is not None:
            self.model.set_seed(int(settings["seed"]))
        stream = self.model.generate(
            list(ids),
            temp=settings["temperature"],
            top_p=settings["top_p"],
            top_k=settings.get("top_k") or 0,
            min_p=0.0,
            repeat_penalty=settings.get("repetition_penalty") or 1.0,
        )
        for count, token in enumerate(stream, 1):
            yield int(token)
            if count >= settings["max_new_tokens"] or token in self._stops or cancel.is_set():
                return
