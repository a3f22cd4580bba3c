"""Loads the rows that a plan trains on: local files or hub data sets, checked, split, and as `datasets.Dataset`.

Every row of a local file is checked before anything heavy happens, and an error names file and line. Rows keep exactly
the keys that their file gives them (nested objects of different shapes are not padded with nulls).
"""

from __future__ import annotations

import csv
import glob
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nothing_tune import formats
from nothing_tune.engine.hub import hub_problem
from nothing_tune.errors import Problem, UsageError

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
IN_MEMORY_BYTES = 512 * 2**20
"""Local sources up to this size, in bytes, are read row by row; larger ones are memory-mapped and checked while they stream."""
MAX_PROBLEMS = 10
"""Bad rows shown before the rest is only counted."""


@dataclass(frozen=True)
class Data:
    """What is trained on. `eval` is None when evaluation is off; `format` is the name of the row format."""

    train: Dataset
    eval: Dataset | None
    format: str


def load(settings: dict[str, Any], evaluate: bool) -> Data:
    """Loads `settings` (the plan's `data`: train, eval, format, max_samples, seed); the split happens only with `evaluate`.

    Raises:
        UsageError: A source is missing, no format fits, or rows are bad; every problem found in a source at once.
    """
    train, kind = _source(settings.get("train"), "data.train", settings.get("format") or "auto")
    limit = settings.get("max_samples")
    if limit:
        train = train.select(range(min(int(limit), len(train))))
    share = settings.get("eval")
    if not evaluate:
        return Data(train, None, kind)
    if isinstance(share, str | list):
        held_out, _ = _source(share, "data.eval", kind)
        if limit:
            held_out = held_out.select(range(min(int(limit), len(held_out))))
        return Data(train, held_out, kind)
    if not share:
        raise UsageError(
            "evaluation is on, but data.eval names no rows",
            hint="set data.eval to a share such as 0.1, or to a file, or training.eval_strategy to no",
        )
    if len(train) < 2:
        raise UsageError(
            f"{len(train)} row cannot be split into training and evaluation rows",
            hint="give more rows, or set training.eval_strategy=no",
        )
    parts = train.train_test_split(test_size=share, seed=int(settings.get("seed", 42)))
    return Data(parts["train"], parts["test"], kind)


def _source(source: Any, key: str, kind: str) -> tuple[Dataset, str]:
    """The rows of one source or a list of them, and the name of their format."""
    if not source:
        raise UsageError(
            Problem("no data is named", key=key, hint=f"set {key} to a file or the name of a data set on the hub")
        )
    names = [str(s) for s in (source if isinstance(source, list) else [source])]
    files: list[Path] = []
    hub: list[str] = []
    for name in names:
        found = _files(name)
        files += found
        if not found:
            if _looks_local(name):
                raise UsageError(_missing(name, key))
            hub.append(name)
    if files and hub:
        raise UsageError(
            Problem(
                f"local files and hub data sets are mixed: {', '.join(names)}", key=key, hint="use one or the other"
            )
        )
    if hub:
        return _from_hub(hub, key, kind)
    if sum(f.stat().st_size for f in files) > IN_MEMORY_BYTES:
        return _from_large_files(files, kind)
    return _from_files(files, kind)


def _from_files(files: list[Path], kind: str) -> tuple[Dataset, str]:
    from datasets import Dataset

    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    count = 0
    checker: formats.Format | None = None if kind == "auto" else formats.find(kind)
    for path in files:
        for place, row in _rows(path):
            if isinstance(row, str):
                what: str | None = row
            elif not row:
                continue
            else:
                checker = checker or formats.detect(list(row), row, str(path))
                what = checker.check(row)
            if what is None and isinstance(row, dict):
                rows.append(row)
                continue
            count += 1
            if len(problems) < MAX_PROBLEMS:
                problems.append(Problem(f"{path}{place}: {what}"))
    if count > len(problems):
        problems.append(Problem(f"{count - len(problems)} more rows are bad"))
    if problems:
        wants = f"a {checker.NAME} row needs {checker.WANTS}" if checker else "each line is one JSON object"
        raise UsageError(*problems[:-1], Problem(problems[-1].what, hint=wants))
    if not rows or checker is None:
        raise UsageError(f"{', '.join(map(str, files))} has no rows")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return Dataset.from_dict(
        {c: [row.get(c) for row in rows] for c in columns}, on_mixed_types="use_json"
    ), checker.NAME


def _from_large_files(files: list[Path], kind: str) -> tuple[Dataset, str]:
    from datasets import load_dataset

    builder = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}[files[0].suffix]
    data = load_dataset(builder, data_files=[str(f) for f in files], split="train")
    return data, _checked(data, kind, str(files[0]))


def _from_hub(names: list[str], key: str, kind: str) -> tuple[Dataset, str]:
    from datasets import DatasetDict, concatenate_datasets, load_dataset

    parts = []
    for name in names:
        repo, _, split = name.partition(":")
        try:
            data = load_dataset(repo, split=split or None)
        except Exception as error:  # datasets raises a dozen kinds; hub_problem tells them apart
            raise UsageError(hub_problem(error, name, key, what="data set")) from error
        if isinstance(data, DatasetDict):
            if "train" not in data:
                raise UsageError(
                    Problem(
                        f"data set {name} has no split `train`, only {', '.join(data)}",
                        key=key,
                        hint=f"write {repo}:SPLIT",
                    )
                )
            data = data["train"]
        parts.append(data)
    whole = concatenate_datasets(parts) if len(parts) > 1 else parts[0]
    return whole, _checked(whole, kind, ", ".join(names))


def _checked(data: Dataset, kind: str, source: str) -> str:
    """The format of `data`, every row checked; `UsageError` names the rows that are bad."""
    if len(data) == 0:
        raise UsageError(f"{source} has no rows")
    checker = formats.detect(data.column_names, data[0], source) if kind == "auto" else formats.find(kind)
    problems = []
    for number, row in enumerate(data):
        what = checker.check(row)
        if what:
            problems.append(Problem(f"{source}, row {number}: {what}"))
            if len(problems) >= MAX_PROBLEMS:
                break
    if problems:
        raise UsageError(*problems)
    return checker.NAME


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """`(place, row)` for each row of a file; the row is a string that says what is wrong where it cannot be read."""
    if path.suffix == ".parquet":
        from datasets import Dataset

        for number, row in enumerate(Dataset.from_parquet(str(path), keep_in_memory=True)):
            yield f", row {number}", row
        return
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            if path.suffix == ".csv":
                reader = csv.DictReader(handle)
                for fields in reader:
                    yield f":{reader.line_num}", dict(fields)
            elif path.suffix == ".json":
                yield from _json_rows(handle.read())
            else:
                for number, line in enumerate(handle, 1):
                    if line.strip():
                        yield f":{number}", _json_row(line)
    except UnicodeDecodeError as error:
        yield "", f"not UTF-8 text ({error.reason} at byte {error.start})"
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _json_row(line: str) -> dict[str, Any] | str:
    try:
        row = json.loads(line)
    except ValueError as error:
        return f"not JSON ({error})"
    return row if isinstance(row, dict) else f"a row must be a JSON object, this is a {type(row).__name__}"


def _json_rows(text: str) -> Iterator[tuple[str, dict[str, Any] | str]]:
    try:
        data = json.loads(text)
    except ValueError as error:
        for number, line in enumerate(text.splitlines(), 1):  # JSON lines under another name
            if line.strip():
                row = _json_row(line)
                if isinstance(row, str):
                    yield "", f"not JSON ({error})"
                    return
                yield f":{number}", row
        return
    if isinstance(data, dict):
        lists = [v for v in data.values() if isinstance(v, list)]
        data = lists[0] if len(lists) == 1 else [data]
    for number, row in enumerate(data):
        yield f", row {number}", row if isinstance(row, dict) else "a row must be a JSON object"


def _files(name: str) -> list[Path]:
    """The local files that `name` means: itself, those of a folder, or those a glob matches; empty when there is none."""
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise UsageError(f"{name} is no data file that is known", hint=f"data files end in {', '.join(SUFFIXES)}")
        return [path]
    found = sorted(path.iterdir()) if path.is_dir() else sorted(map(Path, glob.glob(str(path), recursive=True)))
    return [f for f in found if f.suffix in SUFFIXES and f.is_file()]


def _looks_local(name: str) -> bool:
    return (
        name.startswith((".", "/", "~"))
        or name.endswith(SUFFIXES)
        or "*" in name
        or name.count("/") > 1
        or Path(name).exists()
    )


def _missing(name: str, key: str) -> Problem:
    path = Path(name).expanduser()
    where = (
        f"looked for {path.absolute()}"
        if not path.is_dir()
        else f"{path.absolute()} holds no file that ends in {', '.join(SUFFIXES)}"
    )
    return Problem(
        f"there is no data at {name}: {where}",
        key=key,
        hint="name a file or folder that exists, or add --with models/nano to rehearse on the recipe's sample",
    )
