"""What has been answered so far, and what follows from it: facts for the defaults, values of the knobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nothing_tune.cli.init import fit
from nothing_tune.cli.init.data import Data
from nothing_tune.cli.init.look import Gpu, Model
from nothing_tune.errors import Problem
from nothing_tune.recipe import defaults


@dataclass
class State:
    """The answers to the questions, parsed, in the order in which they were asked.

    Attributes:
        given: What was answered, by the question's name, as it was typed or given as an option. Knobs, too.
        values: The same, parsed, and nothing else.
        out: The file that is written, where one was named.
        look: Whether data of the hub is looked at.
        force: Whether a file that is there is replaced.
    """

    given: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    out: Path | None = None
    look: bool = True
    force: bool = False

    @property
    def model(self) -> Model:
        """The base model."""
        value: Model = self.values["model"]
        return value

    @property
    def gpu(self) -> Gpu:
        """The GPU to train on."""
        value: Gpu = self.values["gpu"]
        return value

    @property
    def method(self) -> str:
        """Name of the method's layer."""
        return str(self.values["method"])

    @property
    def data(self) -> Data:
        """The training data."""
        value: Data = self.values["data"]
        return value

    @property
    def file(self) -> Path:
        """The file that is written: the one that was named, else one called as the recipe."""
        return self.out or Path(f"{self.values['name']}.yaml")


def facts(state: State) -> defaults.Facts:
    """What the defaults are computed from."""
    data, share = state.data, state.values.get("eval")
    model, gpu, method = state.model, state.gpu, state.method
    more = _overrides(state)

    def fits(rows: int, length: int) -> bool | None:
        return fit.surely(fit.needs(model, method, gpu, rows, length, more), gpu)

    long = data.share_of_lengths(0.99)
    return defaults.Facts(
        method=method,
        goal=str(state.values["goal"]),
        parameters_b=model.parameters_b,
        rows=data.rows,
        about=data.about,
        usual=None if data.mean is None else data.mean / defaults.BYTES_A_TOKEN,
        long=None if long is None else long / defaults.BYTES_A_TOKEN,
        context=model.context,
        kind=data.kind,
        share=share if isinstance(share, float) else 0.0,
        evaluates=share is not None,
        fits=fits if gpu.kind == "cuda" else None,
    )


def _overrides(state: State) -> tuple[str, ...]:
    """What was said of the adapter's size and of packing, which memory follows."""
    rank, packing = state.values.get("rank"), state.values.get("packing")
    words = (f"peft.r={rank}",) if rank and state.method in defaults.LORA_LIKE else ()
    return (*words, "training.packing=true") if packing else words


def knobs(state: State) -> dict[str, defaults.Default]:
    """The value of each knob that the method has, with its reason; those that were given say so."""
    known = facts(state)
    must = {one.key: one for one in fit.musts(state.model, state.method)}
    chosen: dict[str, Any] = {}
    out: dict[str, defaults.Default] = {}
    for name, knob in defaults.knobs(state.method).items():
        if knob.key in must:
            out[name] = defaults.Default(must[knob.key].value, must[knob.key].why)
        elif name in state.given:
            out[name] = defaults.Default(state.values[name], "your choice")
        else:
            out[name] = knob.default(known, chosen)
        chosen[name] = out[name].value
    return out


def refused(state: State, name: str, value: Any) -> Problem | None:
    """What is said of a knob's `value` that this model cannot have; None for all others."""
    must = next((m for m in fit.musts(state.model, state.method) if m.key == defaults.KNOBS[name].key), None)
    if must is None or must.value == value:
        return None
    needed = defaults.shown(must.value)
    return Problem(f"--{name} must be {needed} for {state.model.name}: {must.why}", hint=f"leave --{name} out")


def steps(state: State, chosen: Mapping[str, defaults.Default]) -> tuple[int, int] | None:
    """`(steps an epoch, steps in all)`, about; None where the rows are unknown."""
    return defaults.steps(facts(state), {name: one.value for name, one in chosen.items()})
