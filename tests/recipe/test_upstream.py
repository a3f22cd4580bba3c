"""The snapshot of upstream's options: as read from the installed sources, and as the libraries themselves have them."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import subprocess
import sys
from typing import Any

import pytest

from nothing_tune.recipe import upstream, upstream_snapshot, upstream_source


def test_snapshot_equals_the_installed_sources() -> None:
    stored = json.loads(upstream.SNAPSHOT.read_text())
    read = {
        kind: {name: upstream_snapshot.stored(row) for name, row in rows.items()}
        for kind, rows in upstream_source.read_all().items()
    }
    assert read == stored["options"], "run: python -m nothing_tune.recipe.upstream_snapshot"
    assert sum(map(len, read.values())) > 900


def test_every_option_of_sft_and_lora_is_documented() -> None:
    for kind, count in (("SFTConfig", 135), ("LORA", 42), ("BitsAndBytesConfig", 10)):
        options = upstream.options(kind)
        assert len(options) == count
        assert [o.name for o in options.values() if not o.doc] == []


def test_choices_come_from_the_sources() -> None:
    training = upstream.options("SFTConfig")
    assert training["eval_strategy"].choices == ("no", "steps", "epoch")
    assert training["packing_strategy"].choices == ("bfd", "bfd_split", "wrapped")
    assert "cosine" in training["lr_scheduler_type"].choices
    assert "paged_adamw_8bit" in training["optim"].choices
    assert upstream.options("LORA")["bias"].choices == ("none", "all", "lora_only")
    assert upstream.options("LORA")["eva_config"].fields == "EvaConfig"
    assert "rho" in upstream.options("EvaConfig")


def test_another_version_is_read_from_its_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = upstream._snapshot()
    for function in (upstream.options, upstream.peft_types, upstream._as_pinned, upstream._has_version):
        function.cache_clear()
    monkeypatch.setattr(
        upstream, "_snapshot", lambda: {**stored, "versions": dict.fromkeys(stored["versions"], "0.0.1")}
    )
    try:
        assert upstream.options("SFTConfig")["learning_rate"].default == 2e-5
        assert "LORA" in upstream.peft_types()
    finally:
        for function in (upstream.options, upstream.peft_types, upstream._as_pinned, upstream._has_version):
            function.cache_clear()


def test_reading_the_snapshot_imports_nothing_of_upstream() -> None:
    code = (
        "import sys; from nothing_tune.recipe import upstream; upstream.options('SFTConfig')['seed'].doc;"
        "print(sorted({'torch', 'transformers', 'trl', 'peft', 'importlib.metadata'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.engine
def test_snapshot_equals_the_imported_libraries() -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from transformers import BitsAndBytesConfig
    from trl import SFTConfig

    classes: dict[str, Any] = {"SFTConfig": SFTConfig}
    classes |= {str(getattr(k, "value", k)): v for k, v in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    assert tuple(sorted(set(classes) - {"SFTConfig"})) == upstream.peft_types()
    compared = 0
    for kind, cls in classes.items():
        real = {f.name: f for f in dataclasses.fields(cls) if f.init}
        options = upstream.options(kind)
        assert list(options) == list(real), kind
        for name, option in options.items():
            field = real[name]
            default: Any = field.default
            if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            assert option.required == (default is dataclasses.MISSING), (kind, name)
            if isinstance(default, enum.Enum):
                default = default.value
            if dataclasses.is_dataclass(default) or option.required:
                continue  # a nested config built by default, or nothing
            assert option.default == (list(default) if isinstance(default, tuple | set) else default), (kind, name)
            compared += 1
    parameters = dict(inspect.signature(BitsAndBytesConfig.__init__).parameters)
    own = {k: p.default for k, p in parameters.items() if k not in ("self", "kwargs")}
    assert {k: o.default for k, o in upstream.options("BitsAndBytesConfig").items()} == own
    assert compared > 800


@pytest.mark.engine
def test_choices_equal_the_imported_enumerations() -> None:
    from peft.tuners.lora.config import LoraConfig
    from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType
    from transformers.training_args import OptimizerNames, trainer_log_levels

    training = upstream.options("SFTConfig")
    for name, values in (
        ("optim", OptimizerNames),
        ("lr_scheduler_type", SchedulerType),
        ("eval_strategy", IntervalStrategy),
        ("logging_strategy", IntervalStrategy),
        ("save_strategy", SaveStrategy),
    ):
        assert training[name].choices == tuple(v.value for v in values)
    assert set(training["log_level"].choices) == set(trainer_log_levels)
    for choice in upstream.options("LORA")["bias"].choices:
        LoraConfig(bias=choice)
