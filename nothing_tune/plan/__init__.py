"""The plan: a recipe compiled into plain data. Pure: no torch, no OmegaConf, no clock, no environment, no disk."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from nothing_tune.errors import PlanError
from nothing_tune.plan import batch, kwargs, precision
from nothing_tune.plan.model import Plan
from nothing_tune.recipe.model import Recipe, leaves

__all__ = ["Plan", "make_plan"]


def make_plan(recipe: Recipe) -> Plan:
    """Compiles `recipe` for its GPU: derives what it leaves open, and gives every value its reason."""
    values = copy.deepcopy(recipe.values)
    why = {key: _origin(recipe, key) for key in leaves(values)}
    for key, (value, rule) in {
        **precision.derive(values),
        **_tracking(values),
        **_names(values, recipe),
        **_data(values),
    }.items():
        _put(values, key, value)
        why[key] = f"derived: {rule}"
    training, managed = kwargs.training_kwargs(values)
    processes = int((values.get("launch") or {}).get("processes") or 1)
    training, spread_over = _spread(recipe, training, processes)
    quantization = values.get("quantization") or None
    peft = values.get("peft") or None
    return Plan(
        name=recipe.name,
        gpu=values.get("gpu") or {},
        values=values,
        model=kwargs.model_kwargs(values),
        data=kwargs.data_settings(values),
        quantization=copy.deepcopy(quantization),
        peft=copy.deepcopy(peft),
        training=training,
        tracking=copy.deepcopy(values.get("tracking") or {"tracker": "none"}),
        monitor=kwargs.monitor_settings(values),
        checkpoint=kwargs.checkpoint_settings(values),
        trainable_dtype=precision.trainable_dtype(values.get("training") or {}),
        launch={"processes": processes},
        world_size=processes,
        why={**why, **managed, **spread_over},
    )


def _spread(recipe: Recipe, training: dict[str, Any], processes: int) -> tuple[dict[str, Any], dict[str, str]]:
    """`(training, why)` for several processes: micro batch x accumulation x processes is what was written for one."""
    if processes == 1:
        return training, {}
    try:
        solved = {**training, **batch.spread(training, processes)}
    except PlanError as error:
        origin = recipe.origins.get("launch.processes")
        place, layer = (origin.place, str(origin)) if origin else (None, "")
        raise PlanError(*(replace(p, place=place, layer=layer) for p in error.problems)) from error
    micro, steps = solved[batch.MICRO], solved[batch.ACCUMULATION]
    rule = f"{micro} x {steps} x {processes} processes = the {micro * steps * processes} rows a step that are written"
    changed = [key for key in (batch.MICRO, batch.ACCUMULATION) if solved[key] != training.get(key)]
    return solved, {f"SFTConfig.{key}": f"derived: {rule}" for key in changed}


def _tracking(values: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """`tracking.tracker` and `training.report_to` say the same: the one that is written gives the other."""
    tracker = (values.get("tracking") or {}).get("tracker")
    written = (values.get("training") or {}).get("report_to")
    if isinstance(written, list):
        written = written[0] if len(written) == 1 else None
    if tracker in (None, "none") and written not in (None, "none"):
        return {"tracking.tracker": (written, "training.report_to names it")}
    if written is None:
        return {"training.report_to": (tracker or "none", "tracking.tracker names it")}
    return {}


def _names(values: dict[str, Any], recipe: Recipe) -> dict[str, tuple[Any, str]]:
    if (values.get("training") or {}).get("run_name") is None:
        return {"training.run_name": (recipe.name, "the recipe's name")}
    return {}


def _data(values: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    if (values.get("data") or {}).get("truncation") is None:
        return {"data.truncation": kwargs.truncation(values)}
    return {}


def _origin(recipe: Recipe, key: str) -> str:
    origin = recipe.origins.get(key)
    if origin is None:
        return ""
    return f"{origin.layer} ({origin.place})" if origin.place else origin.layer


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    node = values
    for part in parents:
        node = node.setdefault(part, {})
    node[last] = value
