"""Reads texts, whole numbers and numbers of the command line without pydantic, whose import costs more than most commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import typer

KINDS = {str: "a text", int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class Reader:
    """Stands in for typer's own conversion of one parameter: `kind` is `str`, `int` or `float`, or the kind of each item."""

    kind: type
    many: bool
    least: float | None
    most: float | None

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value of a parameter; `typer.BadParameter` for what is no such number or out of its range."""
        if value is None:
            return () if self.many else None
        return [self._one(v, param, ctx) for v in value] if self.many else self._one(value, param, ctx)

    def _one(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            number = self.kind(value)
        except ValueError:
            raise typer.BadParameter(f"{value!r} is not {KINDS[self.kind]}", ctx=ctx, param=param) from None
        if self.kind is str:
            return number
        if number != number or (self.least is not None and number < self.least):
            raise typer.BadParameter(f"{value} is less than {self.least:g}", ctx=ctx, param=param)
        if self.most is not None and number > self.most:
            raise typer.BadParameter(f"{value} is more than {self.most:g}", ctx=ctx, param=param)
        return number


@dataclass(frozen=True)
class Patient:
    """Leaves a parameter of any other kind to typer (`full` gives its conversion), once it has a value at all."""

    full: Callable[[], Any]

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """None as it is, else what typer makes of it."""
        return None if value is None else self.full().coerce(value, param=param, ctx=ctx)


def lighten(command: Any) -> None:
    """Gives the parameters of a command, and of its commands, a reader that is light to load."""
    for param in command.params:
        lighten_param(param)
    for child in getattr(command, "commands", {}).values():
        lighten(child)


def lighten_param(param: Any) -> None:
    """Gives one parameter a `Reader` where one can read it, else a `Patient`."""
    if "get_runtime_param" in vars(param):
        return
    described = param.type_descriptor
    many = described.annotation == list[str]
    kind = str if many else described.annotation
    reader: Reader | Patient
    if kind in KINDS:
        info = described.parameter_info
        reader = Reader(kind, many, getattr(info, "min", None), getattr(info, "max", None))
    else:
        reader = Patient(param.get_runtime_param)
    param.get_runtime_param = lambda: reader
