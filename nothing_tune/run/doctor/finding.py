"""One line of the doctor's page, and the guard that every check runs under."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

OK, WARN, FAIL, SKIP = "ok", "warn", "fail", "skip"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        group: Heading of the page, such as `GPU`.
        name: What was looked at, in one or two words.
        status: `ok`; `warn`, a run may suffer; `fail`, a run would fail; `skip`, not looked at or not there, which is no fault.
        what: What was found, one sentence without a full stop.
        cure: What to do about it, best a command to copy; empty for `ok` and `skip`.
    """

    group: str
    name: str
    status: str
    what: str
    cure: str = ""

    def to_json(self) -> dict[str, Any]:
        """The finding as plain data."""
        return asdict(self)


Found = Finding | Iterable[Finding] | None
"""What a check returns: one finding, several, or none."""


def guarded(group: str, name: str, check: Callable[[], Found]) -> list[Finding]:
    """The findings of `check`; where it raises, one that says why it could not be done. Never raises."""
    try:
        found = check()
        if found is None:
            return []
        return [found] if isinstance(found, Finding) else list(found)
    except Exception as error:  # a doctor that falls ill helps nobody
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        what = f"this could not be looked at: {type(error).__name__}{f': {said}' if said else ''}"
        return [Finding(group, name, WARN, what, "look at it by hand")]


def gib(size: float) -> str:
    """Bytes as `3.1 GiB`; below one GiB as MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
