"""All about a run, or a few, as one HTML page: what was trained, on what, how it went, what it is worth, what was made of it.

The page needs no network and no script; its curves are SVG inside of it. Nothing of a run is written into it unescaped, secrets are
masked, and of a path only the file's name is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nothing_tune.artifacts import Run
from nothing_tune.artifacts.redact import redact, redact_all
from nothing_tune.outputs import comparison, record
from nothing_tune.outputs import html as h
from nothing_tune.outputs.charts import COLOURS, Series, chart
from nothing_tune.outputs.comparison import Comparison
from nothing_tune.outputs.evaluated import Compared
from nothing_tune.outputs.lines import Line, written
from nothing_tune.outputs.report_results import evaluated, exported, planned
from nothing_tune.outputs.report_style import STYLE
from nothing_tune.recipe.compose import scalar
from nothing_tune.recipe.model import leaves

SERVING = ("ollama", "vllm", "llama.cpp")
"""Folders of an export that hold texts which say how it is served."""
LONGEST_TEXT = 6_000
"""Characters of such a text that are shown."""
CURVES = (
    ("learning_rate", "learning rate", ""), ("grad_norm", "gradient norm", ""), ("tokens_per_s", "speed", "tokens a second"),
    ("memory_gib", "memory", "GiB"),
)  # fmt: skip


@dataclass(frozen=True)
class Told:
    """One run as the page tells it.

    Attributes:
        record: As of `outputs.record`, with `problem` where its files are damaged.
        why: Dotted key of the recipe -> where its value comes from.
        attempts: Each with `attempt`, `host`, `started`, `ended`, `from_step`, `step`, `state`, `error`, `acts`.
        events: What is worth knowing: each with `kind`, `step`, `what`, `hint`.
        serving: File name -> text, of what says how exports are served.
    """

    record: Mapping[str, Any]
    why: Mapping[str, str] = field(default_factory=dict)
    attempts: Sequence[Mapping[str, Any]] = ()
    events: Sequence[Mapping[str, Any]] = ()
    serving: Mapping[str, str] = field(default_factory=dict)

    def public(self) -> Told:
        """The same for everybody: secrets masked, of paths the files' names; samples stay the texts they are."""
        samples = [list(e.get("samples") or []) for e in self.record.get("evaluations") or []]
        shared = record.public(self.record)
        for one, kept in zip(shared.get("evaluations") or [], samples, strict=True):
            one["samples"] = redact_all(kept)
        return Told(
            shared,
            record.public(self.why),
            record.public(self.attempts),
            record.public(self.events),
            {name: record.public_script(redact(text), self._folders()) for name, text in self.serving.items()},
        )

    def _folders(self) -> list[str]:
        """Folders of this machine that texts may name, however they are written: the base's and the run's."""
        base = self.record.get("base") or {}
        named = [self.record.get("path"), None if base.get("hub") else base.get("name_or_path")]
        return [str(name) for name in named if name]


def serving(run: Run) -> dict[str, str]:
    """The texts below a run's exports that say how they are served: `step-20/vllm/serve.sh` -> text."""
    out = {}
    root = run.path / record.EXPORTS
    for path in sorted(root.glob("*/*/*")) if root.is_dir() else []:
        if (
            path.parent.name in SERVING
            and path.is_file()
            and path.stat().st_size < 1 << 20
            and not path.name.endswith(".json")
        ):
            out[path.relative_to(root).as_posix()] = path.read_text(encoding="utf-8", errors="replace")
    return out


def page(runs: Sequence[Told], version: str = "") -> str:
    """The HTML of one run, or of up to six side by side; `version` of nothing-tune for its last line."""
    shown = [one.public() for one in runs[:COLOURS]]
    several = len(shown) > 1
    parts = _several(shown) if several else _single(shown[0])
    title = " and ".join(str(one.record.get("name")) for one in shown) if several else str(shown[0].record.get("name"))
    sections = [(k, t, s) for k, t, s in parts if s]
    links = "".join(f'<a href="#{key}">{h.text(name)}</a>' for key, name, _ in sections)
    body = "\n".join(s for _, _, s in sections)
    end = f"Written by nothing-tune {version}.".replace(" .", ".")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{h.text(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n<main>\n"
        f"{_head(shown)}\n<nav>{links}</nav>\n{body}\n<footer>{h.text(end)}</footer>\n</main>\n</body>\n</html>\n"
    )


Part = tuple[str, str, str]


def _part(key: str, title: str, *body: str) -> Part:
    return key, title, h.section(title, *body, key=key)


def _single(one: Told) -> list[Part]:
    return [
        _part("trained", "What was trained", _trained(one.record)),
        _part("data", "Data", _data(one.record)),
        _part("plan", "Plan and measured", planned(one.record)),
        _part("curves", "Curves", _curves([one])),
        _part("events", "Events", _events(one)),
        _part("evaluations", "Evaluations", evaluated(one.record.get("evaluations") or [])),
        _part("exports", "Exports", exported(one.record.get("exports") or [], one.serving)),
        _part("recipe", "Recipe", _recipe(one)),
        _part("machine", "Machine and versions", _machine(one.record)),
    ]


def _several(runs: Sequence[Told]) -> list[Part]:
    compared = comparison.compare([one.record for one in runs])

    def each(make: Any) -> Iterable[str]:
        for n, one in enumerate(runs):
            made = make(one)
            yield f"<h3>{_name(n)} {h.text(one.record.get('id'))}</h3>\n{made}" if made else ""

    return [
        _part("differs", "What differs", _differs(compared, len(runs))),
        _part("went", "How they went", _lines([("", compared.data), ("", compared.went)], len(runs)), _notes(compared)),
        _part("curves", "Curves", _curves(runs)),
        _part("compared", "Evaluations side by side", *(_of_same_rows(e, len(runs)) for e in compared.evaluated)),
        _part("trained", "What was trained", *each(lambda one: _trained(one.record))),
        _part("data", "Data", *each(lambda one: _data(one.record))),
        _part("plan", "Plan and measured", *each(lambda one: planned(one.record))),
        _part("events", "Events", *each(_events)),
        _part("evaluations", "Evaluations", *each(lambda one: evaluated(one.record.get("evaluations") or []))),
        _part("exports", "Exports", *each(lambda one: exported(one.record.get("exports") or [], one.serving))),
        _part("machine", "Machine and versions", *each(lambda one: _machine(one.record))),
    ]


def _head(runs: Sequence[Told]) -> str:
    if len(runs) == 1:
        one = runs[0].record
        base, method = one.get("base") or {}, one.get("method") or {}
        what = " · ".join(str(v) for v in (method.get("words"), base.get("name_or_path")) if v)
        when = " · ".join(v for v in (str(one.get("id")), h.moment(one.get("created"))) if v)
        return (
            f"<header>\n<h1>{h.text(one.get('name'))}</h1>\n"
            + (f'<p class="lead">{h.text(one["description"])}</p>\n' if one.get("description") else "")
            + f'<p class="quiet">{h.text(what)}</p>\n<p class="quiet"><span class="mono">{h.text(when)}</span> · {_state(one)}</p>\n'
            + (
                f'<p class="bad">{h.text(one.get("problem") or one.get("error"))}</p>\n'
                if one.get("problem") or one.get("error")
                else ""
            )
            + f"{_figures(one)}\n</header>"
        )
    names = "".join(
        f'<li>{_name(n)} <span class="mono">{h.text(one.record.get("id"))}</span> · {_state(one.record)}'
        f"{'<br>' + h.quiet(one.record['problem']) if one.record.get('problem') else ''}</li>"
        for n, one in enumerate(runs)
    )
    return f'<header>\n<h1>{len(runs)} runs side by side</h1>\n<ul class="plain">{names}</ul>\n</header>'


def _name(place: int) -> str:
    return f'<b class="c{place}">{"ABCDEF"[place]}</b>'


def _state(one: Mapping[str, Any]) -> str:
    state = str(one.get("state"))
    kind = {"done": "good", "failed": "bad", "damaged": "bad", "lost": "bad"}.get(state, "warn")
    return f'<span class="state {kind}">{h.text(state)}</span>'


def _figures(one: Mapping[str, Any]) -> str:
    cells = "".join(
        f"<div><dt>{h.text(name)}</dt><dd>{value}<small>{h.text(more)}</small></dd></div>"
        for name, value, more in (*_losses(one), *_spent(one))
        if value != "-"
    )
    return f'<dl class="figures">{cells}</dl>' if cells else ""


def _losses(one: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """`(name, value, what explains it)` of the losses."""
    best, metrics = one.get("best") or {}, one.get("metrics") or {}
    trained = [v for _, v in (one.get("curves") or {}).get("loss") or []]
    name = str(best.get("metric", "eval_loss")).replace("_", " ")
    evaluated_ = (
        (name, h.loss(best.get("value")), f"best, at step {h.count(best.get('step'))}")
        if best
        else (name, h.loss(metrics.get("eval_loss")), "at the end")
    )
    began = f"from {h.loss(trained[0])}" if len(trained) > 1 else ""
    return [evaluated_, ("train loss", h.loss(trained[-1] if trained else metrics.get("last_loss")), began)]


def _spent(one: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The same of steps, time, memory, money and weights."""
    metrics, method = one.get("metrics") or {}, one.get("method") or {}
    peak = max((v for _, v in (one.get("curves") or {}).get("memory_gib") or []), default=None)
    rows: list[dict[str, Any]] = one.get("plan_against_measured") or []
    cost = next((r for r in rows if str(r.get("what")).startswith("cost")), {})
    total, steps, epochs = one.get("total_steps"), one.get("steps"), one.get("epochs")
    of = f"of {h.count(total)}" if total not in (None, steps) else f"{epochs:.3g} epochs" if epochs else ""
    tokens, trainable, weights = metrics.get("num_tokens"), method.get("trainable"), method.get("total")
    usd = cost.get("measured")
    return [
        ("steps", h.count(steps), of),
        ("time", h.duration(one.get("duration_s")), f"{h.count(tokens)} tokens" if tokens else ""),
        ("peak memory", "-" if peak is None else h.size(peak * 2**30), ""),
        ("cost", "-" if usd is None else f"${usd:,.2f}", str(cost.get("what", "")).removeprefix("cost ")),
        (
            "trained weights",
            h.count(trainable),
            f"{100 * trainable / weights:.2g} % of all" if trainable and weights else "",
        ),
    ]


def _trained(one: Mapping[str, Any]) -> str:
    base, method = one.get("base") or {}, one.get("method") or {}
    values = (one.get("recipe") or {}).get("values") or {}
    training, parent = values.get("training") or {}, one.get("parent") or {}
    peft = {
        k: v
        for k, v in (method.get("peft") or {}).items()
        if k in ("r", "lora_alpha", "lora_dropout", "target_modules") and v is not None
    }
    micro, steps = training.get("per_device_train_batch_size"), training.get("gradient_accumulation_steps")
    rate = [v for v in (training.get("learning_rate"), training.get("lr_scheduler_type")) if v]
    count = (values.get("launch") or {}).get("processes") or 1
    return h.facts(
        {
            "base model": h.code(base["name_or_path"]) + (f" {h.quiet('at ' + str(base['revision']))}" if base.get("revision") else "")
            if base.get("name_or_path") else None,
            "size": f"{h.count(base['parameters'])} parameters" + (f", {h.text(base['family'])}" if base.get("family") else "")
            if base.get("parameters") else None,
            "licence of the base": h.text(base["licence"]) if base.get("licence") else None,
            "method": h.text(method.get("words")) if method.get("words") else None,
            "adapter": h.text(", ".join(f"{k} {scalar(v)}" for k, v in peft.items())) if peft else None,
            "precision": h.text(method["dtype"]) if method.get("dtype") else None,
            "rows a step": f"{micro} x {steps}{f' x {count} processes' if count > 1 else ''}" if micro and steps else None,
            "learning rate": h.text(", ".join(map(scalar, rate))) if rate else None,
            "length": f"rows of up to {h.count(training['max_length'])} tokens" if training.get("max_length") else None,
            "layers": h.text(" · ".join((one.get("recipe") or {}).get("layers") or [])) or None,
            "parent": f"{h.code(parent.get('run'))} at step {h.count(parent.get('step'))}" if parent else None,
        }
    )  # fmt: skip


def _data(one: Mapping[str, Any]) -> str:
    data = one.get("data") or {}
    rows = [
        (h.code(s.get("shown")), {"train": "training", "eval": "evaluation"}.get(str(s.get("role")), ""), h.size(s.get("bytes")),
         h.code(str(s.get("sha256") or s.get("revision") or "-")[:12]))
        for s in data.get("sources") or []
    ]  # fmt: skip
    counts = data.get("counts") or {}
    words = {"bad": "unreadable", "duplicates": "repeated", "leaked": "in the evaluation, too", "cut": "cut"}
    left = ", ".join(f"{h.count(n)} {words[k]}" for k, n in counts.items() if n and k in words)
    held = data.get("held_out")
    return h.table(("source", "for", "size", "sha256"), rows, right=(2,)) + h.facts(
        {
            "training rows": h.count(data["rows"]) if data.get("rows") is not None else None,
            "evaluation rows": h.count(data["eval_rows"]) + (f" {h.quiet(f'{100 * held:g} % held out')}" if held else "")
            if data.get("eval_rows") is not None else None,
            "learned tokens": h.count(data["supervised_tokens"]) if data.get("supervised_tokens") else None,
            "format": h.text(data["format"]) if data.get("format") else None,
            "chat template": h.text(f"of {data['chat_template']}") if data.get("chat_template") else None,
            "rows": left or None,
        }
    )  # fmt: skip


def _curves(runs: Sequence[Told]) -> str:
    """Losses across the page, the rest below in pairs; of several runs one line each."""
    several = len(runs) > 1
    known = [one.record.get("curves") or {} for one in runs]
    marks = [] if several else [float(a["from_step"]) for a in runs[0].attempts if a.get("from_step")]

    def series(name: str, label: str, n: int, *, dots: bool = False, colour: int | None = None) -> Series:
        best = (runs[n].record.get("best") or {}).get("step")
        points = tuple((float(x), float(y)) for x, y in known[n].get(name) or [])
        marked = (float(best),) if dots and best is not None else ()
        return Series(
            f"{'ABCDEF'[n]} {label}".strip() if several else label,
            points,
            n if colour is None else colour,
            dots,
            marked,
        )

    places = range(len(runs))
    out = []
    if several:
        for name, title, dots in (("eval", "eval loss", True), ("loss", "train loss", False)):
            out.append(
                _figure(chart(title, [series(name, "", n, dots=dots) for n in places]), title, "by step", whole=True)
            )
    else:
        both = [series("loss", "train", 0), series("eval", "eval", 0, dots=True, colour=1)]
        out.append(
            _figure(
                chart("training and evaluation loss", both, marks=marks), "loss", _loss_words(both, marks), whole=True
            )
        )
    for name, title, unit in CURVES:
        small = chart(
            title, [series(name, "", n, colour=n if several else 5) for n in places], width=430, height=190, marks=marks
        )
        out.append(_figure(small, title, unit))
    body = "\n".join(figure for figure in out if figure)
    return f'<div class="charts">\n{body}\n</div>' if body else ""


def _loss_words(both: Sequence[Series], marks: Sequence[float]) -> str:
    words = ["by step"] + (["the ring is the best evaluation"] if both[1].marked else [])
    return ", ".join(words + (["dotted: where it went on after a stop"] if marks else []))


def _figure(drawing: str, title: str, more: str, *, whole: bool = False) -> str:
    if not drawing:
        return ""
    return f"<figure{' class=whole' if whole else ''}><figcaption>{h.text(title)} {h.quiet(more)}</figcaption>{drawing}</figure>"


def _events(one: Told) -> str:
    tries = []
    if len(one.attempts) > 1:
        for a in one.attempts:
            took = a["ended"] - a["started"] if a.get("ended") and a.get("started") else None
            how = h.text(a.get("state")) + (f"<br>{h.quiet(a['error'])}" if a.get("error") else "")
            how += "".join(f"<br>{h.quiet(act)}" for act in a.get("acts") or [])
            steps = f"{h.count(a.get('from_step'))} to {h.count(a.get('step'))}"
            tries.append((h.count(a.get("attempt")), h.moment(a.get("started")), h.duration(took), steps, how))
    said = [
        (h.quiet("note") if e.get("kind") == "note" else f'<span class="warn">{h.text(e.get("kind"))}</span>', h.count(e.get("step")),
         h.text(e.get("what")) + (f"<br>{h.quiet(e['hint'])}" if e.get("hint") else ""))
        for e in one.events
    ]  # fmt: skip
    out = h.table(("attempt", "started", "took", "steps", "ended"), tries)
    return out + h.table(("", "step", "what happened"), said)


def _recipe(one: Told) -> str:
    values = (one.record.get("recipe") or {}).get("values") or {}
    rows: list[Sequence[str]] = []
    for section, content in values.items():
        if section in ("gpu", "advice", "generate") or content in (None, {}):
            continue
        inner = {k: v for k, v in leaves({section: content}).items() if not k.startswith("model.facts")}
        rows += [(h.text(section),)] if isinstance(content, dict) else []
        rows += [
            (
                h.text(key.removeprefix(f"{section}.")),
                h.code(scalar(value)),
                f'<span class="quiet">{h.text(one.why.get(key, ""))}</span>',
            )
            for key, value in inner.items()
        ]
    return h.table(("setting", "value", "where it comes from"), rows)


def _machine(one: Mapping[str, Any]) -> str:
    machine, versions = one.get("machine") or {}, one.get("versions") or {}
    memory = machine.get("memory_gib")
    return h.facts(
        {
            "GPU": h.text(machine.get("gpu_name") or machine.get("gpu")) + (f", {memory:.0f} GiB" if memory else "")
            if machine.get("gpu_name") or machine.get("gpu") else None,
            "processors": h.count(machine["cpus"]) if machine.get("cpus") else None,
            **{name: h.code(version) for name, version in versions.items() if version},
        }
    )  # fmt: skip


def _differs(compared: Comparison, runs: int) -> str:
    groups = [(section, lines) for section, lines in compared.recipe.items()]
    return _lines(groups, runs) or "<p>The recipes are the same.</p>"


def _notes(compared: Comparison) -> str:
    return "".join(f'<p class="quiet">{h.text(note)}.</p>' for note in compared.notes)


def _of_same_rows(one: Compared, runs: int) -> str:
    rows = f" {h.quiet(h.plural(one.rows, 'row'))}" if one.rows else ""
    said = ["each run was evaluated on other rows: nothing is compared"] if one.rows_differ else []
    said += ["the tokenizers differ: what counts tokens is not compared"] if one.tokenizers_differ else []
    said += ["answers were drawn with other settings"] if one.settings_differ else []
    words = f'<p class="quiet">{h.text("; ".join(said))}.</p>' if said else ""
    return f"<h3>{h.text(one.name)}{rows}</h3>\n{_lines([('', one.lines)], runs)}{words}"


def _lines(groups: Sequence[tuple[str, Sequence[Line]]], runs: int) -> str:
    rows: list[Sequence[str]] = []
    for section, lines in groups:
        rows += [(h.text(section),)] if section else []
        rows += [(h.text(line.label), *(_cell(line, n) for n in range(runs))) for line in lines]
    return h.table(("", *"ABCDEF"[:runs]), rows)


def _cell(line: Line, place: int) -> str:
    shown = written(line, place)
    detail = line.details[place] if line.details else ""
    body = f'<span class="best">{h.text(shown)}</span>' if place in line.best else h.text(shown)
    return f"{body} {h.quiet(detail)}".strip() if shown != "-" else h.quiet("-")
