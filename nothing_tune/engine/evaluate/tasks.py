"""Tasks of the lm-evaluation-harness (extra `nothing-tune[lm-eval]`), with the model that is loaded here; run and base side by side."""

from __future__ import annotations

import difflib
import importlib
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from nothing_tune.data.hub import chain, words
from nothing_tune.engine.evaluate import statistics
from nothing_tune.errors import Problem, TuneError, UsageError
from nothing_tune.outputs.evaluation import Metric, Metrics

EXTRA = "pip install 'nothing-tune[lm-eval]' brings it"
BATCH = 8


def ready(names: Sequence[str]) -> list[Any]:
    """What the harness is given for each name: a name it knows, or the config of a YAML file.

    Paths in `dataset_kwargs.data_files` are taken from the folder of the YAML file.

    Raises:
        UsageError: The harness is not installed, or there is no such task.
    """
    if not names:  # the harness is an extra, and its import takes seconds
        return []
    try:
        importlib.import_module("lm_eval.tasks")
    except ImportError as error:
        raise UsageError("lm-evaluation-harness is not installed, which --tasks needs", hint=EXTRA) from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    known: list[str] | None = None
    out: list[Any] = []
    for name in names:
        path = Path(name).expanduser()
        if path.suffix in (".yaml", ".yml"):
            out.append(_config(path))
            continue
        known = _manager(True).all_tasks if known is None else known
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "name a task of the harness, or a YAML file"
            raise UsageError(f"lm-evaluation-harness has no task {name!r}", hint=hint)
        out.append(name)
    return out


Result = tuple[Metrics, dict[str, list[float]]]
"""Metrics, and for those that are means over examples the value of each example, in order."""


def differences(mine: Result, theirs: Result) -> Metrics:
    """Run minus base of each metric, from pairs where the examples are known."""
    out: Metrics = {}
    for name, value in mine[0].items():
        other = theirs[0].get(name)
        if other is None or value.value is None or other.value is None:
            continue
        pairs = mine[1].get(name), theirs[1].get(name)
        if pairs[0] and pairs[1] and len(pairs[0]) == len(pairs[1]):
            ones = np.ones(len(pairs[0]))
            out[name] = statistics.difference(np.array(pairs[0]), ones, np.array(pairs[1]), ones)
        else:
            out[name] = Metric(value.value - other.value, None, None, value.n)
    return out


def run(model: Any, tokenizer: Any, tasks: Sequence[Any], limit: int | None) -> Result:
    """What a loaded model gives on tasks.

    Args:
        tasks: As `ready` gives them.
        limit: Examples of each task at most.

    Raises:
        UsageError: A task's data cannot be had, or its config cannot be used.
    """

    try:
        wrapped = importlib.import_module("lm_eval.models.huggingface").HFLM(
            pretrained=model, tokenizer=tokenizer, batch_size=BATCH
        )
        found = importlib.import_module("lm_eval").simple_evaluate(
            model=wrapped,
            tasks=list(tasks),
            task_manager=_manager(any(isinstance(task, str) for task in tasks)),
            limit=limit,
            bootstrap_iters=1000,
            random_seed=statistics.SEED,
        )
    except TuneError:
        raise
    except Exception as error:
        raise _problem(error, tasks) from error
    assert found is not None
    return _metrics(found)


@cache
def _manager(shipped: bool) -> Any:
    """What finds tasks; those that the harness brings only where they are asked for, for it reads thousands of files."""
    return importlib.import_module("lm_eval.tasks").TaskManager(include_defaults=shipped)


def _metrics(found: Mapping[str, Any]) -> Result:
    z = NormalDist().inv_cdf(0.5 + statistics.LEVEL / 2)
    out: Metrics = {}
    each: dict[str, list[float]] = {}
    samples = found.get("samples") or {}
    for task, results in found["results"].items():
        mine = samples.get(task) or []
        for key, value in results.items():
            metric, _, filtered = key.partition(",")
            if (
                metric.endswith("_stderr")
                or not isinstance(value, int | float)
                or isinstance(value, bool)
                or not filtered
            ):
                continue
            name = f"task/{task}/{metric}" + ("" if filtered == "none" else f" ({filtered})")
            here = [s for s in mine if s.get("filter", "none") == filtered]
            error = results.get(f"{metric}_stderr,{filtered}")
            reach = z * error if isinstance(error, int | float) else None
            low, high = (None, None) if reach is None else (value - reach, value + reach)
            values = [s[metric] for s in here if isinstance(s.get(metric), int | float | bool)]
            out[name] = Metric(float(value), low, high, len(here) or int(_count(found, task)))
            if values and len(values) == len(here) and abs(float(np.mean(values)) - value) < 1e-6:
                each[name] = [float(v) for v in values]
    return out, each


def _count(found: Mapping[str, Any], task: str) -> int:
    counted = (found.get("n-samples") or {}).get(task) or {}
    return counted.get("effective") or 0


def _config(path: Path) -> dict[str, Any]:
    load_yaml = importlib.import_module("lm_eval.tasks._yaml_loader").load_yaml
    if not path.is_file():
        raise UsageError(f"there is no task at {path.absolute()}", hint="name a YAML file or a task of the harness")
    try:
        config = dict(load_yaml(path, resolve_func=True))
    except Exception as error:  # yaml's errors, and whatever a function that the file names raises while it is imported
        raise UsageError(f"cannot read the task {path}: {words(error)}", hint="mend the file") from error
    lacking = [key for key in ("task", "dataset_path") if not config.get(key)]
    if lacking:
        raise UsageError(
            f"{path} is no task: it has no {' and no '.join(lacking)}",
            hint="`task` is its name; with dataset_path: json and dataset_kwargs: {data_files: FILE} it reads local rows",
        )
    given = config.get("dataset_kwargs")
    if isinstance(given, dict) and "data_files" in given:
        config["dataset_kwargs"] = {**given, "data_files": _beside(given["data_files"], path.parent)}
    return config


def _beside(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _beside(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [_beside(inner, folder) for inner in value]
    if isinstance(value, str) and "://" not in value and not Path(value).is_absolute():
        return str((folder / value).absolute())
    return value


def _problem(error: BaseException, tasks: Sequence[Any]) -> UsageError:
    named = ", ".join(t if isinstance(t, str) else str(t.get("task")) for t in tasks)
    kinds = {type(cause).__name__ for cause in chain(error)}
    if kinds & {"ConnectionError", "OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "MaxRetryError"}:
        return UsageError(
            Problem(
                f"the data of {named} lies on the hub, which cannot be reached",
                hint="run it where there is a network, or name a task file whose data_files are local",
            )
        )
    missing = next((c for c in chain(error) if isinstance(c, FileNotFoundError)), None)
    if missing is not None:
        return UsageError(
            f"the data of {named} is not there: {words(missing)}", hint="look at dataset_kwargs.data_files"
        )
    return UsageError(f"{named} cannot be run: {type(error).__name__}: {words(error)}", hint="look at the task's file")
