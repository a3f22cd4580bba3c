"""Preparation by tune, as its engine does it, in a process of its own.

python tune_prepare.py ROWS              prints {"seconds", "peak_mib", "rows", "cached"}; the cache is TUNE_CACHE_DIR
"""

import json
import resource
import sys
import time

import datasets  # noqa: F401  its import is not what is measured
import trl.chat_template_utils  # noqa: F401

from nothing_tune.engine import build, prepare
from nothing_tune.plan import make_plan
from nothing_tune.recipe import load_recipe

words = [f"data.train={sys.argv[1]}", "data.eval=0.1", "training.max_length=1024", "training.eval_steps=100"]
plan = make_plan(load_recipe("quickstart", gpu="cpu", overrides=words))
tokenizer = build.tokenizer(plan)
started = time.monotonic()
found = prepare.load(plan, tokenizer, evaluate=True)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
rows = len(found.train) + len(found.eval or [])
print(
    json.dumps(
        {"seconds": time.monotonic() - started, "peak_mib": peak, "rows": rows, "cached": found.report["cached"]}
    )
)
