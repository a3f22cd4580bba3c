"""The job behind `tune export`: makes outputs from the weights of a run, proves each, and says how it is used.

in:  {"do": "make", "run": path, "which": "handed-over"|"best"|"last"|"N", "to": path|null, "wanted": {...}}
     {"do": "list", ... as make}       what --push would upload
     {"do": "verify", "folder": path}  proves again what lies there
out: {"type": "source"}, then for each output progress and {"type": "output", "output", "path", "bytes", "seconds", "there", "proof"},
     {"type": "usage", "name", "command", "what"}, {"type": "listing"|"pushed"}, {"type": "warning"}, at last {"type": "report"}

source -> adapter -> base + adapter = merged -> GGUF -> quantised GGUF; each is proved against the run; then cards, then push
"""

from __future__ import annotations

from nothing_tune.engine.export.source import Base, Source

__all__ = ["Base", "Source", "main"]


def main() -> int:
    """Answers the request on stdin; returns the exit code."""
    from nothing_tune.engine.export.steps import work
    from nothing_tune.engine.job import answer

    return answer(work)
