"""Rules between fields of `generate`; see `rules.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nothing_tune.errors import Problem
from nothing_tune.recipe.schema import PROMPTS
from nothing_tune.recipe.view import View

WRITES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
"""What `generate.output` may end in."""
HERE = ("dtype", "quantization", "revision")
"""Keys of the generator that only transformers reads; an endpoint has loaded its model already."""


def prompts_are_named(view: View) -> Iterator[Problem]:
    """Rows cannot be made of nothing, nor by nobody, nor be written nowhere."""
    if not view.get("generate"):
        return
    if not view.get(PROMPTS):
        key = view.written(PROMPTS, "generate")
        yield view.problem(key, "generate names no prompts", "write generate.prompts: FILE, folder, glob or hub id")
    value = view.get(PROMPTS)
    for n, entry in enumerate(value if isinstance(value, list) else [value]):
        if isinstance(entry, dict) and not str(entry.get("source") or "").strip():
            key = f"{PROMPTS}.{n}" if isinstance(value, list) else PROMPTS
            yield view.problem(key, f"{key} names no source", "write source: FILE, folder, glob or hub id")
    if not view.get("generate.generator.model"):
        yield view.problem(
            view.written("generate.generator.model", "generate"),
            "generate names no generator",
            "write generate.generator: {model: ORG/NAME}, another family than the model that is trained",
        )
    output = str(view.get("generate.output", ""))
    if not output:
        yield view.problem(
            view.written("generate.output", "generate"),
            "generate names no output",
            "write generate.output: data/NAME.jsonl, the file that data.train names",
        )
    elif not output.endswith(WRITES) and "${" not in output:
        yield view.problem(
            "generate.output", f"generate.output is {output}, and JSON lines are written", "end its name in .jsonl"
        )


def prompts_are_all_read(view: View) -> Iterator[Problem]:
    """Prompts are no mixture, and have no format: what is asked is a column, and how many is a group's target."""
    value = view.get(PROMPTS)
    for n, entry in enumerate(value if isinstance(value, list) else [value]):
        for name in ("weight", "format"):
            if isinstance(entry, dict) and entry.get(name) not in (None, "auto"):
                key = f"{PROMPTS}.{n}.{name}" if isinstance(value, list) else f"{PROMPTS}.{name}"
                cure = (
                    "write max_rows, or a target for each group"
                    if name == "weight"
                    else "write generate.prompt: COLUMN"
                )
                yield view.problem(key, f"{key} does nothing: all prompts are read", cure, "advice")


def prompts_are_not_the_output(view: View) -> Iterator[Problem]:
    """The output is replaced when it is finished: prompts in the same file would be lost."""
    output, prompts = view.get("generate.output"), view.get(PROMPTS)
    entries = prompts if isinstance(prompts, list) else [prompts]
    if output and output in [e.get("source") if isinstance(e, dict) else e for e in entries]:
        yield view.problem(
            "generate.output", "generate.output is the file of the prompts, which it would replace", "name another file"
        )


def groups_are_mappings(view: View) -> Iterator[Problem]:
    """What is different for a group are keys and values; and a group is a value of a column."""
    groups = view.get("generate.groups") or {}
    for name, value in groups.items():
        key = f"generate.groups.{name}"
        if value is not None and not isinstance(value, dict):
            hint = f"write {name}: {{target: {value}}}" if isinstance(value, int) else "write {target: N, system: TEXT}"
            yield view.problem(key, f"{key} must be a mapping of keys", hint)
    if groups and not view.get("generate.group_by"):
        yield view.problem(
            view.written("generate.groups"),
            "generate.groups does nothing: generate.group_by names no column",
            "write group_by: COLUMN, such as level",
        )


def answers_can_pass(view: View) -> Iterator[Problem]:
    """An answer must be able to be long enough, and short enough."""
    low, high = view.number("generate.filters.min_words"), view.number("generate.filters.max_words")
    if low is not None and high is not None and low > high:
        key = view.latest("generate.filters.min_words", "generate.filters.max_words")
        yield view.problem(
            key,
            f"generate.filters.min_words is {low:g}, above max_words {high:g}: no answer is taken",
            "swap them",
        )
    for key, sampling in _samplings(view):
        tokens = sampling.get("max_new_tokens")
        if low is not None and isinstance(tokens, int) and not isinstance(tokens, bool) and tokens < low:
            yield view.problem(
                f"{key}.max_new_tokens",
                f"{key}.max_new_tokens is {tokens}, and filters.min_words {low:g}: no answer is taken",
                "raise max_new_tokens, or lower min_words",
            )


def generators_settings_are_used(view: View) -> Iterator[Problem]:
    """What an endpoint does not read would be believed to hold."""
    if view.get("generate.generator.kind") != "openai":
        return
    for name in HERE:
        key = f"generate.generator.{name}"
        if view.get(key) not in (None, "auto"):
            yield view.problem(
                key, f"{key} does nothing: the endpoint has loaded its model", "remove the line", "advice"
            )


def endpoints_are_addresses(view: View) -> Iterator[Problem]:
    """The client adds `/chat/completions` to the address."""
    key, url = "generate.generator.base_url", str(view.get("generate.generator.base_url", ""))
    if not url or "${" in url:
        return
    if not url.startswith(("http://", "https://")):
        yield view.problem(key, f"{key} is {url}, which is no address", "write http://HOST:PORT/v1")
    elif url.rstrip("/").endswith(("/chat/completions", "/completions")):
        cut = url.rstrip("/").removesuffix("/completions").removesuffix("/chat")
        yield view.problem(key, f"{key} ends in the name of a request", f"write {cut}")


def _samplings(view: View) -> Iterator[tuple[str, dict[str, Any]]]:
    """`(dotted key, mapping)` of the sampling of all and of each group."""
    yield "generate.sampling", view.get("generate.sampling") or {}
    for name, group in (view.get("generate.groups") or {}).items():
        if isinstance(group, dict) and isinstance(group.get("sampling"), dict):
            yield f"generate.groups.{name}.sampling", group["sampling"]


RULES = (
    prompts_are_named,
    prompts_are_all_read,
    prompts_are_not_the_output,
    groups_are_mappings,
    answers_can_pass,
    generators_settings_are_used,
    endpoints_are_addresses,
)
"""Rules of this file, in the order in which problems are shown."""
