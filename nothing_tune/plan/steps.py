"""How many steps a run takes, as the Trainer counts them. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def steps(sequences: int, training: Mapping[str, Any], world_size: int = 1) -> dict[str, Any]:
    """The optimizer steps of a run over `sequences` training sequences (rows, or packed sequences).

    Args:
        sequences: Sequences of one epoch, at least 1.
        training: Keyword arguments of SFTConfig: `per_device_train_batch_size`, `gradient_accumulation_steps`,
            `num_train_epochs`, `max_steps`, `dataloader_drop_last`.
        world_size: Processes that train together.

    Returns:
        `per_epoch`, `total`, `epochs` (passes over the data, a fraction where `max_steps` ends within one), and
        `global_batch` (sequences a step). As transformers 5.23 counts: the last, smaller batch of an epoch counts, and so
        does an accumulation that is not full.
    """
    micro = int(training.get("per_device_train_batch_size") or 8)
    accumulation = int(training.get("gradient_accumulation_steps") or 1)
    spread = sequences / (micro * world_size)
    batches = math.floor(spread) if training.get("dataloader_drop_last") else math.ceil(spread)
    per_epoch = max(math.ceil(batches / accumulation), 1)
    epochs = float(training.get("num_train_epochs") or 3)
    total = math.ceil(epochs * per_epoch)
    limit = int(training.get("max_steps") or -1)
    if limit > 0:
        whole, rest = divmod(limit, per_epoch)
        total, epochs = limit, whole + min(rest * accumulation, batches) / max(batches, 1)
    return {"per_epoch": per_epoch, "total": total, "epochs": epochs, "global_batch": micro * accumulation * world_size}
