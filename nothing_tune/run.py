"""Makes run directories, starts and stops the engine on them, and decides what may change when a run goes on."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nothing_tune import __version__
from nothing_tune.artifacts import Run, create_run, new_run_id, write_json, write_text
from nothing_tune.errors import Busy, Problem, ResumeRefused, UsageError
from nothing_tune.launchers import local
from nothing_tune.plan import Plan, make_plan
from nothing_tune.recipe import library, load_recipe, merge
from nothing_tune.recipe.model import Recipe, leaves, lookup

PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate", "tokenizers", "numpy")
"""Packages whose versions are kept in lock.json."""
HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?(:[\w.+-]+)?$")
"""What the name of a data set on the Hub looks like, with the split that may follow it."""
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")

FREE = (
    "tracking.", "training.logging_", "training.report_to", "training.run_name", "training.save_steps", "training.save_strategy",
    "training.save_total_limit", "checkpoint.", "training.dataloader_num_workers", "training.dataloader_pin_memory",
    "training.dataloader_prefetch_factor", "training.dataloader_persistent_workers", "description", "name", "model.facts", "gpu.",
    "data.sample", "model.license", "model.gated", "model.source", "model.as_of", "model.parameters_b",
)  # fmt: skip
"""Keys (or their beginnings) that may change when a run continues: they touch no weight."""
EXTEND_ONLY = ("training.num_train_epochs", "training.max_steps")
"""Keys that may grow when a run continues."""


def prepare(recipe: Recipe, plan: Plan, *, root: Path, name: str | None = None, continue_: bool = False) -> Run:
    """Checks that the run can start, and makes its directory; with `continue_` an existing run `name` is taken up instead.

    Raises:
        UsageError: Data, model or tracker key is missing (all problems at once), or the name is taken.
        ResumeRefused: The run to continue was started with other settings.
        StorageError: `root` cannot be written.
    """
    if name and continue_ and (root / name / "plan.json").is_file():
        run = Run(root / name)
        _refuse_changes(run, plan)
        if _grown(Plan.from_json(run.plan()), plan):
            (run.path / "result.json").unlink(missing_ok=True)
            write_json(run.path / "status.json", {**run.status(), "state": "starting", "heartbeat": time.time()})
            _write(run, recipe, plan)
        return run
    problems = missing(recipe, plan)
    if problems:
        raise UsageError(*problems)
    run = create_run(root, name or new_run_id(plan.name, str(plan.gpu.get("name", "cpu"))))
    try:
        _write(run, recipe, plan)
        write_json(
            run.path / "lock.json",
            {
                "tune": __version__,
                "python": sys.version.split()[0],
                "layers": [layer.name for layer in recipe.layers],
                "packages": _versions(),
                "data": _fingerprints(plan),
            },
        )
        write_json(
            run.path / "status.json",
            {"state": "starting", "created": time.time(), "recipe": plan.name, "gpu": plan.gpu.get("name")},
        )
    except BaseException:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    return run


def missing(recipe: Recipe, plan: Plan) -> list[Problem]:
    """What this machine lacks for the run: data, model, tokens, keys, packages; empty when it could start."""
    return [
        *_data_problems(recipe, plan),
        *_model_problems(recipe, plan),
        *_tracker_problems(plan),
        *_package_problems(recipe, plan),
    ]


def start(run: Run) -> subprocess.Popen[bytes]:
    """Starts the engine on `run`, detached from this terminal. `Busy` when a process holds the run already."""
    held = holder(run)
    if held:
        raise Busy(
            f"run {run.id} is held by process {held.get('pid', '?')} on {held.get('host', '?')}",
            hint=f"tune watch {run.id} shows it, tune stop {run.id} ends it",
        )
    (run.path / "result.json").unlink(missing_ok=True)
    return local.start(run.path)


def resume(run: Run, overrides: Sequence[str] = ()) -> Run:
    """Readies `run` to go on at its newest checkpoint, with `overrides` of what may change.

    Raises:
        UsageError: The run is done, or an override is wrong.
        ResumeRefused: An override would change the result; names the field and both values.
    """
    if overrides:
        recipe = load_recipe(run.path / "recipe.yaml", overrides=overrides)
        plan = make_plan(recipe)
        _refuse_changes(run, plan)
        grown = _grown(Plan.from_json(run.plan()), plan)
    else:
        recipe, plan, grown = None, None, False
    if run.state() == "done" and not grown:
        raise UsageError(
            f"run {run.id} is done: there is nothing to resume",
            hint=f"to train on: tune resume {run.id} training.num_train_epochs=N",
        )
    if recipe and plan:
        _write(run, recipe, plan)
    return run


def interrupt(run: Run, sig: int = signal.SIGINT) -> bool:
    """Sends a signal to the engine that holds `run` on this machine; False where none does."""
    held = holder(run)
    if not held or not held.get("pid"):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(held["pid"]), sig)
        return True
    return False


def stop(run: Run, grace_s: float = 60.0) -> str:
    """Asks the engine to save and stop, and waits up to `grace_s` seconds; returns the state then."""
    if interrupt(run):
        end = time.monotonic() + grace_s
        while holder(run) and time.monotonic() < end:
            time.sleep(0.1)
    return run.state()


def holder(run: Run) -> dict[str, Any] | None:
    """Who holds `run` on this machine: `{pid, host, since}`; None when nobody does."""
    try:
        with open(run.path / "run.lock", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                with contextlib.suppress(ValueError):
                    content = json.loads(handle.read() or "{}")
                    return content if isinstance(content, dict) else {}
                return {}
            return None
    except OSError:
        return None


def alive(run: Run) -> bool:
    """True while an engine on this machine works on `run`."""
    return holder(run) is not None


def compose(model: str, data: str, method: str = "qlora") -> tuple[str, list[str]]:
    """`(layer, overrides)` of a recipe for a model and a data file: the method's layer, which brings the base defaults."""
    library.find_named("methods", method)
    name = re.sub(r"[^a-z0-9]+", "-", f"{model.rstrip('/').rsplit('/', 1)[-1]}-{method}".lower()).strip("-")
    return f"methods/{method}", [
        f"name={json.dumps(name)}",
        f"model.name_or_path={json.dumps(model)}",
        f"data.train={json.dumps(data)}",
    ]


def sources(value: Any) -> list[str]:
    """The data sources that a recipe names: a string or a list of strings, else none."""
    return (
        [value]
        if isinstance(value, str)
        else [v for v in value if isinstance(v, str)]
        if isinstance(value, list)
        else []
    )


def is_file_source(source: str) -> bool:
    """True when a data source is meant as a file rather than as a hub id."""
    path = Path(source.removesuffix(".gz").removesuffix(".zst"))
    return path.suffix in DATA_SUFFIXES or source.startswith((".", "/", "~")) or "*" in source or path.exists()


def _write(run: Run, recipe: Recipe, plan: Plan) -> None:
    origin = library.label(recipe.path) if recipe.path else plan.name
    again = library.shown(run.path / "recipe.yaml")
    head = f"# The resolved recipe of run {run.id}, made from {origin}.\n# Repeat it: tune train {again}\n"
    write_text(run.path / "recipe.yaml", head + merge.to_yaml(recipe.values))
    write_json(run.path / "plan.json", plan.to_json())


def _rehearse(recipe: Recipe) -> str:
    called = library.label(recipe.path) if recipe.path else recipe.name
    return f"tune train {called} --with models/nano"


def _data_problems(recipe: Recipe, plan: Plan) -> list[Problem]:
    out = []
    has_sample = lookup(plan.values, "data.sample.train") is not None
    cure = f"; to rehearse on its sample: {_rehearse(recipe)}" if has_sample else ""
    for key in ("train", "eval"):
        value = plan.data.get(key)
        origin = recipe.origins.get(f"data.{key}")
        place, layer = (origin.place, str(origin)) if origin else (None, "")
        if key == "train" and not sources(value):
            out.append(
                Problem("the recipe names no training data", "data.train", place, layer, f"give data.train=FILE{cure}")
            )
        for source in sources(value):
            path = Path(source).expanduser()
            if "${oc.env:" in source or path.exists() or ("*" in source and glob.glob(str(path), recursive=True)):
                continue
            like_a_hub_id = HUB_ID.match(source) and (len(path.parts) == 1 or not path.parent.is_dir())
            if like_a_hub_id and not is_file_source(source):
                continue
            looked = (
                [path.absolute()]
                if path.is_absolute() or not (origin and origin.place and recipe.path)
                else [recipe.path.parent / path, path.absolute()]
            )
            where = " and ".join(dict.fromkeys(library.shown(p) for p in looked))
            out.append(
                Problem(
                    f"data.{key}: there is no file {source}: looked for {where}",
                    f"data.{key}",
                    place,
                    layer,
                    f"{_nearby(path, source, key)}{cure}",
                )
            )
    return out


def _nearby(path: Path, source: str, key: str) -> str:
    """What to do about a data file that is not there: the files beside it with a name like it, else to put it there."""
    share = re.fullmatch(r"(\d+(?:\.\d+)?) ?%", source)
    if share:
        return f"{share[1]} % is data.{key}={float(share[1]) / 100:g}"
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    alike = get_close_matches(path.name, beside, n=2, cutoff=0.5)
    if alike:
        return f"did you mean {' or '.join(str(path.parent / name) for name in alike)}?"
    return f"put the file there, or give data.{key}=FILE"


def _model_problems(recipe: Recipe, plan: Plan) -> list[Problem]:
    name = plan.model.get("name_or_path")
    key = "model.name_or_path"
    origin = recipe.origins.get(key)
    place, layer = (origin.place, str(origin)) if origin else (None, "")
    if not name:
        return [
            Problem(
                "the recipe names no model", key, place, layer, "give model.name_or_path=NAME, a hub id or a folder"
            )
        ]
    if "${oc.env:" in name or Path(name).is_dir():
        return []
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        near = f"; to rehearse: {_rehearse(recipe)}" if lookup(plan.values, "data.sample.train") else ""
        return [
            Problem(
                f"{key}: there is no model folder {name}",
                key,
                place,
                layer,
                f"name a folder with a config.json, or a hub id such as org/name{near}",
            )
        ]
    if lookup(plan.values, "model.gated") and not _cached(name) and not _hub_token():
        what = f"{key}: {name} is gated, and there is no Hugging Face token"
        cure = f"accept its licence at huggingface.co/{name}, then `hf auth login` or set HF_TOKEN"
        return [Problem(what, key, place, layer, f"{cure}; to rehearse without it: {_rehearse(recipe)}")]
    return []


def _tracker_problems(plan: Plan) -> list[Problem]:
    tracker = str(plan.tracking.get("tracker") or "none")
    problems: list[Problem] = import_module(f"nothing_tune.trackers.{tracker}").check(plan.tracking, os.environ)
    return problems


def _package_problems(recipe: Recipe, plan: Plan) -> list[Problem]:
    """Packages that a setting needs and that are not installed."""
    values = plan.values
    attention = str(lookup(values, "model.attn_implementation"))
    needs = [
        (bool(plan.quantization), "quantization", "bitsandbytes", "bitsandbytes"),
        (
            lookup(values, "peft.init_lora_weights") == "loftq",
            "peft.init_lora_weights",
            "scipy",
            "'nothing-tune[loftq]'",
        ),
        (bool(lookup(values, "model.use_kernels")), "model.use_kernels", "kernels", "kernels"),
        (attention == "flash_attention_2", "model.attn_implementation", "flash_attn", "flash-attn"),
    ]
    out = []
    for wanted, key, module, package in needs:
        if wanted and find_spec(module) is None:
            origin = next((o for k, o in recipe.origins.items() if k == key or k.startswith(f"{key}.")), None)
            place, layer = (origin.place, str(origin)) if origin else (None, "")
            out.append(
                Problem(
                    f"{key} needs the package {module}, which is not installed",
                    key,
                    place,
                    layer,
                    f"pip install {package}",
                )
            )
    return out


def _cached(name: str) -> bool:
    home = Path(
        os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface"
    )
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    return any((hub / f"models--{name.replace('/', '--')}" / "snapshots").glob("*/config.json"))


def _hub_token() -> bool:
    home = Path(
        os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface"
    )
    path = Path(os.environ.get("HF_TOKEN_PATH") or home / "token")
    return bool(os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") or path.is_file())


def _versions() -> dict[str, str]:
    out = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            out[package] = metadata.version(package)
    return out


def _fingerprints(plan: Plan) -> dict[str, dict[str, Any]]:
    """`{path: {bytes, sha256}}` of the local data files; hub ids and globs are fingerprinted by the engine."""
    out = {}
    for source in [*sources(plan.data.get("train")), *sources(plan.data.get("eval"))]:
        path = Path(source)
        if path.is_file():
            digest = hashlib.sha256()
            with path.open("rb") as handle:
                while block := handle.read(1 << 20):
                    digest.update(block)
            out[source] = {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
    return out


def _grown(old: Plan, new: Plan) -> bool:
    return any((lookup(new.values, k) or 0) > (lookup(old.values, k) or 0) for k in EXTEND_ONLY)


def _refuse_changes(run: Run, plan: Plan) -> None:
    """`ResumeRefused` with every setting in which `plan` differs from the run's own and that may not change."""
    old, new = leaves(run.plan()["values"]), leaves(json.loads(json.dumps(plan.values)))
    problems = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if before == after or key.startswith(FREE):
            continue
        if key in EXTEND_ONLY:
            if isinstance(before, int | float) and isinstance(after, int | float) and after > before > 0:
                continue
            hint = "it may only grow"
        else:
            hint = "a continued run keeps its settings; start a new run to change them"
        problems.append(Problem(f"{key} was {before!r} and would be {after!r}", key, hint=hint))
    if problems:
        raise ResumeRefused(*problems)
