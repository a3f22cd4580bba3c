"""The plan: plain data that says all the engine needs, with a reason for each leaf."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from nothing_tune.plan import kwargs

PLAN_VERSION = 2
"""1: a share of the rows was held out by `datasets.train_test_split`, and no repeated row was left out."""
VERSION_1 = {"dedupe": "none", "leakage": "keep"}
"""What `data` meant in a plan of version 1, which had no such keys."""


@dataclass(frozen=True)
class Plan:
    """What the engine executes. JSON-able; the same recipe, GPU and overrides give the same plan anywhere.

    Attributes:
        name: The recipe's name.
        gpu: Facts of the chosen GPU, as in the recipe's `gpu` section (`name`, `slug`, `memory_gb`, `bf16`, ...).
        values: The whole resolved recipe, derived values included; what `show-config` prints. `${oc.env:NAME}` stays unresolved.
        model: `name_or_path`, `revision`, `trust_remote_code`, `chat_template` and `init`: the keyword arguments of
            `from_pretrained` other than `quantization_config` (`dtype` is a name such as `float32`).
        data: Which rows, and how they are prepared; every key of the recipe's `data` with its default filled (see
            `kwargs.DATA`), and `split_seed` as `seed`. `train` and `eval` as the recipe writes them: a text, a mapping with
            `source`, a list of both, or (`eval`) a share; `truncation` is never None.
        quantization: Keyword arguments of BitsAndBytesConfig (dtypes as names); None trains the base as it is loaded.
        peft: Keyword arguments of the PEFT config, `peft_type` included; None is full fine-tuning.
        training: Keyword arguments of SFTConfig, without `output_dir` and `model_init_kwargs`, which the engine adds.
        tracking: `tracker`, `project`, `group`, `tags`, `mode`, ...
        monitor: `early_stopping_patience` and `early_stopping_threshold`; `non_finite_steps`: how many in a row end the run;
            `loss_spike`: times the median of the last 50 logged losses that warn, None for never; `rehearse`: `auto`, True or
            False; `hang_minutes`: without a step, None for no limit.
        checkpoint: `best`: whether the best checkpoint by `metric` is handed over, `metric`, `greater_is_better`; `keep`: the
            number kept next to the best; `max_loss_minutes` of training between two checkpoints, None to save by steps alone;
            `max_overhead`: share of training time that saving by time may take; `deadline_s`: seconds from the engine's start
            until it must have stopped, None for none; `on_commit`: command line that runs after each commit, or None.
        launch: `processes`: how many train together.
        trainable_dtype: Type that trainable weights get after the trainer is built (`float32` for fp16); None leaves them.
        world_size: `launch.processes`; the accumulation in `training` is solved for it, in `values` it stays as written.
        why: Reason of each leaf of `values` and of the compiled arguments: the layer and line, or the rule and its numbers.
    """

    name: str
    gpu: dict[str, Any]
    values: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    quantization: dict[str, Any] | None
    peft: dict[str, Any] | None
    training: dict[str, Any]
    tracking: dict[str, Any]
    monitor: dict[str, Any]
    checkpoint: dict[str, Any]
    trainable_dtype: str | None
    launch: dict[str, Any] = field(default_factory=lambda: {"processes": 1})
    world_size: int = 1
    why: dict[str, str] = field(default_factory=dict)
    version: int = PLAN_VERSION

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data, for plan.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        """The plan in `data`. Keys that this version does not know are passed over; `ValueError` for a newer major version."""
        if int(data.get("version", 0)) > PLAN_VERSION:
            raise ValueError(f"plan version {data['version']} is newer than {PLAN_VERSION}: use a newer nothing-tune")
        known = cls.__dataclass_fields__
        plan = cls(**{k: v for k, v in data.items() if k in known})
        return plan if plan.version >= PLAN_VERSION else plan.of_version(plan.version)

    def of_version(self, version: int) -> Plan:
        """This plan for a run whose plan is of `version`: its rows are chosen as they were when it was started.

        In version 1 no repeated row was left out. How a share was held out then is not known here any more: the engine tells
        by `version`.
        """
        if version >= PLAN_VERSION:
            return self
        full = kwargs.data_settings({"training": self.values.get("training"), "data": {}})
        return replace(self, version=version, data={**full, **self.data, **VERSION_1})
