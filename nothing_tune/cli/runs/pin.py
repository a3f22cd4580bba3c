"""`tune runs pin`: keeps a checkpoint whatever happens."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nothing_tune.cli import console, options

HELP = "Pins a checkpoint: it is not removed to make place for newer ones, and its run is not removed either."
EXAMPLES = (
    ("tune runs pin latest", "the newest complete checkpoint of the newest run"),
    ("tune runs pin latest --remove", "let go of all that are pinned"),
)
EXITS = (0, 2, 74)


def complete_steps(ctx: typer.Context, incomplete: str) -> list[str]:
    """Steps of the checkpoints of the run that is named before, for the shell."""
    from nothing_tune.artifacts import checkpoint, find_run, runs_root

    run, _ = console.outcome(
        lambda: find_run(str(ctx.params.get("run_id") or "latest"), runs_root(ctx.params.get("runs_dir")))
    )
    steps = checkpoint.steps(run.checkpoints) if run else []
    return [str(step) for step in steps if str(step).startswith(incomplete)]


def pin(
    run_id: options.RunId,
    step: Annotated[
        int | None,
        typer.Option(
            "--checkpoint",
            metavar="STEP",
            help="The checkpoint's step [default: the newest complete one; with --remove all that are pinned].",
            autocompletion=complete_steps,
        ),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Let go of what is pinned.")] = False,
    runs_dir: options.RunsDir = None,
    json: options.Json = False,
) -> None:
    """Pins or lets go, and says what is pinned then."""
    from nothing_tune.artifacts import checkpoint, find_run, runs_root
    from nothing_tune.run import pins

    run = find_run(run_id, runs_root(runs_dir))
    before = set(checkpoint.pinned(run.path))
    kept = pins.unpin(run, step) if remove else pins.pin(run, step)
    if json:
        console.out_json({"run": run.id, "pinned": kept})
        return
    if remove:
        gone = sorted(before - set(kept))
        said = f"let go of {_names(gone)}" if gone else "nothing was pinned"
    else:
        said = f"pinned {_names(sorted(set(kept) - before))}" if set(kept) - before else "it is pinned already"
    console.out(f"{run.id}: {said}; pinned now: {_names(kept) if kept else 'none'}")


def _names(steps: Any) -> str:
    return ", ".join(f"checkpoint-{step}" for step in steps)
