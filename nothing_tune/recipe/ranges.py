"""Ranges of upstream's options: impossible values are errors, unusual ones are advice with its source."""

from __future__ import annotations

from dataclasses import dataclass


def words(value: float) -> str:
    """A number as people write it: whole numbers in full, others as Python shows them."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)


@dataclass(frozen=True)
class Range:
    """`low` to `high`, both included unless `above` or `below` exclude them; None is no limit."""

    low: float | None = None
    high: float | None = None
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number lies within; not-a-number lies nowhere."""
        if value != value:
            return False
        over = self.low is None or (value > self.low if self.above else value >= self.low)
        return over and (self.high is None or (value < self.high if self.below else value <= self.high))

    def __str__(self) -> str:
        low = "" if self.low is None else f"{'above' if self.above else 'at least'} {words(self.low)}"
        high = "" if self.high is None else f"{'below' if self.below else 'at most'} {words(self.high)}"
        return " and ".join(p for p in (low, high) if p)


POSITIVE, COUNT, NOT_NEGATIVE = Range(0, above=True), Range(1), Range(0)
SHARE = Range(0, 1, below=True)
SEED = Range(0, 2**32 - 1)
"""torch and numpy together accept this range."""

RANGES: dict[str, Range] = {
    "training.per_device_train_batch_size": COUNT,
    "training.per_device_eval_batch_size": COUNT,
    "training.gradient_accumulation_steps": COUNT,
    "training.num_train_epochs": POSITIVE,
    "training.max_steps": Range(-1),
    "training.learning_rate": POSITIVE,
    "training.warmup_steps": NOT_NEGATIVE,
    "training.weight_decay": NOT_NEGATIVE,
    "training.adam_beta1": SHARE,
    "training.adam_beta2": SHARE,
    "training.adam_epsilon": NOT_NEGATIVE,
    "training.max_grad_norm": NOT_NEGATIVE,
    "training.label_smoothing_factor": SHARE,
    "training.neftune_noise_alpha": NOT_NEGATIVE,
    "training.max_length": COUNT,
    "training.logging_steps": POSITIVE,
    "training.eval_steps": POSITIVE,
    "training.save_steps": POSITIVE,
    "training.save_total_limit": COUNT,
    "training.eval_delay": NOT_NEGATIVE,
    "training.eval_accumulation_steps": COUNT,
    "training.torch_empty_cache_steps": COUNT,
    "training.dataloader_num_workers": NOT_NEGATIVE,
    "training.dataloader_prefetch_factor": COUNT,
    "training.pad_to_multiple_of": COUNT,
    "training.router_aux_loss_coef": NOT_NEGATIVE,
    "training.ddp_timeout": COUNT,
    "training.ddp_bucket_cap_mb": COUNT,
    "training.seed": SEED,
    "training.data_seed": SEED,
    "quantization.llm_int8_threshold": NOT_NEGATIVE,
    "peft.r": COUNT,
    "peft.init_r": COUNT,
    "peft.target_r": COUNT,
    "peft.lora_alpha": POSITIVE,
    "peft.alpha": POSITIVE,
    "peft.lora_dropout": SHARE,
    "peft.vera_dropout": SHARE,
    "peft.rank_dropout": SHARE,
    "peft.module_dropout": SHARE,
    "peft.num_virtual_tokens": COUNT,
    "peft.total_step": COUNT,
    "peft.loftq_config.loftq_iter": COUNT,
}
"""Outside of these nothing can train: dotted key -> range."""

STUDIO = "PEFT Studio's training guide"
ADVISED: dict[str, tuple[Range, str]] = {
    "peft.r": (Range(4, 64), STUDIO),
    "peft.lora_dropout": (Range(0, 0.1), STUDIO),
    "training.learning_rate": (Range(1e-6, 1e-2), STUDIO),
    "training.per_device_train_batch_size": (Range(1, 32), STUDIO),
    "training.gradient_accumulation_steps": (Range(1, 32), STUDIO),
    "training.num_train_epochs": (Range(1, 10), STUDIO),
    "training.warmup_steps": (Range(0, 1000), STUDIO),
}
"""Usual ranges, for advice: dotted key -> (range, where it is stated). `peft.r` and the dropout are LoRA's."""
