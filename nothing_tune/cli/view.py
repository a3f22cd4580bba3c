"""What is known about a run while one looks at it: the events folded into one `View`, and its lines of text.

Nothing here reads a file, a clock or a terminal: `live.py` does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from nothing_tune.cli import console
from nothing_tune.cli.console import Ink

PHASES = {
    "starting": "starting the engine",
    "imports": "importing the libraries",
    "data": "reading the data",
    "model": "loading the model",
    "trainer": "preparing the training",
    "running": "training",
    "train": "training",
    "evaluating": "evaluating",
    "saving": "saving",
    "handover": "saving what the run hands over",
}
"""Phase or state of the engine -> what the screen says; one that is not here is shown as it is."""
TRAINING = frozenset({"running", "train"})
"""Phases in which the figures say all."""
FAULTS = frozenset({"torn", "adjust", "spike", "non_finite", "hang"})
"""Events about something that went wrong and was dealt with."""
REFUSED = 65
"""Exit code of a run that was not continued because what it was started with has changed."""
PLACES_SHOWN = 3
_PREEMPTED = "ended from outside (SIGTERM)"
_NOTES = ("the run goes on to step ",)
"""How warnings begin that are none."""
_FAULT_WORDS = re.compile(
    r"\b(trackers?|disk|no space|taken over|heartbeat|passed over|set aside|damaged|not be handed over|on_commit|killed)\b"
)


@dataclass
class View:
    """A run as its events tell it. Times are in seconds, sizes in GiB, `None` is unknown.

    `notes` gathers lines that are shown once until `take_notes` empties it, as `(kind, what, hint)`. Kinds: `warning`; `fault`,
    something that went wrong and what was done about it; `note`, `resume` and `stop`, where nothing is wrong.
    """

    phase: str = "starting"
    attempt: int = 1
    step: int = 0
    total: int | None = None
    epoch: float | None = None
    first_loss: float | None = None
    loss: float | None = None
    first_eval: float | None = None
    eval_loss: float | None = None
    best_eval: float | None = None
    best_step: int | None = None
    best_epoch: float | None = None
    learning_rate: float | None = None
    tokens_per_s: float | None = None
    memory_gib: float | None = None
    eta_s: float | None = None
    rows: str = ""
    notes: list[tuple[str, str, str]] = field(default_factory=list)
    _warned: set[str] = field(default_factory=set)
    _aside: set[str] = field(default_factory=set)

    def apply(self, event: dict[str, Any]) -> None:
        """Takes one event of events.jsonl in."""
        kind = event.get("type")
        self.attempt = event.get("attempt") or self.attempt
        if isinstance(event.get("step"), int):
            self.step = event["step"]
        if isinstance(event.get("epoch"), int | float):
            self.epoch = event["epoch"]
        metrics = event.get("metrics") or {}
        if kind in ("state", "phase"):
            self.phase = str(event.get(kind) or self.phase)
        elif kind == "start":
            self.total = event.get("total_steps") or self.total
            text = rows_used(event.get("data") or {})
            if text and text != self.rows:
                self.rows = text
                self.notes.append(("note", f"data: {text}", ""))
        elif kind == "resume":
            self.notes.append(("resume", f"continuing at step {self.step}", ""))
        elif kind in FAULTS:
            self.notes.append(("fault", fault_text(event), ""))
            self._aside.add(f"is set aside as {event.get('to')}")
        elif kind == "rehearsal":
            self.notes.append(("note", rehearsal_text(event), ""))
        elif kind == "attempt":
            if int(event.get("number") or 1) > 1:
                self.notes.append(("note", f"attempt {event['number']} begins on {event.get('host', 'this host')}", ""))
        elif kind == "early_stop":
            self.notes.append(("stop", f"stopping early: {event.get('what')}", ""))
        elif kind == "log":
            self._log(event, metrics)
        elif kind == "eval":
            self._eval(metrics.get("eval_loss", event.get("eval_loss")))
        elif kind == "best":
            self.best_eval = event.get("eval_loss", self.best_eval)
            self.best_step, self.best_epoch = event.get("step"), event.get("epoch")
        elif kind == "warning":
            what = str(event.get("what") or event.get("message") or "")
            if what and what not in self._warned and not any(text in what for text in self._aside):
                self._warned.add(what)
                self.notes.append(
                    ("note" if what.startswith(_NOTES) else "warning", what, str(event.get("hint") or ""))
                )

    def glance(self, status: dict[str, Any]) -> None:
        """Takes status.json in: the total, and the step, which it knows between two logging events."""
        self.total = status.get("total_steps") or self.total
        if status.get("attempt") == self.attempt and isinstance(status.get("step"), int):
            self.step = max(self.step, status["step"])

    def _log(self, event: dict[str, Any], metrics: dict[str, Any]) -> None:
        self.phase = "running"
        loss = metrics.get("loss", event.get("loss"))
        if isinstance(loss, int | float):
            self.first_loss = loss if self.first_loss is None else self.first_loss
            self.loss = loss
        self.learning_rate = metrics.get("learning_rate", self.learning_rate)
        for name in ("tokens_per_s", "memory_gib", "eta_s"):
            if event.get(name) is not None:
                setattr(self, name, event[name])

    def _eval(self, value: Any) -> None:
        self.phase = "running"
        if isinstance(value, int | float):
            self.first_eval = value if self.first_eval is None else self.first_eval
            self.eval_loss = value

    def take_notes(self) -> list[tuple[str, str, str]]:
        """The notes since the last call, as `(kind, what, hint)`."""
        notes, self.notes = self.notes, []
        return notes


def warning_kind(what: str) -> str:
    """`note`, `fault` or `warning`: what a `warning` event really is, by its words."""
    if what.startswith(_NOTES):
        return "note"
    return "fault" if _FAULT_WORDS.search(what) else "warning"


def fault_text(event: dict[str, Any]) -> str:
    """One line about an event of `FAULTS`: what happened, and what was done about it."""
    kind, step, what, why = event.get("type"), event.get("step"), event.get("what"), event.get("why")
    where = "" if step is None else f" at step {step}"
    if kind == "torn":
        return f"{_name(event.get('path'))} is set aside as {_name(event.get('to'))}: {why or 'it was never completed'}"
    if kind == "adjust":
        return f"{str(why or 'out of memory').split(': ')[0]}: {what}"
    if kind == "spike":
        usual = console.number(event.get("median"))
        return f"the loss jumped to {console.number(event.get('loss'))}{where}, usual is {usual}{rows_text(event)}"
    if kind == "non_finite":
        return f"{what or 'the loss'} was not finite{where}, which is left out{rows_text(event)}"
    seconds = event.get("seconds")
    took = f" for {console.age(seconds)}" if isinstance(seconds, int | float) else ""
    return f"no sign of life{took}: the training was ended, to go on at the newest checkpoint"


def rows_text(event: dict[str, Any]) -> str:
    """`: rows.jsonl:3, rows.jsonl:17` where an event names rows by their places, by their numbers where it has no more; else nothing."""
    rows = event.get("rows")
    if not isinstance(rows, list) or not rows:
        return ""
    places = [place for row in rows if isinstance(row, dict) for place in row.get("places") or []]
    if places:
        more = f" and {len(places) - PLACES_SHOWN} more" if len(places) > PLACES_SHOWN else ""
        return f": {', '.join(console.near(place) for place in places[:PLACES_SHOWN])}{more}"
    numbers = [str(r.get("row")) if isinstance(r, dict) else str(r) for r in rows]
    return f": row{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"


def rehearsal_text(event: dict[str, Any]) -> str:
    """`the longest batch fits: 4096 tokens, 1.2 GiB`."""
    parts = [f"{event['tokens']} tokens"] if event.get("tokens") else []
    memory = event.get("memory_gib")
    parts += [f"{memory:.1f} GiB"] if isinstance(memory, int | float) else []
    return f"the longest batch fits{': ' if parts else ''}{', '.join(parts)}"


def _name(path: Any) -> str:
    return str(path or "a checkpoint").rstrip("/").rsplit("/", 1)[-1]


def phase_text(phase: str) -> str:
    """A phase as the screen says it."""
    return PHASES.get(phase, phase.replace("_", " "))


def header(values: dict[str, str], paint: Ink) -> list[str]:
    """Aligned `name value` lines; empty values are left out."""
    left = max(len(name) for name in values)
    return [f"  {paint.dim(name.ljust(left))}  {text}" for name, text in values.items() if text]


def plan_facts(plan: dict[str, Any], rows: str = "") -> dict[str, str]:
    """What a plan says in few words: model, method, data (and `rows`, what the engine found there), batch, precision ..."""
    training, gpu, model = plan.get("training") or {}, plan.get("gpu") or {}, plan.get("model") or {}
    memory = gpu.get("memory_gb")
    name = next(iter(gpu.get("vendor_names") or ()), None) or gpu.get("vendor_name") or gpu.get("name") or "unknown"
    return {
        "model": str(model.get("name_or_path") or ""),
        "method": method(plan),
        "data": data(plan),
        "rows": rows,
        "gpu": f"{name}, {memory:g} GB" if isinstance(memory, int | float) else str(name),
        "precision": precision(plan),
        "batch": batch(plan),
        "length": length(training),
        "tracker": tracker(plan.get("tracking") or {}),
    }


def method(plan: dict[str, Any]) -> str:
    """`LoRA r 32, alpha 64 on 4-bit nf4`, `full fine-tuning`."""
    peft, quantization = plan.get("peft"), plan.get("quantization") or {}
    if not peft:
        words = "full fine-tuning"
    else:
        kind = str(peft.get("peft_type", "LORA"))
        words = {"LORA": "LoRA", "VERA": "VeRA", "IA3": "IA3"}.get(kind, kind)
        words = "DoRA" if peft.get("use_dora") else words
        initial = peft.get("init_lora_weights")
        words = {"pissa": "PiSSA", "olora": "OLoRA", "loftq": "LoftQ"}.get(str(initial).split("_")[0], words)
        words = f"rsLoRA{words.removeprefix('LoRA')}" if peft.get("use_rslora") else words
        parts = [f"r {peft['r']}"] if peft.get("r") else []
        parts += [f"alpha {peft['lora_alpha']:g}"] if isinstance(peft.get("lora_alpha"), int | float) else []
        words = f"{words} {', '.join(parts)}".strip()
    if quantization.get("load_in_4bit"):
        return f"{words} on 4-bit {quantization.get('bnb_4bit_quant_type', 'fp4')}"
    return f"{words} on 8-bit weights" if quantization.get("load_in_8bit") else words


def precision(plan: dict[str, Any]) -> str:
    """`bf16: the GPU has it`, from the plan's reasons."""
    training, why = plan.get("training") or {}, plan.get("why") or {}
    key = next((k for k in ("bf16", "fp16") if training.get(k)), "")
    reason = str(why.get(f"training.{key}" if key else "training.bf16") or "")
    reason = reason.removeprefix("derived: ") if reason.startswith("derived: ") else reason and f"set by {reason}"
    return f"{key or 'fp32'}: {reason}" if reason else key or "fp32"


def batch(plan: dict[str, Any]) -> str:
    """`2 x 8 = 16`: micro batch x accumulation (x ranks) = global batch."""
    training = plan.get("training") or {}
    micro, steps = training.get("per_device_train_batch_size", 8), training.get("gradient_accumulation_steps", 1)
    ranks = plan.get("world_size") or 1
    parts = [str(micro), str(steps), *([str(ranks)] if ranks > 1 else [])]
    return f"{' x '.join(parts)} = {micro * steps * ranks} rows a step"


def length(training: dict[str, Any]) -> str:
    """`3 epochs of rows up to 1024 tokens, packed`."""
    steps, epochs = training.get("max_steps") or 0, training.get("num_train_epochs", 3)
    much = console.plural(steps, "step") if steps > 0 else f"{epochs:g} epoch{'' if epochs == 1 else 's'}"
    longest = training.get("max_length")
    words = f"{much}, rows of up to {longest} tokens" if longest else much
    return f"{words}, packed" if training.get("packing") else words


def data(plan: dict[str, Any]) -> str:
    """`FILE, evaluated on 10 %`."""
    source = plan.get("data") or {}
    train, test = source.get("train"), source.get("eval")
    words = _named(train) or "none"
    if isinstance(test, float):
        words += f", {test * 100:g} % of it held out"
    elif test:
        words += f", evaluated on {_named(test)}"
    limit = source.get("max_samples")
    return f"{words}, at most {limit} rows" if limit else words


def _named(sources: Any) -> str:
    """The names of data sources: of a name, of a mapping with `source`, of a list of both."""
    if isinstance(sources, list):
        return ", ".join(map(_named, sources))
    return str(sources.get("source") if isinstance(sources, dict) else sources or "")


def rows_used(facts: dict[str, Any]) -> str:
    """`316 rows of messages, 49 held out; 3 duplicates left out, 2 answers cut at 512 tokens`, from a `start` event."""
    if not isinstance(facts.get("rows"), int):
        return ""
    text = console.plural(facts["rows"], "row") + (f" of {facts['format']}" if facts.get("format") else "")
    if facts.get("eval_rows"):
        own = facts.get("split") in (None, "", "its own source")
        text += f", {facts['eval_rows']:,} {'to evaluate on' if own else 'held out'}"
    left = [(facts.get("bad"), "bad row"), (facts.get("duplicates"), "duplicate"), (facts.get("leaked"), "leaked row")]
    lost = [console.plural(number, word) for number, word in left if number]
    at = f" at {facts['max_length']:,} tokens" if facts.get("max_length") else ""
    cut = [f"{console.plural(facts['cut'], 'answer')} cut{at}"] if facts.get("cut") else []
    parts = [*([f"{', '.join(lost)} left out"] if lost else []), *cut]
    return f"{text}; {', '.join(parts)}" if parts else text


def tracker(tracking: dict[str, Any]) -> str:
    """`wandb, project nothing-gpt, offline`; empty for none."""
    kind = tracking.get("tracker")
    if not kind or kind == "none":
        return ""
    project, mode = tracking.get("project"), tracking.get("mode")
    parts = [str(kind), *([f"project {project}"] if project else []), *(["offline"] if mode == "offline" else [])]
    return ", ".join(parts)


def bar(view: View, columns: int, paint: Ink) -> str:
    """`━━━━━━╸─────  40/120  33 %  0:00:41 left`."""
    share = min(view.step / view.total, 1.0) if view.total else 0.0
    tail = f"  {view.step}/{view.total or '?'}  {share * 100:.0f} %"
    if view.eta_s is not None and share < 1:
        tail += f"  {console.clock(view.eta_s)} left"
    room = max(min(columns - len(tail) - 4, 48), 8)
    full = int(share * room)
    half = "╸" if full < room and share * room - full >= 0.5 else ""
    rest = "─" * (room - full - len(half))
    return f"  {paint.key('━' * full + half)}{paint.dim(rest)}{tail}"


def figures(view: View, paint: Ink) -> list[tuple[str, str]]:
    """The run's figures as `(name, text)`, only those that are known."""
    pairs: list[tuple[str, str]] = []
    if view.loss is not None:
        text = console.number(view.loss)
        if view.first_loss is not None and view.first_loss != view.loss:
            text = f"{console.number(view.first_loss)} → {paint.bold(text)}"
        pairs.append(("loss", text))
    if view.eval_loss is not None:
        text = paint.bold(console.number(view.eval_loss))
        if view.first_eval is not None and view.first_eval != view.eval_loss:
            text = f"{console.number(view.first_eval)} → {text}"
        if view.best_step is not None:
            text += paint.dim(f" (best {console.number(view.best_eval)} at step {view.best_step})")
        pairs.append(("eval loss", text))
    if view.learning_rate is not None:
        pairs.append(("lr", console.rate(view.learning_rate)))
    if view.tokens_per_s is not None:
        pairs.append(("speed", f"{view.tokens_per_s:,.0f} tok/s"))
    if view.memory_gib is not None:
        pairs.append(("memory", f"{view.memory_gib:.1f} GiB"))
    return pairs


def plain_line(view: View) -> str:
    """`step 40/120  loss 1.234  lr 1.9e-04  812 tok/s  1.2 GiB  eta 0:00:41`."""
    parts = [f"step {view.step}/{view.total or '?'}", f"loss {console.number(view.loss)}"]
    parts += [f"lr {console.rate(view.learning_rate)}"] if view.learning_rate is not None else []
    parts += [f"{view.tokens_per_s:,.0f} tok/s"] if view.tokens_per_s is not None else []
    parts += [f"{view.memory_gib:.1f} GiB"] if view.memory_gib is not None else []
    parts += [f"eta {console.clock(view.eta_s)}"] if view.eta_s is not None else []
    return "  ".join(parts)


def standing(view: View) -> str:
    """`now at step 40/120, training, loss 1.234`: where a run stands that one begins to look at."""
    parts = [f"now at step {view.step}/{view.total or '?'}", phase_text(view.phase)]
    parts += [f"loss {console.number(view.loss)}"] if view.loss is not None else []
    parts += [f"eval loss {console.number(view.eval_loss)}"] if view.eval_loss is not None else []
    return ", ".join(parts)


def closing(
    name: str,
    path: str,
    state: str,
    result: dict[str, Any],
    view: View,
    paint: Ink,
    *,
    more: bool = True,
    saved: bool = True,
) -> list[str]:
    """The last lines of a run: how it ended, its losses, what it hands over, and what to do next.

    Args:
        name: What names the run in a command: its id, or its path where it lies in another folder than usual.
        more: Name `tune runs show`, too.
        saved: The run has a complete checkpoint.
    """
    metrics = result.get("metrics") or {}
    step = result.get("step", view.step)
    step = step if state == "done" else max(step or 0, view.step)  # what was killed tells of its last checkpoint
    refused = result.get("exit_code") == REFUSED
    tint = {"done": paint.ok, "failed": paint.error, "lost": paint.error}.get(state, paint.warn)
    on = state in ("stopped", "preempted")
    if refused:
        head = f"{tint(state)}: it was not continued and is as it was, at step {step}"
    elif on:
        where = f"at step {step}" if step else "before the first step"
        head = f"{tint(state)} {where}; continue with: {paint.key(f'tune resume {name}')}"
    else:
        head = f"{tint(state)}  {step or 0} step{'' if step == 1 else 's'}"
        head += _took(result)
    facts: dict[str, str] = {}
    why = str(((result.get("error") or {}).get("problems") or [{}])[0].get("what") or _PREEMPTED)
    if state == "preempted" and why != _PREEMPTED:
        facts["why"] = console.printable(why)
    first, last = metrics.get("first_loss", view.first_loss), metrics.get("last_loss", view.loss)
    if last is not None:
        facts["loss"] = _fell(first, last)
    evaluated = metrics.get("eval_loss", view.eval_loss)
    if evaluated is not None:
        best, at = metrics.get("best_eval_loss", view.best_eval), metrics.get("best_step", view.best_step)
        facts["eval loss"] = _fell(metrics.get("first_eval_loss", view.first_eval), evaluated)
        epoch = metrics.get("best_epoch", view.best_epoch)
        if best is not None and at is not None:
            where = f"step {at}" + (f", epoch {epoch:.2f}" if isinstance(epoch, int | float) else "")
            facts["best"] = f"{console.number(best)} at {where}"
    adapter = result.get("adapter")
    if adapter and state == "done":
        of_best = " (the best checkpoint)" if "best" in facts else ""
        facts["result"] = f"{path}/{adapter}{of_best}"
    else:
        facts["run"] = path
    if result.get("digest"):
        facts["digest"] = str(result["digest"])[:12]
    commands = [f"tune chat {name}"] if state == "done" else []
    goes_on = step if state == "lost" else saved and state == "failed" and not refused
    commands += [f"tune resume {name}"] if goes_on else []
    commands += [f"tune runs show {name}"] if more else []
    if not commands:
        return [head, *header(facts, paint)]
    lines = [head, *header({**facts, "next": paint.key(commands[0])}, paint)]
    left = max(len(name) for name in [*facts, "next"])
    return [*lines, *(f"  {' ' * left}  {paint.key(c)}" for c in commands[1:])]


def _took(result: dict[str, Any]) -> str:
    """` in 0:00:15`, or ` in 0:01:05, 3 attempts` with the time that all attempts together trained."""
    attempt = result.get("attempt") or 1
    seconds = result.get("duration_s") if attempt == 1 else (result.get("metrics") or {}).get("trained_s")
    took = f" in {console.clock(seconds)}" if isinstance(seconds, int | float) else ""
    return took if attempt == 1 else f"{took}, {attempt} attempts"


def _fell(first: float | None, last: float | None) -> str:
    if first is None or last is None or first == last:
        return console.number(last)
    change = (last - first) / first * 100 if first else 0.0
    return f"{console.number(first)} → {console.number(last)}  ({change:+.0f} %)"
