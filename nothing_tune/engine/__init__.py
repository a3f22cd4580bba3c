"""The engine: the only box that imports torch, transformers, trl, peft, datasets and bitsandbytes.

`python -m nothing_tune.engine RUN_DIR` is a light supervisor (`__main__`), which starts `nothing_tune.engine.worker`
as its own process. Nothing else of the program imports from here.
"""
