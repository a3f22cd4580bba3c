"""The command line: one command a file, `app.py` finds them, `console.py` says how things look."""

from __future__ import annotations


def main() -> None:
    """Entry of the console scripts `tune` and `nothing-tune`: runs the command line and exits with its code."""
    import gc

    gc.set_threshold(100_000)  # most commands end before garbage matters; collecting it takes 5 % of their time
    from nothing_tune.cli.app import main as run_program

    raise SystemExit(run_program())
