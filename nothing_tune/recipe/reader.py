"""Reads one YAML file into plain values, and remembers the line and column of every key and value."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nothing_tune.errors import Place, Problem, RecipeError
from nothing_tune.recipe.library import shown

MAX_BYTES = 1 << 20
"""Largest recipe file that is read, in bytes."""
MAX_NODES = 20_000
"""Most values in one file, aliases followed: bounds what a file of nested aliases can unfold to."""
MAX_DEPTH = 32
"""Most levels of nesting, aliases followed."""
MAX_KEY = 1_000
"""Longest dotted key, in characters: every value below it repeats it."""
MAX_BRACKETS = 1_000
"""Texts with more characters that open a level have their nesting measured before they are parsed: libyaml's composer
calls itself for each level, and some ten thousand of them end the process."""

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """YAML 1.1 without dates, and with `2e-4` and `1.` read as floats, as OmegaConf reads them."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in rules
        if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float")
    ]
    for first, rules in _Base.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
        |\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
        re.X,
    ),
    list("-+0123456789."),
)


@dataclass
class _Walk:
    """What one walk over a file's node tree gathers."""

    loader: Any
    file: str
    places: dict[str, Place] = field(default_factory=dict)
    value_places: dict[str, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    nodes: int = 0

    def place(self, node: Any) -> Place:
        return Place(self.file, node.start_mark.line + 1, node.start_mark.column + 1)


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, Place], dict[str, Place]]:
    """`(values, places of the keys, places of the values)` of a YAML file, keys dotted, list items as `a.b.0`.

    Raises:
        RecipeError: The file cannot be read, is too large, is not YAML, or has duplicate or odd keys; all problems at once.
    """
    name = shown(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise RecipeError(Problem(f"cannot read {name}: {error.strerror}")) from error
    if len(raw) > MAX_BYTES:
        raise RecipeError(
            Problem(
                f"{name} is {len(raw) / 2**20:.1f} MiB: a recipe has at most 1 MiB", hint="data belongs in data.train"
            )
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise RecipeError(
            Problem("not UTF-8 text", place=Place(name, line, column), hint="save the file as UTF-8")
        ) from error
    return read_text(text, name)


def read_text(text: str, name: str) -> tuple[dict[str, Any], dict[str, Place], dict[str, Place]]:
    """As `read_file`, for a text; `name` stands for the file in places."""
    loader = None
    try:
        _measure(text, name)
        loader = _Loader(text)
        root = loader.get_single_node()
        walk = _Walk(loader, name)
        values = _value(walk, root, "", 0) if root is not None else {}
    except yaml.YAMLError as error:
        raise RecipeError(_syntax(error, name)) from error
    finally:
        if loader is not None:
            loader.dispose()
    if walk.problems:
        raise RecipeError(*walk.problems)
    if not isinstance(values, dict):
        raise RecipeError(
            Problem(
                "a recipe is a mapping of keys to values",
                place=Place(name, 1, 1),
                hint="start with lines such as `name: my-recipe`",
            )
        )
    return values, walk.places, walk.value_places


def read_value(text: str) -> Any:
    """One YAML value, as on the command line (`2e-4`, `[q_proj, v_proj]`). `ValueError` when it is no YAML."""
    try:
        values, _, _ = read_text(f"value: {text}", "command line")
    except RecipeError as error:
        raise ValueError(error.problems[0].what) from error
    return values.get("value")


def _measure(text: str, name: str) -> None:
    """`RecipeError` when a text is nested too deeply to be composed."""
    if sum(text.count(opener) for opener in "[{-?") <= MAX_BRACKETS:
        return
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            depth += 1
            if depth > MAX_DEPTH + 1:
                mark = event.start_mark
                raise RecipeError(_too_deep(Place(name, mark.line + 1, mark.column + 1) if mark else None))
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            depth -= 1


def _too_deep(place: Place | None) -> Problem:
    return Problem(
        f"the file is nested more than {MAX_DEPTH} levels deep",
        place=place,
        hint="close a bracket that was left open, or write it flatter and without aliases",
    )


def _value(walk: _Walk, node: Any, key: str, depth: int) -> Any:
    walk.nodes += 1
    if depth > MAX_DEPTH:
        raise RecipeError(*walk.problems, _too_deep(walk.place(node)))
    if walk.nodes > MAX_NODES:
        what = f"the file unfolds to more than {MAX_NODES:,} values"
        raise RecipeError(*walk.problems, Problem(what, place=walk.place(node), hint="write it without aliases"))
    if key:
        walk.value_places[key] = walk.place(node)
    if isinstance(node, yaml.MappingNode):
        return _mapping(walk, node, key, depth)
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            walk.places[f"{key}.{index}"] = walk.place(item)
            items.append(_value(walk, item, f"{key}.{index}", depth + 1))
        return items
    return _scalar(walk, node, key)


def _mapping(walk: _Walk, node: Any, key: str, depth: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = walk.place(key_node)
        word = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
        path = f"{key}.{word}" if key else str(word)
        if word is None or key_node.tag == "tag:yaml.org,2002:merge":
            walk.problems.append(
                Problem("a key must be a plain word", key, place, hint="to share values between recipes, use layers:")
            )
        elif len(path) > MAX_KEY:
            what = f"a key is longer than {MAX_KEY:,} characters"
            walk.problems.append(Problem(what, place=place, hint="text belongs behind the colon"))
        elif word in out:
            first = walk.places[path]
            walk.problems.append(
                Problem(f"{path} is given twice", path, place, hint=f"the first is in line {first.line}; keep one")
            )
        else:
            walk.places[path] = place
            out[word] = _value(walk, value_node, path, depth + 1)
    return out


def _scalar(walk: _Walk, node: Any, key: str) -> Any:
    plain, text = not node.style, node.value
    if plain and node.tag == "tag:yaml.org,2002:int" and re.match(r"^[-+]?0[0-9_]+$|.*:", text):
        meant = text.lstrip("+-0") or "0"
        why = "minutes and seconds" if ":" in text else "an octal number"
        hint = f'quote it: "{text}"' if ":" in text else f'write {meant}, or quote it: "{text}"'
        walk.problems.append(Problem(f"{key}: YAML reads {text} as {why}", key, walk.place(node), hint=hint))
        return None
    try:
        value = walk.loader.construct_object(node)
    except (yaml.YAMLError, ValueError):
        value = object()
    if not isinstance(value, str | int | float | bool | None):
        walk.problems.append(
            Problem(
                f"{key}: {node.tag.replace('tag:yaml.org,2002:', '!!')} is not a value of a recipe",
                key,
                walk.place(node),
                hint="write a plain text, number or true/false",
            )
        )
        return None
    return value


def _syntax(error: yaml.YAMLError, name: str) -> Problem:
    said = str(getattr(error, "problem", None) or str(error).splitlines()[0])
    said = said.removeprefix("but ")
    unclosed = ("end of stream", "expected ',' or", "expected ':'", "expected ',' or '}'")
    marks = [getattr(error, "problem_mark", None), getattr(error, "context_mark", None)]
    # What is not closed is mended where it starts, not where the parser gave up.
    mark = next((m for m in (reversed(marks) if any(w in said for w in unclosed) else marks) if m), None)
    place = Place(name, mark.line + 1, mark.column + 1) if mark else Place(name, 1, 1)
    hints = {
        "cannot start any token": "indent with spaces, not tabs; quote values that start with @, ` or %",
        "mapping values are not allowed": "a value that holds a colon and a space must be quoted",
        "did not find expected key": "the indentation differs from the line above",
        "did not find expected ',' or": "a bracket is not closed",
        "found unexpected end of stream": "a quote is not closed",
        "could not find expected ':'": "a key is followed by a colon and a space",
        "found undefined alias": "an asterisk starts an alias: quote the value",
        "another document": "a recipe is one document: remove the second ---",
        "unexpected end": "a bracket or a quote is not closed",
    }
    hint = next(
        (text for words, text in hints.items() if words in said),
        "check the indentation and the colons around this line",
    )
    return Problem(f"not valid YAML: {said}", place=place, hint=hint)
