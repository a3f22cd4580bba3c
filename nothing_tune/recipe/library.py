"""Where recipes and layers are found: a path, or a name in the library that ships with nothing-tune."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from nothing_tune.errors import Place, Problem, RecipeError

LAYER_KINDS = ("base", "methods", "quantization", "models", "gpus", "scenarios")
"""Folders of the library that hold layers; every other YAML file in it is a recipe that people run, but those of `PROVIDERS`
and `JUDGES`."""
PROVIDERS = "providers"
"""Folder of the library that holds prices, which are no layers: see `providers.py`."""
JUDGES = "judges"
"""Folder of the library that says how answers are judged, no layers either: see `judges.py`."""


def library_root() -> Path:
    """The folder `recipes/`: that of the checkout, else the copy inside the installed package."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "recipes"
    return checkout if (checkout / "base" / "qlora.yaml").is_file() else package / "_recipes"


def names(kind: str) -> list[str]:
    """Names of a kind, sorted: `recipes` (`marco`, `templates/quick-start-7b`), `providers`, `judges`, or one of `LAYER_KINDS` (`t4`)."""
    root = library_root()
    if kind != "recipes":
        return sorted(p.stem for p in (root / kind).glob("*.yaml"))
    found = (p.relative_to(root).with_suffix("") for p in root.rglob("*.yaml"))
    return sorted(
        p.as_posix() for p in found if p.parts[0] not in (*LAYER_KINDS, PROVIDERS, JUDGES) and len(p.parts) <= 2
    )


def find_recipe(name: str | Path) -> Path:
    """The file that `name` means: an existing path, else a recipe or layer of the library. `RecipeError` names near ones."""
    path = Path(name)
    if path.is_file():
        return path.absolute()
    if not path.is_absolute():
        shipped = _in_library(str(name))
        if shipped:
            return shipped
    if path.is_dir():
        raise RecipeError(Problem(f"{name} is a folder, not a recipe", hint="name a YAML file"))
    looked = [str(path.absolute()), *([] if path.is_absolute() else [f"the library ({library_root()})"])]
    raise RecipeError(
        Problem(
            f"no recipe {str(name)!r}: looked for {' and in '.join(looked)}",
            hint=_near(path.with_suffix("").name, [*names("recipes"), *_here(path)], "tune list recipes shows all"),
        )
    )


def find_layer(name: str, beside: Path | None, place: Place | None, layer: str = "") -> Path:
    """The file of a name in `layers:` or `--with`: a path relative to the file `beside` (else to the current folder), or a
    library name such as `methods/qlora`. `RecipeError` at `place` otherwise."""
    path = Path(name).expanduser()
    folder = beside.parent if beside else Path.cwd()
    for candidate in (folder / path, folder / f"{name}.yaml"):
        if candidate.is_file():
            return candidate.absolute()
    shipped = _in_library(name)
    if shipped:
        return shipped
    known = [f"{kind}/{n}" for kind in LAYER_KINDS for n in names(kind)] + names("recipes")
    raise RecipeError(
        Problem(
            f"no layer {name!r}: looked in {folder} and in the library",
            key="layers" if place else "",
            place=place,
            layer=layer,
            hint=_near(
                name.removesuffix(".yaml"), known, "a layer is a YAML file or a library name such as methods/lora"
            ),
        )
    )


def find_named(kind: str, name: str, also: list[str] | None = None) -> Path | None:
    """The library's layer of a kind (`gpus`, `scenarios`); None when only `also` knows the name. `RecipeError` otherwise."""
    path = library_root() / kind / f"{name}.yaml"
    if name and "/" not in name and path.is_file():
        return path
    if also and name in also:
        return None
    word = {"gpus": "GPU", "scenarios": "scenario", "methods": "method"}.get(kind, kind.rstrip("s"))
    known = sorted({*names(kind), *(also or [])})
    raise RecipeError(Problem(f"unknown {word} {name!r}", hint=_near(name, known, f"one of: {', '.join(known)}")))


def base_model(name: str) -> str:
    """The hub id or folder that `name` means: that of a model of the library (`nano`, `models/nano`), else `name` itself."""
    from nothing_tune.recipe.reader import read_file

    short = name.removeprefix("models/")
    path = library_root() / "models" / f"{short}.yaml"
    if Path(name).exists() or "/" in short or not path.is_file():
        return name
    named = str(read_file(path)[0]["model"]["name_or_path"])
    return str(path.parent / named) if (path.parent / named).is_dir() else named


def label(path: Path) -> str:
    """A file as people write it: `gpus/l4` for layers of the library, else the path, relative where it is below the current folder."""
    root = library_root()
    if path.is_relative_to(root):
        inside = path.relative_to(root).with_suffix("")
        return inside.as_posix()
    return shown(path)


def shown(path: Path) -> str:
    """A path as messages show it: relative to the current folder where it lies below it."""
    try:
        return path.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return str(path)


def _here(path: Path) -> list[str]:
    """YAML files in the folder that `path` names, as people would write them."""
    return sorted(p.as_posix() for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []


def _in_library(name: str) -> Path | None:
    inside = Path(name.removesuffix(".yaml"))
    if ".." in inside.parts or inside.parts[:1] in ((PROVIDERS,), (JUDGES,)):
        return None
    path = library_root() / f"{inside}.yaml"
    return path if path.is_file() else None


def _near(name: str, known: list[str], otherwise: str) -> str:
    tails = {n.rsplit("/", 1)[-1].removesuffix(".yaml"): n for n in known}
    starts = [n for n in known if n.startswith(f"{name.lower()}-")]
    near = (
        [n for n in known if n == name.lower()]
        or starts
        or get_close_matches(name, known, n=3, cutoff=0.6)
        or [tails[t] for t in get_close_matches(name.rsplit("/", 1)[-1], list(tails), n=3, cutoff=0.6)]
    )
    return f"did you mean {' or '.join(near)}?" if near else otherwise
