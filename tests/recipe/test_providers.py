"""The price files: what ships, what is wrong with a broken one, and that none of them is taken for a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nothing_tune.errors import RecipeError
from nothing_tune.recipe import load_recipe
from nothing_tune.recipe.library import LAYER_KINDS, PROVIDERS, library_root, names
from nothing_tune.recipe.providers import ANY_GPU, Price, Provider, providers, read_provider
from tests.command import tune

GOOD = """name: mine
title: Mine
prices:
  - {gpu: l4, usd_per_hour: 1, tier: spot, source: here, as_of: "2026-11"}
"""


def test_what_ships() -> None:
    known = {one.name: one for one in providers()}
    assert list(known) == ["lambda", "modal", "own", "runpod", "vast"]
    assert sum(len(one.prices) for one in providers()) >= 25
    for one in providers():
        assert one.title, one.name
        assert one.good_for, one.name
        assert one.mind, one.name
        assert len({(p.gpu, p.tier, p.note) for p in one.prices}) == len(one.prices), one.name
        for price in one.prices:
            assert price.gpu in (*names("gpus"), ANY_GPU)
            assert price.usd_per_hour < 10
    # The Nothing-GPT source: T4 0.59, L4 0.80, A10 1.10 dollars an hour.
    modal = {price.gpu: round(price.usd_per_hour, 2) for price in known["modal"].prices}
    assert [modal[gpu] for gpu in ("t4", "l4", "a10")] == [0.59, 0.80, 1.10]
    # The PEFT Studio source's ranges.
    spans = {name: (one.low, one.high) for name, one in known.items() if one.low is not None}
    assert spans == {"runpod": (0.39, 2.89), "lambda": (1.10, 2.49), "vast": (0.20, 1.50)}
    assert known["own"].prices == (Price(ANY_GPU, 0.0, "own", "free, unless launch.usd_per_hour says otherwise", None),)


def test_none_is_a_recipe_or_a_layer() -> None:
    assert PROVIDERS not in LAYER_KINDS
    assert [name for name in names("recipes") if name.startswith(PROVIDERS)] == []
    with pytest.raises(RecipeError, match="no recipe 'providers/modal'"):
        load_recipe("providers/modal", gpu="l4")
    with pytest.raises(RecipeError, match="no layer 'providers/modal'"):
        load_recipe("base/qlora", gpu="l4", with_=["providers/modal"])


def test_a_file_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    assert read_provider(path) == Provider("mine", "Mine", (Price("l4", 1.0, "spot", "here", "2026-11"),))
    path.write_text("name: mine\ntitle: Mine\n")
    assert read_provider(path).prices == ()


BROKEN = [
    (GOOD + "price: 3\n", "5:1", "price is not a key of a provider", "did you mean prices?"),
    (
        GOOD.replace("usd_per_hour", "usd_per_hr"),
        "4:15",
        "prices.0.usd_per_hr is not a key of a provider",
        "did you mean usd_per_hour?",
    ),
    (GOOD.replace(": 1,", ": -1,"), "4:29", "prices.0.usd_per_hour is -1: a price is 0 or more", ""),
    (GOOD.replace(": 1,", ": .inf,"), "4:29", "prices.0.usd_per_hour is inf: a price is 0 or more", ""),
    (GOOD.replace(": 1,", ": true,"), "4:29", "prices.0.usd_per_hour must be a number of US dollars", ""),
    (GOOD.replace(" usd_per_hour: 1,", ""), "4:5", "prices.0.usd_per_hour is missing", ""),
    (GOOD.replace("gpu: l4", "gpu: l44"), "4:11", "unknown GPU 'l44'", "did you mean l4?"),
    (GOOD.replace("gpu: l4", "gpu: radeon"), "4:11", "unknown GPU 'radeon'", "tune list gpus shows all"),
    (GOOD.replace('"2026-11"', "yesterday"), "4:65", "prices.0.as_of is no date", 'write it as "YYYY-MM-DD", or null'),
    (GOOD.replace("tier: spot", "tier: 4"), "4:38", "prices.0.tier must be a text", ""),
    (
        GOOD.replace("tier: spot", "tier: spot, least: 0"),
        "4:51",
        "prices.0.least must be a number of GPUs, at least 1",
        "",
    ),
    (
        GOOD.replace("name: mine", "name: yours"),
        "1:7",
        "name is 'yours', and the file is mine.yaml",
        "write name: mine",
    ),
    (GOOD.replace("title: Mine\n", ""), "1:7", "title is missing", ""),
    (
        "name: mine\ntitle: Mine\nprices: 3\n",
        "3:9",
        "prices is a list of mappings",
        "- {gpu: l4, usd_per_hour: 0.8, ...}",
    ),
    (
        GOOD + "usd_per_hour_range: {low: 2, high: 1, source: s}\n",
        "5:27",
        "usd_per_hour_range.low is 2, above high, 1",
        "",
    ),
    (GOOD + "usd_per_hour_range: 3\n", "5:21", "usd_per_hour_range is a mapping of low, high and source", ""),
]


def test_what_is_wrong_is_said_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for text, place, what, hint in BROKEN:
        path.write_text(text)
        with pytest.raises(RecipeError) as caught:
            read_provider(path)
        found = [(f"{p.place.line}:{p.place.column}" if p.place else "", p.what, p.hint) for p in caught.value.problems]
        assert (place, what, hint) in found, (text, found)
    path.write_text(GOOD.replace(": 1,", ": -1,").replace("l4", "l44").replace("title", "tittle"))
    with pytest.raises(RecipeError) as caught:
        read_provider(path)
    assert len(caught.value.problems) == 4  # all at once: the key, the missing title, the price, the GPU


def test_they_are_listed(tmp_path: Path) -> None:
    out = tune(tmp_path, "list", "providers").stdout
    lines = out.splitlines()
    assert lines[0].split() == ["gpu", "provider", "tier", "an", "hour", "as", "of"]
    assert "l4         modal     on-demand    $0.80  2026-05-07" in lines
    assert "v100       lambda    on-demand    $0.79  2026-09-20  8 at least" in lines
    assert "RunPod  $0.39 to $2.89 an hour by source document PEFT Studio, undated" in lines
    assert max(map(len, lines)) <= 120
    rows = json.loads(tune(tmp_path, "list", "providers", "--json").stdout)
    assert {row["name"]: len(row["prices"]) for row in rows} == {one.name: len(one.prices) for one in providers()}


def test_the_files_of_the_library_are_all_read() -> None:
    assert {p.stem for p in (library_root() / PROVIDERS).glob("*.yaml")} == {one.name for one in providers()}
