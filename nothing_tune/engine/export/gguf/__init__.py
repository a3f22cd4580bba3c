"""GGUF files: made from a merged model with llama.cpp's own converter, in processes of their own, and looked at before they count.

`tree` finds the converter, `convert` writes a 16-bit file, `quantize` makes the smaller ones of it, `convert_adapter` writes an
adapter alone. A file under its final name is whole: it is written beside it and renamed.
"""

from nothing_tune.engine.export.gguf.adapter import convert_adapter
from nothing_tune.engine.export.gguf.convert import convert
from nothing_tune.engine.export.gguf.quantize import quantize
from nothing_tune.engine.export.gguf.sources import VERSION, tree

__all__ = ["VERSION", "convert", "convert_adapter", "quantize", "tree"]
