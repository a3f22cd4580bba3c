"""`tune explain`: what a setting does, its unit, range and default, what other values of it do, and its value here and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nothing_tune.cli import console, options
from nothing_tune.errors import UsageError

EXAMPLES = (
    ("tune explain", "all keys, by section"),
    ("tune explain learning_rate", "one key, with the value of base/qlora"),
    ("tune explain per_device_train_batch_size nothing-gpt --gpu t4", "with its value there, and why"),
    ("tune explain peft", "the PEFT methods, and the keys of the section"),
    ("tune explain peft.feedforward_modules --with methods/ia3", "a key of another method"),
    ("tune explain warmup_ratio", "what became of an old name"),
)
EXITS = (0, 2, 3)


def complete(incomplete: str) -> list[str]:
    """Keys, sections and recipes."""
    from nothing_tune.recipe.guidance.setting import known

    keys = [key for key in known() if "NAME" not in key and key.startswith(incomplete)]
    return [*keys, *options.complete_words(incomplete)]


def command(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY] [RECIPE] [KEY=VALUE]...",
            help="A key or section, such as learning_rate, training.learning_rate or peft. Then the recipe of which to tell its "
            "value [default: base/qlora], and values that override it.",
            autocompletion=complete,
            show_default=False,
        ),
    ] = None,
    gpu: options.Gpu = None,
    scenario: options.Scenario = None,
    with_: options.With = None,
    json: options.Json = False,
) -> None:
    """Finds the key and shows its page."""
    from nothing_tune.cli.explain import listing, page
    from nothing_tune.recipe.guidance.find import find

    word, recipe, overrides = _split(words or [])
    if not word:
        if json:
            console.out_json(listing.overview_json())
        else:
            console.out(*listing.overview())
        return
    from nothing_tune.cli.show_config import Variant
    from nothing_tune.plan import make_plan
    from nothing_tune.recipe.library import find_recipe

    if recipe is not None:
        find_recipe(recipe)
    chosen: dict[str, Any] = {"gpu": gpu, "scenario": scenario, "with_": with_, "overrides": overrides}
    shown = options.command_words(recipe, **chosen)
    loaded, error = console.outcome(lambda: options.load(recipe, **chosen))
    if error is not None and json:
        raise error
    resolved: Any = loaded
    if error is not None:  # what a key means is worth knowing most where a recipe is wrong
        shown, resolved = "base/qlora", options.load(None)
    variant = Variant(shown, resolved, make_plan(resolved))
    kind = str((variant.plan.peft or {}).get("peft_type") or "LORA")
    found = find(word, kind)
    if not found.keys and not found.note:
        raise _unknown(word, found.near)
    if error is not None:
        console.note(
            f"the recipe has {console.plural(len(error.problems), 'problem')}: the values shown are those of base/qlora"
        )
    if len(found.keys) == 1 and _is_mapping(found.keys[0], kind):
        show, data = listing.section, listing.section_json
    elif len(found.keys) == 1:
        show, data = page.lines, page.data
    else:
        show, data = None, None
    if show is None or data is None:
        _candidates(word, found, variant, kind, json)
    elif json:
        console.out_json({"asked": word, "note": found.note, "recipe": shown, **data(found.keys[0], variant, kind)})
    else:
        console.out(*_noted(found.note), *show(found.keys[0], variant, kind))
    if error is not None:
        console.out("")
        raise error


def _split(words: list[str]) -> tuple[str, str | None, list[str]]:
    """`(key, recipe, overrides)`: the key is the first plain word, else that of the first override."""
    overrides = [w for w in words if options.is_override(w)]
    plain = [w for w in words if not options.is_override(w)]
    if not plain and overrides:
        plain = [overrides[0].lstrip("~").partition("=")[0]]
    if len(plain) == 2 and not _is_recipe(plain[1]) and _is_recipe(plain[0]) and not _is_key(plain[0]):
        plain.reverse()
    name, _ = options.split_words(plain[1:])
    return (plain[0] if plain else ""), name, overrides


def _is_key(word: str) -> bool:
    from nothing_tune.recipe.guidance.find import find

    return bool(find(word).keys)


def _is_mapping(key: str, kind: str) -> bool:
    """Whether a key is a section, or holds nothing but other keys."""
    from nothing_tune.recipe.guidance.setting import below, setting

    found = setting(key, kind)
    return found is not None and any(below(key, kind)) and {*found.types} <= {"dict", "null"}


def _is_recipe(word: str) -> bool:
    from nothing_tune.recipe.library import names

    return Path(word).is_file() or word in names("recipes")


def _unknown(word: str, near: tuple[str, ...]) -> UsageError:
    if _is_recipe(word):
        return UsageError(
            f"{word} is a recipe, not a key",
            hint=f"tune show-config {word} shows its values; tune explain KEY {word} explains one",
        )
    hint = f"did you mean {' or '.join(near)}?" if near else "tune explain lists all keys"
    return UsageError(f"there is no key {word}", hint=hint)


def _candidates(word: str, found: Any, variant: Any, kind: str, json: bool) -> None:
    """A name that several keys have, or one that has no successor."""
    from nothing_tune.cli.explain import listing, page

    if json:
        rows = [listing.row_json(key, variant, kind) for key in found.keys]
        console.out_json({"asked": word, "note": found.note, "candidates": rows})
        return
    if not found.keys:
        console.out(*_noted(found.note)[:-1])
        return
    paint = console.ink()
    console.out(f"{paint.bold(word)} is the name of {len(found.keys)} keys", "")
    console.out(*page.rows(found.keys, variant, kind, full=True))


def _noted(note: str) -> list[str]:
    import textwrap

    from nothing_tune.cli.explain.page import columns

    paint = console.ink()
    return [*(paint.warn(row) for row in textwrap.wrap(note, columns(), break_on_hyphens=False)), ""] if note else []
