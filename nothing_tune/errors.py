"""Everything that can go wrong, and the exit code it ends with.

    TuneError                     1   a bug, when nothing more precise fits
    ├── UsageError                2   the command line, an unknown name, a missing file
    │   └── RecipeError           2   one or more problems in a recipe's layers
    ├── PlanError                 3   the plan is impossible: it does not fit, or cannot train
    ├── LaunchError               4   the engine could not be started
    ├── RunError                  5   the run failed
    ├── ProofFailed               7   an export is not what was trained
    ├── ResumeRefused            65   data, recipe or versions are not those of the run
    ├── Diverged                 70   loss or gradients are no longer finite
    ├── OutOfMemory              71   out of memory, after every retry
    ├── StorageError             74   the disk is full or cannot be written
    ├── Preempted                75   stopped after a committed checkpoint: try again
    ├── Busy                     77   another process holds the run
    └── Stopped                 130   stopped by the user

A `TuneError` is shown as: what, where (file:line:column), which layer set it, and a hint. Only `cli` catches it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Place:
    """A position in a text file: `line` and `column` count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where: what a person needs to mend it.

    Attributes:
        what: One sentence without a full stop, naming the key and the value.
        key: Dotted key such as `training.learning_rate`; empty when no key is concerned.
        place: Where the value was set; None when it comes from no file.
        layer: `layer 3 of 5: gpus/l4`; empty when it comes from no layer.
        hint: The cure, one sentence; empty when there is none.
        severity: `error` stops the command, `advice` does not.
    """

    what: str
    key: str = ""
    place: Place | None = None
    layer: str = ""
    hint: str = ""
    severity: str = "error"

    def lines(self) -> list[str]:
        """The problem as it is shown without colour: what, then one indented line each for where, set by, hint."""
        out = [f"{self.severity}: {self.what}"]
        if self.place:
            out.append(f"  where: {self.place}")
        if self.layer:
            out.append(f"  set by: {self.layer}")
        if self.hint:
            out.append(f"  hint: {self.hint}")
        return out

    def to_json(self) -> dict[str, Any]:
        """The problem as plain data; `place` is null or `{file, line, column}`."""
        return asdict(self)


class TuneError(Exception):
    """Base of all errors of nothing-tune. `problems` holds at least one `Problem`."""

    exit_code = 1

    def __init__(self, *problems: Problem | str, hint: str = "") -> None:
        self.problems = tuple(p if isinstance(p, Problem) else Problem(p, hint=hint) for p in problems)
        super().__init__("\n".join(line for p in self.problems for line in p.lines()))


class UsageError(TuneError):
    """The command line asks for something that is not there."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe's layers cannot be read, merged or believed; carries every problem found."""


class PlanError(TuneError):
    """The plan is impossible: it does not fit, or cannot train."""

    exit_code = 3


class LaunchError(TuneError):
    """The engine could not be started."""

    exit_code = 4


class RunError(TuneError):
    """The run failed for a reason that is none of the others."""

    exit_code = 5


class ProofFailed(TuneError):
    """An export is not what was trained, or that could not be proved."""

    exit_code = 7


class ResumeRefused(TuneError):
    """Data, recipe or versions differ from those that the run was started with."""

    exit_code = 65


class Diverged(TuneError):
    """Loss or gradients are no longer finite."""

    exit_code = 70


class OutOfMemory(TuneError):
    """Out of memory, after every retry."""

    exit_code = 71


class StorageError(TuneError):
    """The disk is full, read-only, or cannot be written."""

    exit_code = 74


class Preempted(TuneError):
    """Stopped from outside after a committed checkpoint: the same command continues."""

    exit_code = 75


class Busy(TuneError):
    """Another process holds the run."""

    exit_code = 77


class Stopped(TuneError):
    """Stopped by the user."""

    exit_code = 130
