"""Makes run directories, starts and stops the engine on them, and decides what may change when a run goes on."""

from nothing_tune.run.control import alive, holder, interrupt, start, stop
from nothing_tune.run.fork import Fork, fork
from nothing_tune.run.missing import missing, no_prompts, untracked
from nothing_tune.run.prepare import compose, prepare
from nothing_tune.run.resume import resume
from nothing_tune.run.verify import Report, verify

__all__ = [
    "Fork",
    "Report",
    "alive",
    "compose",
    "fork",
    "holder",
    "interrupt",
    "missing",
    "no_prompts",
    "prepare",
    "resume",
    "start",
    "stop",
    "untracked",
    "verify",
]
