"""Answers questions with a model that is loaded here, through transformers, several at once.

Every prompt draws from its own random numbers (its seed is made of its key): a prompt's answer does not depend on which others it
was answered with, up to the rounding of the device, which may differ with the width of a batch and then changes a token here
and there. The same prompts, in the same order, in the same batches, on the same device give the same answers. Temperature 0
takes the likeliest token.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

from nothing_tune.data.hub import hub_problem
from nothing_tune.engine.generate.questions import Answer, Question
from nothing_tune.engine.generate.schedule import Schedule
from nothing_tune.errors import OutOfMemory, Problem, UsageError

KEY = "generate.generator.model"
SMALLER = "write generate.generator.quantization: 4bit, or take a smaller generator"


def load(settings: dict[str, Any]) -> tuple[Any, Any]:
    """`(model, tokenizer)` of `generate.generator`, ready to answer.

    Raises:
        UsageError: The model is not there, or has no chat template.
        OutOfMemory: It does not fit.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    generator = settings["generator"]
    name, revision = generator["model"], generator.get("revision") or "main"
    kwargs: dict[str, Any] = {"revision": revision, "dtype": dtype(generator)}
    if torch.cuda.is_available():
        kwargs["device_map"] = {"": 0}
    if generator.get("quantization"):
        from transformers import BitsAndBytesConfig

        four = generator["quantization"] == "4bit"
        kwargs["quantization_config"] = (
            BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=_half())
            if four
            else BitsAndBytesConfig(load_in_8bit=True)
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, padding_side="left")
        if not tokenizer.chat_template:
            raise UsageError(
                Problem(
                    f"generator {name} has no chat template: it is a base model, which continues text and answers nobody",
                    key=KEY,
                    hint="name the instruct model of the same size",
                )
            )
        model = AutoModelForCausalLM.from_pretrained(name, **kwargs)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"out of memory while generator {name} was loaded", hint=SMALLER) from error
    except (OSError, ConnectionError) as error:
        raise UsageError(hub_problem(error, name, KEY, what="generator")) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.eval()
    return model, tokenizer


def dtype(generator: dict[str, Any]) -> Any:
    """The type of the weights: as written; auto is the stored one on a GPU that has it, and float32 on a CPU."""
    written = generator.get("dtype") or "auto"
    if written != "auto":
        return getattr(torch, written)
    if not torch.cuda.is_available():
        return torch.float32
    return "auto" if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def _half() -> Any:
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def answer_all(
    schedule: Schedule,
    settings: dict[str, Any],
    give: Callable[[Question, Answer], None],
    stopped: Callable[[], bool],
    loaded: tuple[Any, Any] | None = None,
) -> None:
    """Answers until the schedule has nothing more, or `stopped()`; a batch that is stopped is given up.

    A batch that does not fit into memory is halved, and so are those after it.

    Raises:
        UsageError: See `load`.
        OutOfMemory: One prompt alone does not fit.
    """
    model, tokenizer = loaded or load(settings)
    size = int(settings["generator"]["batch_size"])
    while not stopped() and (batch := schedule.take(size)):
        rest = list(batch)
        try:
            while rest and not stopped():
                part = rest[:size]
                try:
                    answers = reply(model, tokenizer, part, stopped)
                except torch.OutOfMemoryError as error:
                    if size == 1:
                        raise OutOfMemory("out of memory with one prompt", hint=SMALLER) from error
                    torch.cuda.empty_cache()
                    size = max(size // 2, 1)
                    continue
                if answers is None:
                    break
                for question, answer in zip(part, answers, strict=True):
                    give(question, answer)
                    schedule.done(question)
                rest = rest[len(part) :]
        finally:
            for question in rest:
                schedule.done(question)


def reply(
    model: Any, tokenizer: Any, questions: Sequence[Question], stopped: Callable[[], bool] = lambda: False
) -> list[Answer] | None:
    """The answers to questions that share their sampling; None when it was stopped on the way.

    A question that leaves no room in the model's context gets a lasting fault.
    """
    from transformers import LogitsProcessorList, StoppingCriteriaList

    texts = [_rendered(tokenizer, question) for question in questions]
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    sampling = questions[0].sampling
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    fits = [most is None or len(one) + sampling["max_new_tokens"] <= most for one in ids]
    faults = {
        n: Answer(
            fault=f"{len(ids[n])} tokens and {sampling['max_new_tokens']} new ones exceed the model's {most}",
            lasting=True,
        )
        for n, good in enumerate(fits)
        if not good
    }
    good = [n for n in range(len(questions)) if n not in faults]
    if not good:
        return [faults[n] for n in range(len(questions))]
    inputs = tokenizer.pad({"input_ids": [ids[n] for n in good]}, return_tensors="pt", padding_side="left").to(
        model.device
    )
    ends = _ends(model, tokenizer)
    processors = LogitsProcessorList()
    if sampling["temperature"] > 0:
        seeds = [questions[n].seed for n in good]
        processors.append(Draw(sampling["temperature"], sampling["top_p"], seeds, inputs["input_ids"].shape[1]))
    with torch.inference_mode():
        out = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=sampling["max_new_tokens"],
            do_sample=False,  # `Draw` leaves one token each time
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
            logits_processor=processors,
            stopping_criteria=StoppingCriteriaList([lambda *_, **__: _all(inputs["input_ids"], stopped())]),
        )
    if stopped():
        return None
    answers = dict(faults)
    for row, n in enumerate(good):
        new = out[row, inputs["input_ids"].shape[1] :].tolist()
        at = next((i for i, token in enumerate(new) if token in ends), None)
        text = tokenizer.decode(new if at is None else new[:at], skip_special_tokens=True)
        finish, count = ("length", len(new)) if at is None else ("stop", at + 1)
        answers[n] = Answer(text.strip(), finish, len(ids[n]), count)
    return [answers[n] for n in range(len(questions))]


class Draw:
    """A logits processor that draws the next token of each row with the row's own random numbers, and leaves only that one.

    One number a step: the first token whose summed probability, the likeliest first, exceeds it. Top-p keeps the likeliest
    tokens up to the one that reaches the share (Holtzman et al. 2020).
    """

    def __init__(self, temperature: float, top_p: float, seeds: Sequence[int | None], start: int) -> None:
        """`start` is the number of tokens before the first that is drawn; a seed of None draws by chance."""
        self.temperature = temperature
        self.top_p = top_p
        self.start = start
        self._chances = [random.Random(seed) for seed in seeds]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """`scores` (rows, vocabulary) with minus infinity everywhere but at the drawn tokens."""
        shares, order = torch.softmax(scores.float() / self.temperature, dim=-1).sort(
            dim=-1, descending=True, stable=True
        )
        summed = shares.cumsum(dim=-1)
        kept = (summed - shares) < self.top_p  # the likeliest token always is
        mass = torch.where(kept, summed, 0.0).amax(dim=-1, keepdim=True)
        points = torch.tensor([[c.random()] for c in self._chances], device=scores.device) * mass
        index = (summed <= points).sum(dim=-1, keepdim=True)
        index = torch.minimum(index, kept.sum(dim=-1, keepdim=True) - 1)
        drawn = order.gather(-1, index)
        return torch.full_like(scores, float("-inf")).scatter(-1, drawn, 0.0)


def _rendered(tokenizer: Any, question: Question) -> str:
    messages = list(question.messages)
    try:
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    except Exception as error:  # jinja's own errors: a template may know no system role
        if messages[0]["role"] == "system" and len(messages) > 1:
            first = {**messages[1], "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
            return str(
                tokenizer.apply_chat_template([first, *messages[2:]], add_generation_prompt=True, tokenize=False)
            )
        raise UsageError(
            Problem(
                f"the generator's chat template refuses {question.prompt.place}: {error}",
                key=KEY,
                hint="look at the row, or take another generator",
            )
        ) from error


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the model's own, and the end of the turn that the tokenizer knows."""
    known = model.generation_config.eos_token_id if model.generation_config else None
    ids = [known] if isinstance(known, int) else list(known or [])
    return list(dict.fromkeys([*ids, *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])]))


def _all(ids: Any, value: bool) -> Any:
    return torch.full((ids.shape[0],), value, dtype=torch.bool, device=ids.device)
