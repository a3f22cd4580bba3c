"""A run as one record: base, method, data, recipe, curves, plan against measured, evaluations, exports. From its files alone.

Cards, reports and comparisons are written from it. `of_run` says all that is known on this machine; `public` takes out of that
what is nobody's business elsewhere: secrets, and where files lie.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run, attempts, checkpoint, read_json
from nothing_tune.artifacts.redact import redact
from nothing_tune.data import sources
from nothing_tune.errors import StorageError, UsageError
from nothing_tune.outputs import manifest

SCHEMA = 1
POINTS = 200
"""Points of a curve that a record holds at most."""
EXPORTS = "exports"
EVALUATIONS = "evaluations"
METHODS = {
    "full": "full fine-tuning: every weight trains",
    "lora": "LoRA",
    "qlora": "QLoRA: LoRA on a base in 4 bits",
    "lora-8bit": "LoRA on a base in 8 bits",
    "dora": "DoRA",
    "qdora": "DoRA on a quantised base",
    "rslora": "rank-stabilised LoRA",
    "pissa": "PiSSA",
    "olora": "OLoRA",
    "loftq": "LoftQ",
    "ia3": "IA3",
    "vera": "VeRA",
}
"""Methods and how they are written out."""
_PATH = re.compile(r"(?<![\w:/.}])(?:~|[A-Za-z]:)?[/\\][\w.@+~-][\w.@+~ /\\-]*|(?<![\w/.])\.{1,2}(?:/[\w.@+~-]+)+")
_FILE = re.compile(
    r"[\w.@+~ -]+(?:[/\\][\w.@+~ -]+)+\.(?:jsonl?|csv|tsv|parquet|arrow|ya?ml|jinja|txt|gz|zst|md|log|py|sh)"
)
_ABSOLUTE = r"(?:~[\w.-]*/|[A-Za-z]:[/\\]|/)"
_QUOTED_PATH = re.compile(rf"""(["'])({_ABSOLUTE}[^"'\n{{}}<>]*[/\\][^"'\n{{}}<>]*)\1""")
_PLAIN_PATH = re.compile(rf"(?<![\w:/.}}!<~\\])(?!/(?:usr/)?bin/|/dev/){_ABSOLUTE}[\w.@+~-]+(?:[/\\][\w.@+~-]+)+")
_INNER = frozenset({"num_tokens", "epoch"})


def of_run(run: Run, points: int = POINTS) -> dict[str, Any]:
    """All that a run directory tells, as plain data; None or empty is what it does not tell.

    Keys:
        `id`, `path`, `name`, `description`, `state`, `parent` (of a fork: `{run, step, mode}`), `error` (its first problem);
        `created`, `ended` (Unix seconds), `duration_s` (all attempts together), `attempts` (their number);
        `base`: `{name_or_path, revision, licence, gated, family, parameters, parameters_b, hub}`;
        `method`: `{name, words, peft, quantization, dtype, trainable, total}`;
        `data`: `{sources: [{role, name, shown, hub, bytes, sha256, card, ...}], format, rows, eval_rows, supervised_tokens, counts}`;
        `recipe`: `{layers, values, training}`; `values` is the resolved recipe, derived values included, `training` what the trainer got;
        `curves`: `{loss, eval, learning_rate, grad_norm, memory_gib, tokens_per_s}`: lists of `[step, value]`, thinned to `points`;
        `evaluations_while_training`: `[{step, epoch, metrics}]`, all of them;
        `best`: `{step, epoch, metric, value}`; `metrics`: the final ones; `steps`, `total_steps`, `epochs`;
        `machine`: `{device, gpu, gpu_name, memory_gib, cpus}`; `versions`: package -> version;
        `planned`: forecast.json; `plan_against_measured`: `[{what, planned, low, high, measured, unit}]`;
        `evaluations`: every evaluations/*.json; `exports`: `[{folder, step, kind, output, files, bytes, proof, settings, made}]`;
        `fingerprints`: of the newest checkpoint: `{train_tokens, eval_tokens, tokenizer, chat_template, model}`, digests or None;
        `warnings`: what the run warned of.

    Raises:
        UsageError: The directory holds no plan. What else is damaged or missing is left out.
    """
    plan = run.plan()
    told = _events(run)
    status, result, lock, forecast = (
        _quietly(run.path / name) for name in ("status.json", "result.json", "lock.json", "forecast.json")
    )
    machine = _quietly(run.path / "machine.json").get("engine") or {}
    values = plan.get("values") or {}
    start, metrics = told["start"], result.get("metrics") or {}
    tries = attempts.all(run)
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "id": run.id,
        "path": str(run.path),
        "name": str(plan.get("name") or run.id),
        "description": str(values.get("description") or ""),
        "state": run.state(),
        "parent": lock.get("parent"),
        "error": (((result.get("error") or {}).get("problems") or [{}])[0]).get("what"),
        "created": status.get("created"),
        "ended": result.get("ended"),
        "duration_s": _duration(tries, result),
        "attempts": len(tries) or 1,
        "base": _base(plan, forecast),
        "method": {
            **_method(plan),
            "trainable": start.get("trainable_parameters"),
            "total": start.get("total_parameters"),
        },
        "data": _data(plan, lock, start),
        "recipe": {
            "layers": list(lock.get("layers") or []),
            "values": values,
            "training": dict(plan.get("training") or {}),
        },
        "curves": {name: thinned(sorted(curve.items()), points) for name, curve in told["curves"].items()},
        "evaluations_while_training": [told["evals"][step] for step in sorted(told["evals"])],
        "best": _best(plan, told, metrics),
        "metrics": metrics,
        "steps": result.get("step", status.get("step")),
        "total_steps": start.get("total_steps", status.get("total_steps")),
        "epochs": result.get("epoch", status.get("epoch")),
        "phases": result.get("phases") or {},
        "notes": list(result.get("notes") or []),
        "machine": {
            "device": start.get("device") or machine.get("device"),
            "gpu": (plan.get("gpu") or {}).get("name"),
            "gpu_name": machine.get("gpu"),
            "memory_gib": machine.get("memory_gib"),
            "cpus": machine.get("cpus"),
        },
        "versions": {"python": lock.get("python"), **(lock.get("packages") or {})},
        "planned": forecast,
        "evaluations": _evaluations(run),
        "exports": exports(run.path / EXPORTS),
        "fingerprints": fingerprints(run),
        "warnings": told["warnings"],
    }
    record["plan_against_measured"] = _against(record, plan)
    return record


def public(data: Any) -> Any:
    """`data` for everybody: secrets masked, and every path of a file replaced by the file's name; the keys `path` are left out."""
    if isinstance(data, str):
        return _anonymous(redact(data))
    if isinstance(data, Mapping):
        return {_anonymous(str(k)): public(v) for k, v in data.items() if k != "path"}
    if isinstance(data, list | tuple):
        return [public(v) for v in data]
    return data


def public_script(text: str, folders: Iterable[str] = ()) -> str:
    """A command or settings file for everybody: of absolute paths the last part; all else, relative paths among it, stays.

    Args:
        text: As it lies in a file; secrets are not looked for.
        folders: Paths that are known to be of this machine, with whatever characters in them.
    """
    for folder in sorted(folders, key=len, reverse=True):
        if folder.strip("./~\\") and ("/" in folder or "\\" in folder):
            text = re.sub(
                rf"(?<![\w.-]){re.escape(folder.rstrip('/'))}(?![\w.-])", lambda m: file_name(m.group(0)), text
            )
    text = _QUOTED_PATH.sub(lambda m: f"{m[1]}{file_name(m[2])}{m[1]}", text)
    return _PLAIN_PATH.sub(lambda m: file_name(m.group(0)), text)


def file_name(source: str) -> str:
    """A local file's own name, `rows.jsonl` for `~/data/rows.jsonl`; what is no path stays."""
    return source.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] or source


def thinned(curve: Sequence[Any], points: int) -> list[Any]:
    """At most `points` (2 or more) entries of `curve`, evenly apart, its first and last among them; as lists where they are tuples."""
    count = len(curve)
    if count > points:
        curve = [curve[round(i * (count - 1) / (points - 1))] for i in range(points)]
    return [list(one) if isinstance(one, tuple) else one for one in curve]


def exports(folder: Path) -> list[dict[str, Any]]:
    """What lies below `exports/` (or another folder of `step-N/` folders), by step, from the manifests; damaged ones are left out."""
    out = []
    found = sorted(folder.glob(f"**/{manifest.NAME}")) if folder.is_dir() else []
    for path in found:
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        with contextlib.suppress(UsageError):
            data = manifest.read(path.parent) or {}
            for name, entry in sorted((data.get("outputs") or {}).items()):
                out.append(
                    {
                        "folder": str(path.parent.relative_to(folder)),
                        "step": (data.get("source") or {}).get("step"),
                        "kind": data.get("kind"),
                        "output": name,
                        "files": {n: f.get("size") for n, f in (entry.get("files") or {}).items()},
                        "bytes": sum(int(f.get("size") or 0) for f in (entry.get("files") or {}).values()),
                        "proof": entry.get("proof"),
                        "settings": entry.get("settings") or {},
                        "made": entry.get("made"),
                    }
                )
    return sorted(out, key=lambda e: (e["step"] or 0, e["folder"], e["output"]))


def method_of(peft: Mapping[str, Any] | None, quantization: Mapping[str, Any] | None) -> str:
    """Name of the method, a key of `METHODS` or PEFT's own name in lower case, from the plan's sections."""
    if not peft:
        return "full"
    kind = str(peft.get("peft_type") or "LORA").lower()
    if kind != "lora":
        return kind
    start = str(peft.get("init_lora_weights") or "").lower()
    for name in ("pissa", "olora", "loftq"):
        if start.startswith(name):
            return name
    if peft.get("use_dora"):
        return "qdora" if quantization else "dora"
    if peft.get("use_rslora") and not quantization:
        return "rslora"
    if (quantization or {}).get("load_in_8bit"):
        return "lora-8bit"
    return "qlora" if quantization else "lora"


def _method(plan: Mapping[str, Any]) -> dict[str, Any]:
    peft, quantization = plan.get("peft"), plan.get("quantization")
    name = method_of(peft, quantization)
    words = METHODS.get(name, name)
    if name == "qlora" and peft and peft.get("use_rslora"):
        words += ", rank-stabilised"
    dtype = ((plan.get("model") or {}).get("init") or {}).get("dtype")
    return {"name": name, "words": words, "peft": peft, "quantization": quantization, "dtype": dtype}


def _base(plan: Mapping[str, Any], forecast: Mapping[str, Any]) -> dict[str, Any]:
    model, known = plan.get("model") or {}, forecast.get("model") or {}
    written = (plan.get("values") or {}).get("model") or {}
    name = str(model.get("name_or_path") or "")
    return {
        "name_or_path": name,
        "hub": is_hub_id(name),
        "revision": model.get("revision"),
        "licence": written.get("license"),
        "gated": bool(written.get("gated")),
        "family": known.get("family"),
        "parameters": known.get("parameters"),
        "parameters_b": written.get("parameters_b"),
    }


def is_hub_id(name: str) -> bool:
    """Whether a model's name is `org/name` (or `name`) of the hub rather than a folder; looks at the disk for a folder."""
    looks = re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name) is not None
    return looks and not Path(name).exists()


def _data(plan: Mapping[str, Any], lock: Mapping[str, Any], start: Mapping[str, Any]) -> dict[str, Any]:
    data = plan.get("data") or {}
    marks = lock.get("data") or {}
    found = []
    for role in ("train", "eval"):
        value = data.get(role)
        if not value or isinstance(value, int | float):
            continue
        with contextlib.suppress(UsageError):
            for one in sources.parse(value, data, f"data.{role}"):
                local = sources.is_file(one.name) or one.name in marks
                found.append(
                    {
                        "role": role,
                        "name": one.name,
                        "shown": file_name(one.name) if local else one.label,
                        "hub": not local and "${" not in one.name,
                        "weight": one.weight,
                        "max_rows": one.max_rows,
                        "revision": one.revision,
                        **(marks.get(one.name) or {}),
                        "card": _card(one.name) if local else {},
                    }
                )
    told = start.get("data") or {}
    return {
        "sources": found,
        "held_out": data.get("eval") if isinstance(data.get("eval"), float) else None,
        "format": start.get("format") or data.get("format"),
        "chat_template": start.get("chat_template"),
        "rows": told.get("rows", start.get("train_rows")),
        "eval_rows": told.get("eval_rows", start.get("eval_rows")),
        "sequences": start.get("train_sequences"),
        "supervised_tokens": start.get("supervised_tokens"),
        "counts": {k: told[k] for k in ("bad", "duplicates", "leaked", "cut") if told.get(k) is not None},
        "max_length": told.get("max_length"),
    }


def _card(name: str) -> dict[str, Any]:
    """What the card beside a data file says (see `data.card`); empty where there is none."""
    from nothing_tune.data import card

    path = Path(name).expanduser()
    found = _quietly(card.card_path(path)) if path.is_file() else {}
    return {k: found[k] for k in ("made_by", "command", "rows", "sha256", "settings", "sources") if k in found}


def _events(run: Run) -> dict[str, Any]:
    """`start`: the last start event; `curves` and `evals` by step, where a step was done twice as the last attempt had it."""
    curves: dict[str, dict[int, float]] = {
        n: {} for n in ("loss", "eval", "learning_rate", "grad_norm", "memory_gib", "tokens_per_s")
    }
    told: dict[str, Any] = {"start": {}, "curves": curves, "evals": {}, "best": None, "warnings": []}
    for event, _ in run.events():
        kind, step = event.get("type"), event.get("step")
        metrics = event.get("metrics") or {}
        if kind == "start":
            told["start"] = event
        elif kind == "resume" and isinstance(step, int):
            for curve in (*curves.values(), told["evals"]):
                for later in [s for s in curve if s > step]:
                    del curve[later]
        elif kind == "log" and isinstance(step, int):
            for name in ("loss", "learning_rate", "grad_norm"):
                _put(curves[name], step, metrics.get(name))
            for name in ("memory_gib", "tokens_per_s"):
                _put(curves[name], step, event.get(name))
        elif kind == "eval" and isinstance(step, int):
            _put(curves["eval"], step, metrics.get("eval_loss"))
            kept = {k: v for k, v in metrics.items() if isinstance(v, int | float) and k not in _INNER}
            told["evals"][step] = {"step": step, "epoch": event.get("epoch"), "metrics": kept}
        elif kind == "best":
            told["best"] = event
        elif kind == "warning":
            what = str(event.get("what") or event.get("message") or "")
            if what and what not in told["warnings"]:
                told["warnings"].append(what)
    return told


def _put(curve: dict[int, float], step: int, value: Any) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool) and value - value == 0:
        curve[step] = float(value)


def _best(plan: Mapping[str, Any], told: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    metric = str((plan.get("checkpoint") or {}).get("metric") or "eval_loss")
    event = told["best"] or {}
    if metric in event:
        return {"step": event.get("step"), "epoch": event.get("epoch"), "metric": metric, "value": event[metric]}
    if metrics.get(f"best_{metric}") is not None:
        return {
            "step": metrics.get("best_step"),
            "epoch": metrics.get("best_epoch"),
            "metric": metric,
            "value": metrics[f"best_{metric}"],
        }
    return None


def _duration(tries: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> float | None:
    spans = [(t.get("created"), t.get("ended") or t.get("heartbeat")) for t in tries]
    took = [float(b) - float(a) for a, b in spans if a and b]
    alone = result.get("duration_s")
    if len(took) > 1:
        return sum(took)
    return float(alone) if alone is not None else took[0] if took else None


def _against(record: Mapping[str, Any], plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was told before the start beside what was measured: rows where at least one of both is known."""
    planned = record["planned"]
    maths, memory, speed = (planned.get(key) or {} for key in ("maths", "memory", "speed"))
    longest, hours = memory.get("longest") or {}, planned.get("hours") or [None, None, None]
    loss = record["curves"]
    peak = max((value for _, value in loss["memory_gib"]), default=None)
    metrics, duration = record["metrics"], record["duration_s"]
    trained = metrics.get("trained_s")
    rate = metrics["num_tokens"] / trained if trained and metrics.get("num_tokens") else None
    cost: dict[str, Any] = min(planned.get("costs") or [], key=lambda c: c.get("usd") or 0.0, default={})
    hourly = (cost.get("usd_per_hour") or 0.0) * (cost.get("gpus") or 1)
    rows = [
        ("training rows", (planned.get("rows") or {}).get("train"), None, None, record["data"]["rows"], "rows"),
        ("optimizer steps", maths.get("total"), None, None, record["steps"], "steps"),
        ("time", *(None if h is None else h * 3600 for h in hours), duration, "s"),
        ("speed", speed.get("tokens_per_s"), None, None, rate, "tokens/s"),
        (
            "peak memory", longest.get("peak"), longest.get("low"), longest.get("high"),
            None if peak is None else peak * 2**30, "bytes",
        ),
        (
            f"cost at {cost['provider']}" if cost else "cost", cost.get("usd"), cost.get("low"), cost.get("high"),
            hourly * duration / 3600 if cost and duration is not None else None, "usd",
        ),
    ]  # fmt: skip
    names = ("what", "planned", "low", "high", "measured", "unit")
    return [dict(zip(names, row, strict=True)) for row in rows if row[1] is not None or row[4] is not None]


def _evaluations(run: Run) -> list[dict[str, Any]]:
    """Every `evaluations/*.json`, oldest first by its `made` (or `time`), else by name; what is damaged is left out."""
    folder = run.path / EVALUATIONS
    found = [(p, _quietly(p)) for p in sorted(folder.glob("*.json"))] if folder.is_dir() else []
    told = [{"name": p.stem, **data} for p, data in found if data]
    return sorted(told, key=lambda e: (float(e.get("made") or e.get("time") or 0.0), str(e["name"])))


def fingerprints(run: Run) -> dict[str, Any]:
    """Digests of rows, tokenizer, template and base as the newest checkpoint that can be read names them; empty without one."""
    for step in reversed(checkpoint.complete(run.checkpoints)):
        with contextlib.suppress(StorageError):
            return dict(checkpoint.read(run.checkpoints / f"checkpoint-{step}").get("fingerprints") or {})
    return {}


def _quietly(path: Path) -> dict[str, Any]:
    with contextlib.suppress(UsageError):
        found = read_json(path)
        return found if isinstance(found, dict) else {}
    return {}


def _anonymous(text: str) -> str:
    """`text` with every path in it cut to its last part; JSON and addresses of the web stay what they are."""
    if text.startswith(("http://", "https://", "hf://")):
        return text
    if _FILE.fullmatch(text):
        return file_name(text)
    text = text.replace("file://", "")
    return _PATH.sub(lambda match: file_name(match.group(0)), text)


def dumped(record: Mapping[str, Any]) -> str:
    """The record as JSON, for a program."""
    return json.dumps(record, ensure_ascii=False, indent=1, default=str)
