"""What this machine lacks for a run: data, model, tokens, packages, and the key of its tracker. Looked for before a run is made."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from nothing_tune.data import files, hub, sources
from nothing_tune.errors import Problem
from nothing_tune.plan import Plan
from nothing_tune.plan.rehearsal import rehearsable
from nothing_tune.recipe import library
from nothing_tune.recipe.model import Recipe, lookup, origin_of

LLAMA_CPP = "'nothing-tune[gguf]', in a clone make extras: it builds llama.cpp, which takes minutes"
HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?(:[\w.+-]+){0,2}$")
"""What the name of a data set on the Hub looks like, with the split that may follow it."""


def missing(recipe: Recipe, plan: Plan) -> list[Problem]:
    """What this machine lacks for the run: data, model, tokens, packages; empty when it could start."""
    return [
        *_data_problems(recipe, plan),
        *_model_problems(recipe, plan),
        *_package_problems(recipe, plan),
    ]


def no_prompts(recipe: Recipe) -> list[Problem]:
    """The files of `generate.prompts` that are not there; the hint names the sample of prompts where the recipe brings one."""
    key, value = "generate.prompts", lookup(recipe.values, "generate.prompts")
    origin = origin_of(recipe.origins, key)
    place, layer = (origin.place, str(origin)) if origin else (None, "")
    sample = lookup(recipe.values, "data.sample.prompts")
    again = f"tune data generate {_called(recipe)} {key}="
    cure = f"; to rehearse on its sample: {again}{_in_library(sample)}" if sample and files.resolve(sample) else ""
    return [
        Problem(f"{key}: there is no file {name}", key, place, layer, f"put the file there, or give {key}=FILE{cure}")
        for name in (source.name for source in sources.parse(value, {}, key))
        if "${oc.env:" not in name and sources.is_file(name) and not files.resolve(name)
    ]


def _in_library(path: str) -> str:
    """A path as the command line takes it in any folder: relative to the library where it lies there."""
    root = library.library_root()
    return Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else library.shown(Path(path))


def untracked(plan: Plan) -> list[Problem]:
    """What the run's tracker lacks on this machine, as advice: the run trains without it, and can be sent later."""
    tracker = str(plan.tracking.get("tracker") or "none")
    problems: list[Problem] = import_module(f"nothing_tune.trackers.{tracker}").check(plan.tracking, os.environ)
    return [
        replace(p, what=f"{p.what}: the run trains without it, and tune runs sync sends it later", severity="advice")
        for p in problems
    ]


def named(plan: Plan, key: str) -> tuple[sources.Source, ...]:
    """The sources that a plan's data names at `train` or `eval`; none for a share."""
    value = plan.data.get(key)
    return sources.parse(value, plan.data) if isinstance(value, str | dict | list) and value else ()


def _rehearse(recipe: Recipe, plan: Plan, how: str) -> str:
    """`; to rehearse: tune train RECIPE --with models/nano`, `how` in place of the colon's words; empty where it would not work."""
    sample = lookup(plan.values, "data.sample.train")
    if not rehearsable(plan.values) or not (sources.is_file(sample) and files.resolve(sample)):
        return ""
    return f"; to rehearse{how}: tune train {_called(recipe)} --with models/nano"


def _called(recipe: Recipe) -> str:
    return library.label(recipe.path) if recipe.path else recipe.name


def _data_problems(recipe: Recipe, plan: Plan) -> list[Problem]:
    out = []
    cure = _rehearse(recipe, plan, " on its sample")
    for key in ("train", "eval"):
        origin = origin_of(recipe.origins, f"data.{key}")
        place, layer = (origin.place, str(origin)) if origin else (None, "")
        entries = named(plan, key)
        if key == "train" and not entries:
            out.append(
                Problem("the recipe names no training data", "data.train", place, layer, f"give data.train=FILE{cure}")
            )
        for source in (entry.name for entry in entries):
            if "${oc.env:" in source or (sources.is_file(source) and files.resolve(source)):
                continue
            path = Path(source).expanduser()
            if _like_a_hub_id(source, path):
                continue
            looked = (
                [path.absolute()]
                if path.is_absolute() or not (origin and origin.place and recipe.path)
                else [recipe.path.parent / path, path.absolute()]
            )
            where = " and ".join(dict.fromkeys(library.shown(p) for p in looked))
            what = f"data.{key}: there is no file {source}: looked for {where}"
            hint = _nearby(path, source, key)
            if any(c in source for c in "*?["):
                what = f"data.{key}: no data file matches {source}: looked for {where}"
            if path.is_dir():
                what = f"data.{key}: the folder {library.shown(path)} holds no data file"
                hint = f"data files end in {', '.join(files.SUFFIXES)}"
            if key == "train" and source == lookup(plan.values, "generate.output"):
                hint = f"tune data generate {_called(recipe)} makes it"
            out.append(Problem(what, f"data.{key}", place, layer, f"{hint}{cure}"))
    return out


def _like_a_hub_id(source: str, path: Path) -> bool:
    """Whether a source that is not there may be a data set of the Hub."""
    beside = len(path.parts) > 1 and path.parent.is_dir()
    return bool(HUB_ID.match(source)) and not beside and not sources.is_file(source)


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
        near = _rehearse(recipe, plan, "")
        return [
            Problem(
                f"{key}: there is no model folder {name}",
                key,
                place,
                layer,
                f"name a folder with a config.json, or a hub id such as org/name{near}",
            )
        ]
    if lookup(plan.values, "model.gated") and hub.cached_config(name) is None and not _hub_token():
        what = f"{key}: {name} is gated, and there is no Hugging Face token"
        cure = f"accept its licence at huggingface.co/{name}, then `hf auth login` or set HF_TOKEN"
        near = _rehearse(recipe, plan, " without it")
        return [Problem(what, key, place, layer, f"{cure}{near}")]
    return []


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
        (bool(lookup(values, "export.gguf")), "export.gguf", "llama_cpp", LLAMA_CPP),
        (bool(lookup(values, "export.gguf_adapter")), "export.gguf_adapter", "llama_cpp", LLAMA_CPP),
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


def _hub_token() -> bool:
    path = Path(os.environ.get("HF_TOKEN_PATH") or hub.home() / "token")
    return bool(os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") or path.is_file())
