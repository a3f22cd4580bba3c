"""The run directory: its files, how they are written, how a run is found. Imports nothing heavy.

    recipe.yaml  plan.json  machine.json  lock.json  events.jsonl  status.json  result.json  engine.log
    checkpoints/checkpoint-N/  adapter/  tracking/

Whole files are replaced atomically (temp file beside, fsync, replace); `events.jsonl` is only appended to, and a torn
last line is skipped. States of a run: `starting`, `running`, `done`, `failed`, `stopped`, `preempted`.
"""

from nothing_tune.artifacts.files import append_event, finite, fsync_dir, read_json, write_json, write_text
from nothing_tune.artifacts.runs import (
    FINAL_STATES,
    HEARTBEAT_S,
    LOST_AFTER_S,
    RUN_ID,
    Run,
    check_name,
    create_run,
    find_own,
    find_run,
    new_run_id,
    run_ids,
    runs_root,
)

__all__ = [
    "FINAL_STATES",
    "HEARTBEAT_S",
    "LOST_AFTER_S",
    "RUN_ID",
    "Run",
    "append_event",
    "check_name",
    "create_run",
    "find_own",
    "find_run",
    "finite",
    "fsync_dir",
    "new_run_id",
    "read_json",
    "run_ids",
    "runs_root",
    "write_json",
    "write_text",
]
