"""The proof that an export is what was trained: compared with the run token by token, weight by weight, word by word.

The run's answers are computed once in float32 (`reference`); each output is then loaded by the library that will serve it and asked
the same. Every finding is a check, `{"name", "ok": true|false|null, "value", "limit", "what"}`; null says that it cannot be told.
The limits, and where they come from, are in `outputs/limits.py`; docs/proof.md says what each check is for.
"""

from nothing_tune.engine.export.proof.answers import Reference, reference
from nothing_tune.engine.export.proof.outputs import adapter, gguf, merged
from nothing_tune.engine.export.proof.verify import verify

__all__ = ["Reference", "adapter", "gguf", "merged", "reference", "verify"]
