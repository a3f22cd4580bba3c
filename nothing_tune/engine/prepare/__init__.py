"""From sources to tokens: what a run trains on, made once, kept by content, and looked at before a model is loaded."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nothing_tune.artifacts import read_json
from nothing_tune.data import rows, sources, splits
from nothing_tune.engine import chat_templates, fingerprints, template_probes
from nothing_tune.engine.prepare import audit, facts, gate, packing, store
from nothing_tune.engine.prepare.pipeline import Settings, Tell, prepare
from nothing_tune.engine.prepare.tokens import IGNORED, Encoder, render
from nothing_tune.errors import Problem, UsageError
from nothing_tune.plan.model import Plan
from nothing_tune.plan.steps import steps

if TYPE_CHECKING:
    from datasets import Dataset

VERSION = 2
"""Raised when the same sources and settings give other tokens: what was prepared before is then not found again."""
DEFAULT_LENGTH = 1024
PACKED_SAMPLE = 20_000
"""Rows from which it is told what packing would save."""
BEGINNING = 40
"""Tokens of a strange row that are shown."""
LIBRARIES = ("transformers", "tokenizers", "trl", "datasets", "jinja2", "pyarrow")


@dataclass(frozen=True)
class Prepared:
    """Rows as they are trained on.

    Attributes:
        train: `input_ids`, `labels` and where they come from; with packing also `seq_lengths`.
        eval: The same, never packed; None when evaluation is off.
        report: What is known of the rows: counts, lengths, what was left out, `findings` of the gate, `steps`.
        template: The chat template that rendered them.
        kind: `messages`, `prompt-completion` or `text`.
    """

    train: Dataset
    eval: Dataset | None
    report: dict[str, Any]
    template: chat_templates.Choice
    kind: str

    def places(self, sequence: int) -> list[str]:
        """Where the rows of a training sequence come from: `FILE:LINE` each."""
        entry = self.train[sequence]
        pairs = zip(np.atleast_1d(entry["file"]), np.atleast_1d(entry["line"]), strict=True)
        files = self.report["files"]
        return [sources.place(files[file][0], int(line), files[file][1]) for file, line in pairs]


def load(plan: Plan, tokenizer: Any, evaluate: bool, date: str | None = None, tell: Tell = lambda *_: None) -> Prepared:
    """The rows of `plan` as tokens: found where they were prepared before, else made now.

    Args:
        plan: Its `data`, `training` and `model` decide.
        tokenizer: The model's; ChatML's tokens are added to it where the plan asks for ChatML.
        evaluate: Whether evaluation rows are made.
        date: The day that chat templates print, such as `26 Jul 2024`; None is today.
        tell: Told what is done while it takes time.

    Raises:
        UsageError: A source is missing or has no known format, too many rows are bad, or no template fits.
        StorageError: The cache cannot be written.
    """
    began = time.monotonic()
    data = plan.data
    train = sources.open_all(data.get("train"), data, "data.train")
    held_out = _held_out(data) if evaluate else None
    kind = _kind(train, held_out)
    sample = _sample(train, data)
    if evaluate and held_out is None:
        splits.check_columns(sample, data.get("group_by"), data.get("stratify_by"))
    assistant_only = plan.training.get("assistant_only_loss")
    assistant_only = any(o.format.KIND == "messages" for o in train) if assistant_only is None else bool(assistant_only)
    wanted = data.get("chat_template") or plan.model.get("chat_template")
    talks = kind == "messages" or any(isinstance(row.get("prompt"), list) for row in sample)
    template = chat_templates.choose(tokenizer, wanted, talks, assistant_only, sample, date)
    completion_only = plan.training.get("completion_only_loss")
    encoder = Encoder(tokenizer, template, assistant_only, True if completion_only is None else bool(completion_only))
    settings = Settings(
        data=_deciding(data),
        evaluate=evaluate,
        max_length=_max_length(plan),
        packed=bool(plan.training.get("packing")),
    )
    target = store.folder(store.key(_parts(train, held_out, encoder, settings)))
    found = store.complete(target)
    if not found:
        with store.making(target) as folder:
            found = folder is None
            if folder is not None:
                with _threads():
                    report = prepare(train, held_out, encoder, settings, folder, tell)
                    _show_strange(report, folder, tokenizer)
                    store.finish(folder, report)
    made = _opened(target, plan, encoder, settings, kind)
    _rename(made.report, [label for one in [*(held_out or []), *train] for label in one.labels])
    bad = made.report["bad_rows"]
    rows.refuse_share(bad["count"], bad["read"], bad["examples"], float(data.get("max_bad_rows") or 0.0))
    made.report.update(cached=found, seconds=round(time.monotonic() - began, 3))
    passed_over = _passed_over(sample, encoder) if talks else Counter()
    made.report["findings"] = gate.findings(facts.gather(made.report, plan, encoder, kind, passed_over))
    return made


@contextlib.contextmanager
def _threads() -> Iterator[None]:
    """Lets the tokenizer use all cores; afterwards processes may fork again without its warning."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        yield
    finally:
        os.environ["TOKENIZERS_PARALLELISM"] = before or "false"


def examples(prepared: Prepared, tokenizer: Any, count: int) -> list[dict[str, Any]]:
    """The first `count` training rows as the model sees them, in pieces that are learned or not, special tokens by themselves.

    Each is `{"place", "row", "tokens", "supervised", "cut", "pieces": [{"text", "supervised", "special"}]}`; `cut` counts the
    tokens that were cut off, None in packed sequences.
    """
    specials = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | set(
        tokenizer.all_special_ids
    )
    out: list[dict[str, Any]] = []
    for index in range(len(prepared.train)):
        entry = prepared.train[index]
        ends = np.cumsum(entry["seq_lengths"]) if "seq_lengths" in entry else [len(entry["input_ids"])]
        start = 0
        for place, end in zip(prepared.places(index), ends, strict=True):
            if len(out) == count:
                return out
            ids, labels = entry["input_ids"][start:end], entry["labels"][start:end]
            start = int(end)
            out.append(
                {
                    "place": place,
                    "row": len(out),
                    "tokens": len(ids),
                    "supervised": sum(label != IGNORED for label in labels),
                    "cut": entry["before"] - len(ids) if "before" in entry else None,
                    "pieces": _pieces(ids, labels, tokenizer, specials),
                }
            )
    return out


def packed_waste(prepared: Prepared) -> float:
    """The share of a sequence that packing would leave empty, told from a sample of the rows."""
    rows = prepared.train.select(range(min(len(prepared.train), PACKED_SAMPLE)))
    length = int(prepared.report["max_length"])
    tokens = int(packing.lengths_of(rows).sum())
    return 1 - tokens / (packing.sequences(rows, length) * length) if tokens else 0.0


def _pieces(ids: Sequence[int], labels: Sequence[int], tokenizer: Any, specials: set[int]) -> list[dict[str, Any]]:
    runs = itertools.groupby(
        zip(ids, labels, strict=True), key=lambda pair: (pair[1] != IGNORED, pair[0] if pair[0] in specials else None)
    )
    out = []
    for (supervised, special), pairs in runs:
        run = [token for token, _ in pairs]
        for part in [[token] for token in run] if special is not None else [run]:
            text = tokenizer.decode(part, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            out.append({"text": text, "supervised": supervised, "special": special is not None})
    return out


def _held_out(data: dict[str, Any]) -> list[sources.Opened] | None:
    """The evaluation rows' own sources; None when a share of the training rows is split off."""
    given = data.get("eval")
    if isinstance(given, int | float) and not isinstance(given, bool) and given:
        return None
    if not given:
        raise UsageError(
            Problem(
                "evaluation is on, but data.eval names no rows",
                key="data.eval",
                hint="set data.eval to a share such as 0.1, or to a file, or training.eval_strategy to no",
            )
        )
    return sources.open_all(given, data, "data.eval")


def _kind(train: list[sources.Opened], held_out: list[sources.Opened] | None) -> str:
    """The kind of the rows; of several kinds the one that most asks of a template."""
    kinds = {one.format.KIND for one in [*train, *(held_out or [])]}
    return next(kind for kind in ("messages", "prompt-completion", "text") if kind in kinds)


def _sample(train: list[sources.Opened], data: dict[str, Any]) -> list[dict[str, Any]]:
    """The first rows of each source, to try templates on."""
    each = -(-chat_templates.ROWS // len(train))
    found = [itertools.islice(rows.stream([one], data, rows.Ledger()), each) for one in train]
    return [row.value for some in found for row in some]


def _max_length(plan: Plan) -> int | None:
    """As the recipe writes it, TRL's own default where it says nothing; without padding the Trainer gets None and would not cut."""
    arguments = plan.training
    if arguments.get("padding_free") and not arguments.get("packing"):
        arguments = plan.values.get("training") or {}
    length = arguments.get("max_length", DEFAULT_LENGTH)
    return None if length is None else int(length)


def _deciding(data: dict[str, Any]) -> dict[str, Any]:
    """Those of the data settings that decide what the rows become; where they lie is known by their content."""
    return {
        k: v for k, v in data.items() if k not in ("sample", "chat_template", "format", "max_bad_rows", "train")
    } | {"eval": data.get("eval") if isinstance(data.get("eval"), int | float) else None}


def _parts(
    train: list[sources.Opened], held_out: list[sources.Opened] | None, encoder: Encoder, settings: Settings
) -> dict[str, Any]:
    """All that the prepared rows depend on."""

    def told(opened: list[sources.Opened]) -> list[Any]:
        return [
            [sources.identity(o.source), o.format.NAME, o.source.weight, o.source.max_rows, o.source.columns]
            for o in opened
        ]

    template = encoder.template
    return {
        "version": VERSION,
        "train": told(train),
        "eval": told(held_out) if held_out is not None else None,
        "settings": dataclasses.asdict(settings),
        "template": [template.text, template.tools, sorted(template.roles), template.call_ids, template.added],
        "tokenizer": fingerprints.of_tokenizer(encoder.tokenizer),
        "learned": [encoder.assistant_only, encoder.completion_only],
        "versions": {name: metadata.version(name) for name in LIBRARIES},
    }


def _passed_over(sample: list[dict[str, Any]], encoder: Encoder) -> Counter[str]:
    """What the template leaves out of sampled rows without a word, and of how many."""
    found: Counter[str] = Counter()
    for row in sample:
        with contextlib.suppress(Exception):  # a row that it refuses is a bad row, told elsewhere
            found[template_probes.left_out(render(row, encoder), row) or ""] += 1
    del found[""]
    return found


def _opened(target: Path, plan: Plan, encoder: Encoder, settings: Settings, kind: str) -> Prepared:
    report = read_json(target / "report.json") or {}
    train = store.opened(target / "train.arrow")
    held_out = store.opened(target / "eval.arrow") if settings.evaluate else None
    micro = int(plan.training.get("per_device_train_batch_size") or 8)
    for name, data in (("train", train), ("eval", held_out)):
        if data is not None:
            side = report[name]
            packed = side["sequences"] if name == "train" and settings.packed else None
            side["padding"] = audit.padding(packing.lengths_of(data), micro, settings.max_length, packed)
    report |= {
        "name": plan.name,
        "model": plan.model.get("name_or_path"),
        "template": encoder.template.source,
        "format": ", ".join(dict.fromkeys(one["format"] for one in report["sources"])),
        "kind": kind,
        "split": _split(plan.data) if settings.evaluate else None,
        "steps": steps(max(report["train"]["sequences"], 1), plan.training, plan.world_size),
    }
    return Prepared(train, held_out, report, encoder.template, kind)


def _rename(report: dict[str, Any], labels: list[str]) -> None:
    """Gives the files of a report, and the places in them, the names that they have now: the same rows may have been moved."""
    moved = {old: new for (old, _), new in zip(report["files"], labels, strict=True) if old != new}

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: renamed(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [renamed(inner) for inner in value]
        if isinstance(value, str):
            for old, new in moved.items():
                if value == old or value.startswith((f"{old}:", f"{old}, row ")):
                    return new + value[len(old) :]
        return value

    if moved:
        report.update(renamed(report))


def _show_strange(report: dict[str, Any], folder: Path, tokenizer: Any) -> None:
    """Gives each of the strangest rows its beginning as text."""
    for name in ("train", "eval"):
        for strange in (report[name] or {}).get("strangest", ()):
            ids = _document(store.opened(folder / f"{name}.arrow"), *strange.pop("where"))
            strange["text"] = " ".join(tokenizer.decode(ids[:BEGINNING], skip_special_tokens=True).split())


def _document(data: Dataset, file: int, line: int) -> list[int]:
    """The tokens of the row that comes from a line of a file, or of its first part."""
    found = data.select_columns(["file", "line"]).with_format("arrow")[:]
    columns = [found[name].combine_chunks() for name in ("file", "line")]
    if "seq_lengths" not in data.column_names:
        files, lines = (c.to_numpy(zero_copy_only=False) for c in columns)
        return list(data[int(np.flatnonzero((files == file) & (lines == line))[0])]["input_ids"])
    files, lines = (c.flatten().to_numpy(zero_copy_only=False) for c in columns)
    number = int(np.flatnonzero((files == file) & (lines == line))[0])
    ends = np.cumsum(columns[0].value_lengths().to_numpy(zero_copy_only=False))
    sequence = int(np.searchsorted(ends, number, side="right"))
    entry = data[sequence]
    within = number - (int(ends[sequence - 1]) if sequence else 0)
    start = sum(entry["seq_lengths"][:within])
    return list(entry["input_ids"][start : start + entry["seq_lengths"][within]])


def _split(data: dict[str, Any]) -> str:
    """How the evaluation rows were chosen, in words."""
    share = data.get("eval")
    if not isinstance(share, int | float):
        return "its own source"
    words = [f"{share:.3g} of the rows", f"seed {data.get('seed', 42)}"]
    words += [
        f"{name} {data[key]}"
        for key, name in (("group_by", "grouped by"), ("stratify_by", "even over"))
        if data.get(key)
    ]
    return ", ".join(words)
