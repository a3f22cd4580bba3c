"""A real-looking file of every format, looked at and trained on with the model that ships, from the file to the adapter."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from nothing_tune import formats
from nothing_tune import run as runs
from nothing_tune.artifacts import Run
from nothing_tune.engine import inspect, worker
from nothing_tune.plan import make_plan
from nothing_tune.recipe import load_recipe

CITIES = ("Lisbon", "Turin", "Oslo", "Cork", "Ghent", "Basel", "Porto", "Graz", "Bergen", "Delft", "Siena", "Malmö")
FORECAST = {
    "name": "get_forecast",
    "description": "Weather forecast for a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def messages(folder: Path) -> Path:
    rows = [
        {
            "messages": [
                {"role": "system", "content": "You answer in one sentence."},
                {"role": "user", "content": f"Is {city} worth a day?"},
                {"role": "assistant", "content": f"{city} is worth two, if you like walking 🙂."},
                {"role": "user", "content": "And in the rain?"},
                {"role": "assistant", "content": "Then one."},
            ],
            "source": "guide",
        }
        for city in CITIES
    ]
    return lines(folder / "talks.jsonl", rows)


def openai(folder: Path) -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Rain in {city}?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": f"call_{n}",
                            "type": "function",
                            "function": {"name": "get_forecast", "arguments": json.dumps({"city": city})},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": f"call_{n}", "content": json.dumps({"rain": n % 2 == 0})},
                {"role": "assistant", "content": "Take a coat." if n % 2 == 0 else "No.", "weight": 1},
            ],
            "tools": [{"type": "function", "function": FORECAST}],
            "parallel_tool_calls": False,
        }
        for n, city in enumerate(CITIES)
    ]
    path = folder / "fine-tuning.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return path


def prompt_completion(folder: Path) -> Path:
    path = folder / "pairs.tsv"
    with path.open("w", newline="", encoding="utf-8-sig") as out:
        writer = csv.writer(out, delimiter="\t")
        writer.writerow(["prompt", "completion", "level"])
        writer.writerows([f"The weather in {city} is", " mild, mostly.", "AB"[n % 2]] for n, city in enumerate(CITIES))
    return path


def text(folder: Path) -> Path:
    path = folder / "notes.jsonl.zst"
    body = "".join(json.dumps({"text": f"{city} lies by the water. It has a market."}) + "\n" for city in CITIES)
    path.write_bytes(zstandard.ZstdCompressor().compress(body.encode()))
    return path


def alpaca(folder: Path) -> Path:
    path = folder / "alpaca.json"
    rows = [
        {"instruction": "Name the city.", "input": f"It begins with {city[0]}.", "output": f"{city}, I would say."}
        for city in CITIES
    ]
    path.write_text(json.dumps(rows, indent=1))
    return path


def sharegpt(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        [{"from": "human", "value": f"Tell me of {city}."}, {"from": "gpt", "value": f"{city} has hills and trams."}]
        for city in CITIES
    ]
    pq.write_table(pa.table({"id": list(CITIES), "conversations": rows}), folder / "share.parquet")
    return folder / "share.parquet"


def glaive(folder: Path) -> Path:
    system = (
        "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n"
        f"{json.dumps(FORECAST, indent=4)}\n"
    )
    rows = [
        {
            "system": system,
            "chat": f"USER: Will it rain in {city}?\n\n\nASSISTANT: <functioncall> "
            f'{{"name": "get_forecast", "arguments": \'{{"city": "{city}"}}\'}} <|endoftext|>\n\n\n'
            'FUNCTION RESPONSE: {"rain": false}\n\n\n'
            f"ASSISTANT: It's dry in {city}. <|endoftext|>\n\n\n",
        }
        for city in CITIES
    ]
    return lines(folder / "glaive.jsonl", rows)


def transcript(folder: Path) -> Path:
    path = folder / "script.csv"
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["scene", "speaker", "line"])
        for city in CITIES:
            writer.writerow([city, "ANNA", f"We are in {city}."])
            writer.writerow([city, "GUS", 'Why, "of all places"?'])
            writer.writerow([city, "ANNA", "You chose it."])
            writer.writerow([city, "GUS", "I did nothing of the kind."])
    return path


FILES: dict[str, tuple[Callable[[Path], Path], list[str], str]] = {
    "messages": (messages, [], "<|im_start|>assistant\nLisbon is worth two, if you like walking 🙂.<|im_end|>"),
    "openai": (openai, [], '<tool_call>\n{"name": "get_forecast", "arguments": {"city": "Lisbon"}}\n</tool_call>'),
    "prompt-completion": (prompt_completion, ["data.stratify_by=level"], "The weather in Lisbon is mild, mostly."),
    "text": (text, [], "Lisbon lies by the water."),
    "alpaca": (alpaca, [], "Name the city.\n\nIt begins with L.<|im_end|>"),
    "sharegpt": (sharegpt, [], "Lisbon has hills and trams.<|im_end|>"),
    "glaive": (glaive, [], '<tool_call>\n{"name": "get_forecast", "arguments": {"city": "Lisbon"}}\n</tool_call>'),
    "transcript": (transcript, ["data.transcript.speaker=gus"], "We are in Lisbon.<|im_end|>"),
}


def test_every_format_has_a_file() -> None:
    assert sorted(FILES) == sorted(formats.names())


@pytest.mark.parametrize("name", FILES)
def test_from_the_file_to_the_adapter(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_CACHE_DIR", str(tmp_path / "cache"))
    make, more, shown = FILES[name]
    overrides = [
        f"data.train={make(tmp_path)}", "data.eval=0.2", "training.max_steps=2", "training.eval_steps=1",
        "training.save_steps=1", "quantization=null", *more,
    ]  # fmt: skip
    recipe = load_recipe("quickstart", gpu="cpu", overrides=overrides)
    run = runs.prepare(recipe, make_plan(recipe), root=tmp_path / "runs", name="made")
    assert run.plan()["data"]["format"] == name
    assert run.plan()["why"]["data.format"].startswith("derived: seen in the first rows of")

    report, examples = inspect.inspect(run.plan(), 12, lambda *_: None)
    assert [one["format"] for one in report["sources"]] == [name]
    assert (report["bad_rows"]["count"], report["sources"][0]["rows"]) == (0, 12)
    assert report["train"]["rows"] + report["eval"]["rows"] == 12
    assert report["eval"]["rows"] in (2, 3)
    assert not [f for f in report["findings"] if f["severity"] == "error"]
    texts = ["".join(piece["text"] for piece in example["pieces"]) for example in examples]
    assert any(
        shown.replace("Lisbon", city).replace("with L", f"with {city[0]}") in t for t in texts for city in CITIES
    )

    worker.main(run.path)
    result = Run(run.path).result()
    assert result is not None
    assert (result["state"], result["step"]) == ("done", 2), result["error"]
    assert result["adapter"]
