"""Loads what answers: a run with its adapter as it trained, an adapter's folder on its base, a whole model's folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from queue import Queue
from typing import Any

from nothing_tune.artifacts import Run, read_json
from nothing_tune.engine import pickles
from nothing_tune.engine.worker import goes_offline, with_environment
from nothing_tune.errors import Problem, UsageError
from nothing_tune.plan.model import Plan


def load(run: Run, base: bool, weights: Path | None = None) -> tuple[Any, Any]:
    """The model of `run`, with its adapter unless `base`, ready to generate, and its tokenizer.

    Args:
        base: Leaves the adapter off; after full fine-tuning the model as it was before.
        weights: Folder of committed weights, a checkpoint; None is what the run handed over.

    Raises:
        UsageError: The run has no weights yet, the base is not there, or weights are a pickle.
    """
    plan = Plan.from_json(with_environment(run.plan()))
    weights = weights or run.adapter
    if not base and not (weights / "tokenizer_config.json").is_file():
        raise UsageError(
            f"run {run.id} has nothing to talk to yet: it is {run.state()}", hint=f"tune resume {run.id} finishes it"
        )
    if not base:
        pickles.refuse(weights)
    goes_offline(plan)
    import torch

    if plan.training.get("use_cpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import transformers
    from transformers import AutoTokenizer

    from nothing_tune.engine import build

    transformers.logging.set_verbosity_error()
    if not base and not plan.peft:
        plan = Plan.from_json(
            {**plan.to_json(), "model": {**plan.model, "name_or_path": str(weights), "revision": None}}
        )
    model = build.model(plan)
    tokenizer = build.tokenizer(plan) if base or not plan.peft else AutoTokenizer.from_pretrained(weights)
    if not base and plan.peft:
        from peft import PeftModel

        build.grow(model, tokenizer)
        with _plain(run, plan, weights) as folder:
            model = PeftModel.from_pretrained(model, str(folder))
    if torch.cuda.is_available() and not plan.quantization:
        model = model.to("cuda")
    return _ready(model), tokenizer


def load_folder(folder: Path, base: bool) -> tuple[Any, Any]:
    """A whole model's folder, or an adapter's with the base that its config names, and its tokenizer.

    Weights keep the type they are stored with; nothing is quantised. `UsageError` where something is missing.
    """
    pickles.refuse(folder)
    settings = read_json(folder / "adapter_config.json")
    name = str((settings or {}).get("base_model_name_or_path") or "") if settings else str(folder)
    if settings and _reads_like_a_path(name) and not Path(name).is_dir():
        raise UsageError(
            f"the base model of {folder} is gone: there is nothing at {name or 'the place it names'}",
            hint=f"put it back, or mend base_model_name_or_path in {folder / 'adapter_config.json'}",
        )
    if not settings and base:
        raise UsageError(f"{folder} is a whole model: it has no base to talk to", hint="leave --base out")
    import torch
    import transformers
    from transformers import AutoTokenizer
    from trl.trainer.utils import create_model_from_path

    from nothing_tune.data.hub import hub_problem
    from nothing_tune.engine import build

    transformers.logging.set_verbosity_error()
    where: Any = {"": 0} if torch.cuda.is_available() else None
    own = (folder / "tokenizer_config.json").is_file() and not base
    try:
        revision = str((settings or {}).get("revision") or "main")
        model = create_model_from_path(name, dtype="auto", device_map=where, revision=revision)
        tokenizer = AutoTokenizer.from_pretrained(str(folder) if own else name)
    except (OSError, ConnectionError) as error:
        raise UsageError(_told(folder, hub_problem(error, name, ""))) from error
    if settings and not base:
        from peft import PeftModel

        build.grow(model, tokenizer)
        model = PeftModel.from_pretrained(model, str(folder))
    return _ready(model), tokenizer


def _told(folder: Path, problem: Problem) -> Problem:
    return Problem(f"{folder} cannot be loaded: {problem.what}", hint=problem.hint)


def _reads_like_a_path(name: str) -> bool:
    return not name or name.startswith(("/", ".", "~")) or name.count("/") > 1


def _ready(model: Any) -> Any:
    model.eval()
    model.config.use_cache = True
    return model


@contextlib.contextmanager
def _plain(run: Run, plan: Plan, weights: Path) -> Iterator[Path]:
    """A folder with the adapter as the untouched base takes it: `weights` itself, or a copy where PiSSA or OLoRA moved the base."""
    from nothing_tune.engine import handover, starts

    if weights == run.adapter or not (run.path / starts.FILE).is_file():
        yield weights
        return
    with tempfile.TemporaryDirectory(prefix="tune-chat-") as made:
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            shutil.copy2(weights / name, Path(made) / name)
        handover.make_plain(Path(made), run, plan)
        yield Path(made)


class Transformers:
    """A loaded model and its tokenizer as `replies` asks them: tokens in, tokens out."""

    kind = "transformers"

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        text = model.config.get_text_config()
        limit = getattr(text, "max_position_embeddings", None)
        self.context: int | None = int(limit) if limit else None
        self.device = str(model.device)
        self.dtype = str(model.get_input_embeddings().weight.dtype).removeprefix("torch.")
        self.can_leave_off = hasattr(model, "disable_adapter")
        self._stops: frozenset[int] | None = None

    @property
    def stops(self) -> frozenset[int]:
        """Tokens that end an answer."""
        if self._stops is None:
            from nothing_tune.engine.export.stops import stops

            self._stops = frozenset(stops(self.tokenizer, self.model.generation_config))
        return self._stops

    def encode(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> list[int]:
        """The conversation up to where the answer begins, as the chat template writes it; calls as text where it shows none."""
        tok = self.tokenizer
        if not tok.chat_template:
            return list(tok(str(messages[-1].get("content") or ""))["input_ids"])
        said, given = list(messages), list(tools or [])
        if given or any(m.get("role") == "tool" or m.get("tool_calls") for m in said):
            said, given = self._shown(said, given)
        found = tok.apply_chat_template(said, tools=given or None, add_generation_prompt=True, return_dict=True)
        return list(found["input_ids"])

    def _shown(self, messages: list[Any], tools: list[Any]) -> tuple[list[Any], list[Any]]:
        from nothing_tune.engine import template_probes, tool_text

        template = self.tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("tool_use") or template.get("default")
        said, given = tool_text.rendered_by(template_probes.abilities(self.tokenizer, str(template)), messages, tools)
        return said, given or []

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The text of tokens; `special` keeps special tokens."""
        return str(
            self.tokenizer.decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False)
        )

    def without_adapter(self) -> AbstractContextManager[Any]:
        """While it lasts, the base answers."""
        off: AbstractContextManager[Any] = self.model.disable_adapter()
        return off

    def tokens(self, ids: Sequence[int], settings: Mapping[str, Any], cancel: threading.Event) -> Iterator[int]:
        """Generates after `ids` until a stop token (which is the last one given), `max_new_tokens`, or `cancel`.

        What `settings` leave open, top_k and repetition_penalty, is as the model's own generation config says.
        """
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList

        class Cancelled(StoppingCriteria):
            def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
                return torch.full(
                    (input_ids.shape[0],), cancel.is_set() or left.is_set(), dtype=torch.bool, device=input_ids.device
                )

        queue: Queue[int | BaseException | None] = Queue()
        left = threading.Event()
        inputs = torch.tensor([list(ids)], device=self.model.device)
        tok = self.tokenizer
        given: dict[str, Any] = {
            "max_new_tokens": settings["max_new_tokens"],
            "do_sample": settings["temperature"] > 0,
            "eos_token_id": sorted(self.stops) or None,
            "pad_token_id": tok.pad_token_id if tok.pad_token_id is not None else next(iter(sorted(self.stops)), 0),
            "stopping_criteria": StoppingCriteriaList([Cancelled()]),
        }
        if settings["temperature"] > 0:
            given |= {"temperature": settings["temperature"], "top_p": settings["top_p"]}
            given |= {"top_k": settings["top_k"]} if settings.get("top_k") is not None else {}
        if settings.get("repetition_penalty") is not None:
            given["repetition_penalty"] = settings["repetition_penalty"]
        if settings.get("seed") is not None:
            torch.manual_seed(int(settings["seed"]))

        def generate() -> None:
            try:
                with torch.inference_mode():
                    self.model.generate(
                        input_ids=inputs,
                        attention_mask=torch.ones_like(inputs),
                        streamer=_Feed(queue.put),
                        **given,
                    )
                queue.put(None)
            except BaseException as error:  # raised again where the caller is
                queue.put(error)

        thread = threading.Thread(target=generate, name="generate", daemon=True)
        thread.start()
        try:
            while (item := queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            left.set()
            thread.join()


class _Feed:
    """What `generate` gives its tokens to; the first call brings the prompt, which is left out."""

    def __init__(self, give: Callable[[int], None]) -> None:
        self.give = give
        self.prompt = True

    def put(self, value: Any) -> None:
        if self.prompt:
            self.prompt = False
            return
        for token in value.reshape(-1).tolist():
            self.give(int(token))

    def end(self) -> None:
        """Nothing to do: `generate` returns."""
