"""The job behind `tune train RECIPE --rehearse`: the whole recipe end to end on this machine, with the model made small.

    in:  {"plan": {...}, "config": {config.json} | null, "folder": "/tmp/...", "sample": whether the recipe's sample is its data,
          "inspect": the command that shows the rows, for hints}
    out: {"type": "stage", "stage": "data", "state": "begins"}
         {"type": "stage", "stage": "data", "state": "proved" | "failed" | "left out", "seconds": 1.2, "what": "..."}
         {"type": "progress", "what": "reading", "rows": n}   {"type": "note", "what": "fp16 -> float32: ..."}
         {"type": "sample", "what": why the recipe's sample stands for its data}
         {"type": "report", "could_not": [...], "warnings": [...]}   or   {"type": "error", ...} as every job has it

The training is that of every run: the supervisor and its worker on a run directory in `folder`, whose plan is the recipe's with
what a CPU and a minute ask for changed (`changes`). This process imports the libraries and computes nothing, see `children`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run, create_run, write_json
from nothing_tune.engine import failures
from nothing_tune.engine.job import Send, answer
from nothing_tune.engine.rehearse import causes, changes, checks, children, said
from nothing_tune.engine.worker import goes_offline, with_environment
from nothing_tune.errors import Problem, RunError, StorageError, TuneError, UsageError
from nothing_tune.plan.model import Plan

IMPORTS = (
    "torch", "transformers", "trl", "trl.trainer.sft_trainer", "peft", "datasets", "accelerate", "safetensors.torch",
    "nothing_tune.engine.session", "nothing_tune.engine.chat", "nothing_tune.engine.rehearse.rows",
    "nothing_tune.engine.rehearse.model", "nothing_tune.engine.rehearse.proofs",
)  # fmt: skip
SHOWN = ("torch", "transformers", "trl", "peft")
"""Libraries whose versions are shown."""
FREE_BYTES = 64 * 2**20
"""Room that the folder must have for a start; what more is needed shows while it is written."""
EVERY_S = 0.2
PHASES = {
    "imports": "start",
    "data": "start",
    "model": "start",
    "trainer": "start",
    "train": "training",
    "handover": "hand-over",
}
"""The phases of a run, with the stage that each belongs to."""


def main() -> int:
    """Answers the one request on stdin; returns the exit code."""
    return answer(lambda request, send: Rehearsal(request, send).work())


class Rehearsal:
    """One rehearsal: its stages in order, told as they are proved."""

    def __init__(self, request: dict[str, Any], send: Send) -> None:
        self.send = send
        self.plan = Plan.from_json(with_environment(request["plan"]))
        self.request = request
        self.config = request.get("config")
        self.folder = Path(request["folder"])
        self.log = self.folder / "engine.log"
        self.places: dict[str, list[str]] = {}
        self.warnings: list[str] = []
        self.stage, self.began = "libraries", time.monotonic()
        self._told = 0.0

    def work(self) -> None:
        """Goes through all stages.

        Raises:
            TuneError: What a stage found, with key and cure.
        """
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._room()
        with self._stage("libraries"):
            self.warnings += checks.hook(self.plan)
            goes_offline(self.plan)
            for module in IMPORTS + (("bitsandbytes",) if self.plan.quantization else ()):
                importlib.import_module(module)
            vocabulary = self._child(self._known)["vocabulary"]
            self._proved(", ".join(f"{name} {metadata.version(name)}" for name in SHOWN))
        with self._stage("data"):
            if self.request.get("sample"):
                self.plan = changes.on_sample(self.plan)
            found = self._found(vocabulary)
            self.places = found["places"]
            self.warnings += found["warnings"]
            checks.evaluates_in_time(self.plan, found["total"], found["evaluations"])
            self._proved(said.of_data(found))
        with self._stage("adapter" if self.plan.peft else "model"):
            full = self._child(lambda: self._full(found))
            self._proved(said.of_full_size(full, self.plan))
            self.warnings += full["warnings"]
        with self._stage("model"):
            made = self._child(lambda: self._small(found))
            self._proved(said.of_model(made))
        material = changes.Material(
            model=made["folder"], train=found["train"], eval=found["eval"], layers=made["layers"], depth=made["depth"],
            targets=full["targets"], quantization=made["quantization"], vocabulary=made["vocabulary"],
        )  # fmt: skip
        plan, replaced = changes.rehearsal(self.plan, material)
        for line in replaced:
            self.send(type="note", what=line)
        with self._failing():
            run = self._train(plan, "rehearsal")
        with self._stage("resume"):
            self._resume(run, plan)
        with self._stage("reload"):
            loaded = self._child(lambda: _proofs().reloads(run, plan))
            self._proved(
                f"what was handed over loads: {loaded['tensors']} tensors, bit for bit; it answered with {loaded['tokens']} tokens"
            )
        with self._stage("merge"):
            merged = self._child(lambda: _proofs().merges(run, plan, self.folder / "merged"))
            if merged.get("left_out"):
                self._proved(str(merged["left_out"]), "left out")
            else:
                self._proved(
                    f"merged into the base: logits equal to {merged['error']:.0e} of the largest; saved in 16 bits and loaded again"
                )
        self.send(
            type="report", could_not=said.could_not(self.plan, made, found), warnings=self.warnings, replaced=replaced
        )

    # Stages ---------------------------------------------------------------------------------------------------------------

    def _known(self) -> dict[str, Any]:
        """Whether the libraries know the model's architecture; the number of its tokens."""
        from nothing_tune.engine.rehearse import model

        return {"vocabulary": model.vocabulary_of(model.config_of(self.plan, self.config))}

    def _found(self, vocabulary: int) -> dict[str, Any]:
        """What `rows.look` returns; of the recipe's sample where a data set of the hub cannot be had."""
        try:
            return self._child(lambda: self._rows(vocabulary))
        except UsageError as error:
            first = error.problems[0]
            if not (first.key.startswith("data.") and first.what.startswith("data set ")) or not changes.has_sample(
                self.plan
            ):
                raise
            self.send(type="sample", what=f"{first.what}: the recipe's sample stands for it")
            self.plan = changes.on_sample(self.plan)
            return self._child(lambda: self._rows(vocabulary))

    def _rows(self, vocabulary: int) -> dict[str, Any]:
        from nothing_tune.engine.rehearse import rows

        return rows.look(self.plan, self.folder / "rows", self._tell, vocabulary)

    def _full(self, found: dict[str, Any]) -> dict[str, Any]:
        from nothing_tune.engine import build
        from nothing_tune.engine.rehearse import model

        config = model.config_of(self.plan, self.config)
        warnings = checks.tokens_fit(self.plan, build.tokenizer(self.plan), config, found)
        return {**model.full_size(self.plan, config), "warnings": warnings}

    def _small(self, found: dict[str, Any]) -> dict[str, Any]:
        from nothing_tune.engine import build
        from nothing_tune.engine.rehearse import model

        config = model.config_of(self.plan, self.config)
        if (size := model.as_it_is(self.plan)) is not None:
            text = config.get_text_config()
            depth = int(getattr(text, "num_hidden_layers", 0) or 0)
            return {
                "folder": build.model_name(self.plan), "class": config.architectures[0], "layers": list(range(depth)),
                "depth": depth, "bytes": size, "quantization": None, "vocabulary": model.vocabulary_of(config),
            }  # fmt: skip
        folder = self.folder / "model"
        return {
            "folder": str(folder),
            **model.small(self.plan, config, folder, build.tokenizer(self.plan), _length(found)),
        }

    def _train(self, plan: Plan, name: str) -> Run:
        """Trains the rehearsed plan as the engine trains every run; the stages within are told as its events come."""
        run = create_run(self.folder / "runs", name)
        write_json(run.path / "lock.json", {})
        write_json(
            run.path / "status.json", {"state": "starting", "created": time.time(), "recipe": plan.name, "gpu": "cpu"}
        )
        write_json(run.path / "plan.json", plan.to_json())
        watch = _Watch(self, run, plan)
        self._begin("start")
        self._supervised(run, watch.look)
        watch.look()
        watch.finish()
        return run

    def _resume(self, run: Run, plan: Plan) -> None:
        proofs = _proofs()
        other = proofs.halfway(run, changes.EVERY, "resumed")
        self._supervised(other, lambda: None)
        found = self._child(lambda: proofs.same(run, other, changes.EVERY, changes.STEPS))
        self._proved(
            f"killed after step {found['step']} and continued: the same losses and weights at step {found['last']}, bit for bit"
        )

    def _supervised(self, run: Run, look: Callable[[], None]) -> None:
        """Trains `run` under the supervisor to its end. Raises what its result says."""
        from nothing_tune.engine.supervisor import supervise

        before = dict(os.environ)
        os.environ["TUNE_CACHE_DIR"] = str(self.folder / "cache")
        try:
            code = supervise(run, children.spawner(self.log, look))
        finally:
            os.environ.clear()
            os.environ.update(before)
        result = run.result() or {}
        if code or result.get("state") != "done":
            look()
            trace = (result.get("error") or {}).get("traceback")
            if trace:
                with contextlib.suppress(OSError), open(self.log, "a", encoding="utf-8") as log:
                    log.write(str(trace))
            raise children.error_of(result.get("error"), code or 5)

    def _child(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        return children.call(work, self.folder, self.log)

    # Telling --------------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self._begin(name)
        with self._failing():
            yield

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Tells the stage that fails, and gives its error key and cure."""
        try:
            yield
        except Exception as error:
            known = failures.explain(error)
            raise self._failed(known) from error

    def _failed(self, known: TuneError) -> TuneError:
        bug = type(known) is TuneError  # of ours: its own hint says what to do
        problems = (
            [replace(p, hint=p.hint.replace("the run's engine.log", str(self.log))) for p in known.problems]
            if bug
            else [self._in_their_words(p) for p in causes.told_once(known.problems, self.stage)]
        )
        if isinstance(known, StorageError):  # no setting is to blame
            problems = [replace(p, hint="free some space, or set TMPDIR to another folder") for p in known.problems]
        seconds = time.monotonic() - self.began
        self.send(type="stage", stage=self.stage, state="failed", seconds=seconds, what=problems[0].what)
        return type(known)(*problems)

    def _in_their_words(self, problem: Problem) -> Problem:
        from nothing_tune.engine.rehearse.rows import mapped

        model = str(self.plan.model.get("name_or_path"))

        def words(text: str) -> str:
            text = mapped(text, self.places).replace(str(self.folder / "model"), model)
            return text.replace(causes.INSPECT, self.request.get("inspect") or causes.INSPECT)

        return replace(problem, what=words(problem.what), hint=words(problem.hint))

    def _begin(self, name: str) -> None:
        self.stage, self.began = name, time.monotonic()
        self.send(type="stage", stage=name, state="begins")

    def _proved(self, what: str, state: str = "proved") -> None:
        self.send(type="stage", stage=self.stage, state=state, seconds=time.monotonic() - self.began, what=what)

    def _tell(self, what: str, rows: int) -> None:
        if time.monotonic() - self._told > EVERY_S:
            self._told = time.monotonic()
            self.send(type="progress", what=what, rows=rows)

    def _room(self) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < FREE_BYTES:
            raise StorageError(
                f"{self.folder.parent} has {free / 2**20:.0f} MiB left, and a rehearsal needs more",
                hint="free some space there, or set TMPDIR to another folder",
            )


class _Watch:
    """Turns a run's events into stages, as they come."""

    def __init__(self, rehearsal: Rehearsal, run: Run, plan: Plan) -> None:
        self.rehearsal, self.run, self.plan = rehearsal, run, plan
        self.offset = 0
        self.losses: list[float] = []
        self.evals: list[float] = []
        self.saved: list[int] = []
        self.longest = 0
        self.start: dict[str, Any] = {}

    def look(self) -> None:
        """Reads what has been written since."""
        with contextlib.suppress(OSError):
            for event, behind in self.run.events(self.offset):
                self.offset = behind
                self._see(event)

    def _see(self, event: dict[str, Any]) -> None:
        kind, metrics = event.get("type"), event.get("metrics") or {}
        if kind == "phase":
            stage = PHASES.get(str(event.get("phase")), "start")
            if stage != self.rehearsal.stage:
                self._end()
                self.rehearsal._begin(stage)
        elif kind == "start":
            self.start = event
        elif kind == "rehearsal":
            self.longest = int(event.get("tokens") or 0)
        elif kind == "log" and metrics.get("loss") is not None:
            self.losses.append(float(metrics["loss"]))
        elif kind == "eval" and metrics.get("eval_loss") is not None:
            self.evals.append(float(metrics["eval_loss"]))
        elif kind == "checkpoint":
            self.saved.append(int(event.get("step") or 0))

    def _end(self) -> None:
        """Tells the stage that is over."""
        rehearsal, plan = self.rehearsal, self.plan
        if rehearsal.stage == "start":
            rehearsal._proved(said.of_start(plan, self.start))
        elif rehearsal.stage == "training":
            steps = (
                f"{len(self.losses)} steps, loss {self.losses[0]:.3f} to {self.losses[-1]:.3f}"
                if self.losses
                else "done"
            )
            rehearsal._proved(f"{steps}; the longest batch, {self.longest:,} tokens, ran as well")
            if str(plan.training.get("eval_strategy") or "no") == "no":
                told = ("left out", "the recipe evaluates nothing")
            else:
                last = f", loss {self.evals[-1]:.3f}" if self.evals else ""
                told = ("proved" if self.evals else "failed", f"{len(self.evals)} evaluations{last}")
            for stage, (state, what) in {
                "evaluation": told,
                "checkpoint": ("proved", f"{len(self.saved)} checkpoints written, flushed and verified"),
            }.items():
                rehearsal.send(type="stage", stage=stage, state="begins")
                rehearsal.send(type="stage", stage=stage, state=state, seconds=None, what=what)

    def finish(self) -> None:
        """Tells the last stage of a run that is done. `RunError` where an evaluation or a checkpoint that was due did not come."""
        evaluates = str(self.plan.training.get("eval_strategy") or "no") != "no"
        if evaluates and not self.evals:
            what, key = "nothing was evaluated", "training.eval_strategy"
            raise RunError(Problem(what, key=key, hint="leave out what was changed last about evaluation"))
        if {changes.EVERY, changes.STEPS} - set(self.saved):
            what = f"checkpoints were due at steps {changes.EVERY} and {changes.STEPS}, and came at {self.saved}"
            raise RunError(
                Problem(what, key="training.save_steps", hint="leave out what was changed last in checkpoint")
            )
        result = self.run.result() or {}
        step = (result.get("metrics") or {}).get("best_step")
        which = f"the best checkpoint, step {step}," if step else "the last step"
        kind = "an adapter" if self.plan.peft else "a model"
        notes = "".join(f"; {note}" for note in (result.get("notes") or [])[:1])
        self.rehearsal._proved(f"{which} became {kind} with tokenizer and template{notes}")


def _length(found: dict[str, Any]) -> int:
    """Tokens of the longest sequence that the training would see."""
    limit, longest = found["max_length"], int(found["longest"])
    return int(limit) if limit and found["packing"] else min(longest, int(limit or longest))


def _proofs() -> Any:
    return importlib.import_module("nothing_tune.engine.rehearse.proofs")
