"""Preparation as a plain `datasets` script, written out by hand: what tune's preparation is timed beside.

python plain_map.py ROWS OUT_DIR         prints {"seconds", "peak_mib", "rows"} of a first and of a second, cached start
"""

import json
import resource
import sys
import time
from pathlib import Path

from datasets import disable_progress_bars, load_dataset
from transformers import AutoTokenizer

rows, out = sys.argv[1], Path(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(Path(__file__).resolve().parents[1] / "recipes" / "models" / "nano")
disable_progress_bars()
MAX_LENGTH = 1024


def tokenise(row):
    """Tokens and labels of one conversation."""
    done = tokenizer.apply_chat_template(
        row["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    labels = [token if said else -100 for token, said in zip(done["input_ids"], done["assistant_masks"], strict=True)]
    return {"input_ids": done["input_ids"][:MAX_LENGTH], "labels": labels[:MAX_LENGTH]}


started = time.monotonic()
data = load_dataset("json", data_files=rows, split="train", cache_dir=str(out))
data = data.train_test_split(test_size=0.1, seed=42)
data = data.map(tokenise, remove_columns=data["train"].column_names)
data = data.filter(lambda row: any(label != -100 for label in row["labels"]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": time.monotonic() - started, "peak_mib": peak, "rows": sum(map(len, data.values()))}))
