"""`python -m nothing_tune.engine RUN_DIR`: trains a run under a supervisor, see `supervisor`, then exports what its recipe names.

Light: it never imports torch.

`python -m nothing_tune.engine chat PATH [--base] [--weights FOLDER]` answers messages over JSON lines, see `chat`;
`python -m nothing_tune.engine serve` lays out a folder that a server can load, see `chat.served`;
`python -m nothing_tune.engine inspect` looks at the rows of a plan, see `inspect`;
`python -m nothing_tune.engine simulate` runs a step on fake tensors to know its memory, see `simulate`;
`python -m nothing_tune.engine generate` makes rows with a generator, see `generate.job`;
`python -m nothing_tune.engine export` makes and proves what leaves a run, see `export`;
`python -m nothing_tune.engine evaluate` measures a model on rows and tasks, see `evaluate`;
`python -m nothing_tune.engine probe` tries the libraries, see `probe`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nothing_tune.artifacts import Run
from nothing_tune.artifacts.attempts import hold
from nothing_tune.engine.export.after import after
from nothing_tune.engine.supervisor import died, supervise
from nothing_tune.errors import TuneError

__all__ = ["died", "hold", "main", "supervise"]

USAGE = "usage: python -m nothing_tune.engine RUN_DIR\n       python -m nothing_tune.engine chat PATH [--base] [--weights FOLDER]"


def main(arguments: list[str]) -> int:
    """Runs the job that `arguments` name; returns the exit code."""
    if arguments and arguments[0] == "chat" and len(arguments) >= 2:
        from nothing_tune.engine import chat

        folder = arguments[arguments.index("--weights") + 1] if "--weights" in arguments[2:-1] else None
        return chat.main(
            Path(arguments[1]), base="--base" in arguments[2:], weights=Path(folder).absolute() if folder else None
        )
    if arguments == ["serve"]:
        from nothing_tune.engine.chat.served import main as lay_out

        return lay_out()
    if arguments == ["inspect"]:
        from nothing_tune.engine import inspect

        return inspect.main()
    if arguments == ["simulate"]:
        from nothing_tune.engine import simulate

        return simulate.main()
    if arguments == ["generate"]:
        from nothing_tune.engine.generate import job

        return job.main()
    if arguments == ["rehearse"]:
        from nothing_tune.engine import rehearse

        return rehearse.main()
    if arguments == ["export"]:
        from nothing_tune.engine import export

        return export.main()
    if arguments == ["evaluate"]:
        from nothing_tune.engine import evaluate

        return evaluate.main()
    if arguments == ["probe"]:
        from nothing_tune.engine import probe

        return probe.main()
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        return 2
    try:
        run = Run(Path(arguments[0]).absolute())
        return supervise(run) or after(run)
    except TuneError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
