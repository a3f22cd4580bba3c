"""Which outputs are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Wanted:
    """The outputs of one export.

    Attributes:
        adapter: The adapter with tokenizer and card; always made where anything else is, for all start from it.
        merged: The whole model, adapter merged into the 16-bit base.
        gguf: Names of GGUF types in lower case (`q4_k_m`), as in `quantizations`; made from the merged model.
        gguf_adapter: The adapter alone as GGUF.
        ollama: A Modelfile for the best GGUF.
        vllm: Commands and YAML for vLLM, adapter and merged.
        push: Repository on the hub (`org/name`) that everything is uploaded to; empty for none.
        private: Whether that repository is made private.
        prove: Whether each output is compared with the run.
        system: System prompt that the Modelfile brings; None for that of the data, empty for none.
    """

    adapter: bool = False
    merged: bool = False
    gguf: tuple[str, ...] = ()
    gguf_adapter: bool = False
    ollama: bool = False
    vllm: bool = False
    push: str = ""
    private: bool = True
    prove: bool = True
    system: str | None = None

    def __bool__(self) -> bool:
        """Whether anything is wanted."""
        return bool(
            self.adapter or self.merged or self.gguf or self.gguf_adapter or self.ollama or self.vllm or self.push
        )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Wanted:
        """What the `export` section of a plan's `values` asks for; a push of nothing else is one of the adapter, or of the whole
        model where every weight was trained."""
        own = values.get("export") or {}
        types = own.get("gguf") or ()
        wanted = cls(
            adapter=bool(own.get("adapter")),
            merged=bool(own.get("merge")),
            gguf=(types,) if isinstance(types, str) else tuple(dict.fromkeys(types)),
            gguf_adapter=bool(own.get("gguf_adapter")),
            ollama=bool(own.get("ollama")),
            vllm=bool(own.get("vllm")),
            push=own.get("push") or "",
            private=own.get("private") is not False,
            prove=own.get("prove") is not False,
            system=own.get("system"),
        )
        if not wanted.push or replace(wanted, push=""):
            return wanted
        return replace(wanted, adapter=True) if values.get("peft") else replace(wanted, merged=True)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Wanted:
        """From plain data; keys of other versions are passed over."""
        known = {k: v for k, v in data.items() if k in cls.__dataclass_fields__}
        return cls(**{**known, "gguf": tuple(known.get("gguf") or ())})
