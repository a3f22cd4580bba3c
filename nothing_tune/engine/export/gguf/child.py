"""`python -m nothing_tune.engine.export.gguf.child NAME`: the work of one module of this box in a process of its own."""

from __future__ import annotations

import importlib
import sys

from nothing_tune.engine.export.gguf.process import answer

NAMES = ("adapter", "driver", "quantize", "tokens")

if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    if name not in NAMES:
        sys.exit(f"child: one of {', '.join(NAMES)}")
    sys.exit(answer(importlib.import_module(f"nothing_tune.engine.export.gguf.{name}").work))
