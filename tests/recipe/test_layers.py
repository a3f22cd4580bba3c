"""Layers: the order in which they win, what they leave behind, and what each value remembers of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nothing_tune.errors import RecipeError
from nothing_tune.recipe import layers, load_recipe
from nothing_tune.recipe.model import leaves


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, **files: str) -> None:
    for name, body in files.items():
        (folder / f"{name.replace('__', '/')}.yaml").write_text(body)


BODY = """\
layers: [below]
name: mine
training: {learning_rate: 3e-4}
gpus:
  t4: {training: {learning_rate: 4e-4}}
scenarios:
  debug: {training: {learning_rate: 5e-4}}
"""


def test_later_layers_win_in_the_documented_order(folder: Path) -> None:
    write(
        folder,
        below="layers: [methods/qlora]\ntraining: {learning_rate: 1e-4, seed: 1}\n",
        recipe=BODY,
        extra="training: {learning_rate: 6e-4}\n",
    )

    def rate(**how: object) -> float:
        return float(load_recipe("recipe.yaml", **{"gpu": "l4", **how}).get("training.learning_rate"))  # type: ignore[arg-type]

    assert rate() == 3e-4
    assert rate(gpu="t4") == 4e-4
    assert rate(gpu="t4", scenario="debug") == 5e-4
    assert rate(gpu="t4", scenario="debug", with_=["extra.yaml"]) == 6e-4
    assert rate(gpu="t4", scenario="debug", with_=["extra.yaml"], overrides=["training.learning_rate=7e-4"]) == 7e-4


def test_every_leaf_has_an_origin_with_all_it_shadowed(folder: Path) -> None:
    write(folder, below="layers: [methods/qlora]\ntraining: {learning_rate: 1e-4}\n", recipe=BODY)
    recipe = load_recipe("recipe.yaml", gpu="t4", overrides=["training.learning_rate=7e-4"])
    assert set(recipe.origins) == set(leaves(recipe.values))
    origin = recipe.origins["training.learning_rate"]
    assert (origin.layer, origin.n, origin.value, origin.place) == ("command line", origin.of, 7e-4, None)
    assert [(o.layer, o.value) for o in origin.shadowed[1:]] == [
        ("below.yaml", 1e-4),
        ("recipe.yaml", 3e-4),
        ("recipe.yaml gpus.t4", 4e-4),
    ]
    assert str(origin.shadowed[-1].place) == "recipe.yaml:5:34"


def test_null_switches_a_section_off_and_replace_starts_it_anew(folder: Path) -> None:
    write(
        folder, plain="layers: [methods/qlora]\npeft: null\n", recipe="layers: [plain]\npeft: {peft_type: LORA, r: 4}\n"
    )
    recipe = load_recipe("recipe.yaml", gpu="cpu")
    assert recipe.get("peft") == {"peft_type": "LORA", "r": 4}
    assert not [k for k in recipe.origins if k == "peft"]
    write(folder, recipe="layers: [methods/qlora]\nreplace: [peft]\npeft: {peft_type: IA3}\n")
    assert load_recipe("recipe.yaml", gpu="cpu").get("peft") == {"peft_type": "IA3"}


def test_a_file_named_twice_counts_once(folder: Path) -> None:
    write(folder, a="layers: [methods/qlora]\ntraining: {seed: 5}\n", recipe="layers: [a, methods/qlora]\n")
    assert load_recipe("recipe.yaml", gpu="cpu").get("training.seed") == 5


def test_unset_removes_and_says_when_there_is_nothing(folder: Path) -> None:
    write(folder, recipe="layers: [methods/qlora]\n")
    assert (
        load_recipe("recipe.yaml", gpu="cpu", overrides=["~training.seed", "training.data_seed=1"]).get("training.seed")
        is None
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe("recipe.yaml", gpu="cpu", unset=["training.sed"])
    assert str(caught.value).splitlines()[0] == "error: ~training.sed removes nothing: no layer sets training.sed"


def test_environment_variables_stay_unresolved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "/secret")
    write(folder, recipe="layers: [methods/qlora]\ndata:\n  train: ${oc.env:WHERE}/rows.jsonl\n  eval: ${data.train}\n")
    recipe = load_recipe("recipe.yaml", gpu="cpu")
    assert recipe.get("data.train") == recipe.get("data.eval") == "${oc.env:WHERE}/rows.jsonl"


def test_interpolation_reaches_the_gpu(folder: Path) -> None:
    write(folder, recipe="layers: [methods/qlora]\ntraining: {run_name: 'marco-lora-${gpu.slug}'}\n")
    assert load_recipe("recipe.yaml", gpu="t4").get("training.run_name") == "marco-lora-tesla-t4"


def test_paths_are_meant_relative_to_their_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "rows.jsonl").write_text('{"text": "x"}\n')
    write(folder, deep__recipe="layers: [methods/qlora]\ndata: {train: rows.jsonl, eval: elsewhere.jsonl}\n")
    recipe = load_recipe("deep/recipe.yaml", gpu="cpu")
    assert recipe.get("data.train") == str(folder / "deep" / "rows.jsonl")
    assert recipe.get("data.eval") == "elsewhere.jsonl"


def test_paths_inside_sources_are_meant_the_same(folder: Path) -> None:
    (folder / "deep").mkdir()
    for name in ("rows.jsonl", "more.csv"):
        (folder / "deep" / name).write_text("x")
    body = "data:\n  train: [rows.jsonl, {source: more.csv, weight: 2}, {weight: 1}, {source: org/rows}]\n  eval: {source: '*.jsonl'}\n"
    values = layers.expand(write_one(folder / "deep" / "recipe.yaml", body))[0][0].values["data"]
    deep = folder / "deep"
    assert values["train"] == [
        f"{deep}/rows.jsonl",
        {"source": f"{deep}/more.csv", "weight": 2},
        {"weight": 1},
        {"source": "org/rows"},
    ]
    assert values["eval"] == {"source": f"{deep}/*.jsonl"}


def write_one(path: Path, body: str) -> Path:
    path.write_text(body)
    return path


@pytest.mark.parametrize(
    ("below", "above", "found"),
    [
        ("{source: a, max_rows: 5}", "{max_rows: 7}", {"source": "a", "max_rows": 7}),
        ("{source: a, max_rows: 5}", "{source: b}", {"source": "b"}),
        ("{source: a, max_rows: 5}", "b", "b"),
        ("{source: a, max_rows: 5}", "[b, {source: c}]", ["b", {"source": "c"}]),
        ("{source: a, max_rows: 5}", "${data.sample.train}", "s"),
        ("a", "{max_rows: 7}", {"source": "a", "max_rows": 7}),
        ("[a]", "{max_rows: 7}", {"source": "a", "max_rows": 7}),
        ("[{source: a, weight: 2}]", "{max_rows: 7}", {"source": "a", "weight": 2, "max_rows": 7}),
        ("${data.sample.train}", "{max_rows: 7}", {"source": "s", "max_rows": 7}),
        ("${oc.env:WHERE}", "{max_rows: 7}", {"source": "${oc.env:WHERE}", "max_rows": 7}),
        ("[a, {source: b}]", "{source: c, split: test}", {"source": "c", "split": "test"}),
        ("a", "{source: c, split: test}", {"source": "c", "split": "test"}),
        ("a", "[{source: '${data.sample.train}', revision: '${oc.env:WHERE}'}]", [{"source": "s", "revision": "${oc.env:WHERE}"}]),
    ],
)  # fmt: skip
def test_a_source_starts_anew_where_it_is_named(folder: Path, below: str, above: str, found: object) -> None:
    write(
        folder,
        below=f"layers: [base/qlora]\ndata: {{train: {quoted(below)}, sample: {{train: s}}, format: text}}\n",
        recipe=f"layers: [below]\ndata: {{train: {quoted(above)}}}\n",
    )
    recipe = load_recipe("recipe.yaml", gpu="cpu")
    assert recipe.get("data.train") == found
    assert set(recipe.origins) == set(leaves(recipe.values))
    assert list(recipe.values["data"])[:4] == ["train", "eval", "sample", "format"]


def test_settings_of_a_source_on_the_command_line(folder: Path) -> None:
    write(
        folder, recipe="layers: [base/qlora]\ndata: {train: a}\n", two="layers: [base/qlora]\ndata: {train: [a, b]}\n"
    )
    for words, found in (
        (["data.train.max_rows=3"], {"source": "a", "max_rows": 3}),
        (["data.train=c", "data.train.max_rows=3"], {"source": "c", "max_rows": 3}),
        (["data.train.max_rows=3", "data.train=c"], {"source": "c", "max_rows": 3}),
        (
            ["data.train=[c]", "data.train.max_rows=3", "data.train.format=text"],
            {"source": "c", "max_rows": 3, "format": "text"},
        ),
    ):
        assert load_recipe("recipe.yaml", gpu="cpu", overrides=words).get("data.train") == found
    recipe = load_recipe("recipe.yaml", gpu="cpu", overrides=["data.train.max_rows=3"])
    assert (recipe.origins["data.train.source"].layer, "data.train" in recipe.origins) == ("recipe.yaml", False)
    for name, words in (("two", ["data.train.max_rows=3"]), ("recipe", ["data.train=[a, b]", "data.train.max_rows=3"])):
        with pytest.raises(RecipeError) as caught:
            load_recipe(f"{name}.yaml", gpu="cpu", overrides=words)
        assert [(p.what, p.hint) for p in caught.value.problems] == [
            (
                "data.train names 2 sources, and max_rows is of one of them",
                "write the whole list: data.train=[{source: FILE, max_rows: 3}, OTHER]; data.max_samples=3 is for all together",
            )
        ]
    with pytest.raises(RecipeError) as caught:
        load_recipe("recipe.yaml", gpu="cpu", overrides=["data.eval=[a, b]", "data.eval.format=text"])
    assert caught.value.problems[0].hint == "write the whole list: data.eval=[{source: FILE, format: text}, OTHER]"


def quoted(value: str) -> str:
    return f"'{value}'" if value.startswith("$") else value


def test_a_setting_of_a_source_on_the_command_line(folder: Path) -> None:
    write(folder, recipe="layers: [base/qlora]\ndata: {train: {source: a, max_rows: 5}}\n")
    recipe = load_recipe("recipe.yaml", gpu="cpu", overrides=["data.train.max_rows=9"])
    assert recipe.get("data.train") == {"source": "a", "max_rows": 9}
    recipe = load_recipe("recipe.yaml", gpu="cpu", overrides=["data.train=[{source: b}, c]"])
    assert recipe.get("data.train") == [{"source": "b"}, "c"]


def test_what_is_wrong_inside_a_list_has_its_own_place(folder: Path) -> None:
    write(folder, recipe="layers: [base/qlora]\ndata:\n  train:\n    - a\n    - source: b\n      max_rows: 0\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe("recipe.yaml", gpu="cpu")
    (problem,) = caught.value.problems
    assert (problem.key, str(problem.place), problem.layer) == (
        "data.train.1.max_rows",
        "recipe.yaml:6:17",
        "layer 3 of 3: recipe.yaml",
    )


def test_the_generic_gpu_is_filled_from_the_driver() -> None:
    facts = {"slug": "nvidia-future", "memory_gb": 99.0, "bf16": True}
    recipe = load_recipe("quickstart", machine={"name": "cuda", "facts": facts})
    assert recipe.get("gpu.slug") == "nvidia-future"
    assert recipe.origins["gpu.memory_gb"].layer == "this machine"


def test_a_recipe_may_name_its_gpu(folder: Path) -> None:
    write(folder, recipe="layers: [methods/qlora]\ngpu: {name: t4}\n")
    assert load_recipe("recipe.yaml", machine={"name": "l4"}).get("gpu.slug") == "tesla-t4"
    assert load_recipe("recipe.yaml", gpu="l4", machine={"name": "cpu"}).get("gpu.memory_gb") == 24


def test_a_layer_shown_alone_goes_below_the_gpu() -> None:
    recipe = load_recipe(None, gpu="cpu")
    assert [layer.name for layer in recipe.layers] == ["base/qlora", "gpus/cpu"]
    assert recipe.get("training.dataloader_pin_memory") is False


def test_a_recipe_without_a_name_is_called_as_its_file(folder: Path) -> None:
    write(folder, mine="layers: [methods/qlora]\n")
    recipe = load_recipe("mine.yaml", gpu="cpu")
    assert (recipe.name, recipe.get("training.run_name")) == ("mine", "mine")
