"""A command line of `tune` in this process: quicker than a process of its own by what Python and the libraries take to start."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
from pathlib import Path
from unittest import mock

from nothing_tune.cli.app import main

ROOT = Path(__file__).parents[1]


def tune(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs `arguments` in `folder`, as wide as a pipe, with runs in its `runs`, and `env` besides the environment."""
    known = {"COLUMNS": "100", "PYTHONPATH": str(ROOT), "TUNE_RUNS_DIR": str(folder / "runs")}
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, {**known, **env}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main(arguments)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
