"""The proof of each output against the run: its answers, its weights, its tokenizer and template, and that it stops."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nothing_tune.artifacts import read_json
from nothing_tune.engine import build, pickles
from nothing_tune.engine.export import base as bases
from nothing_tune.engine.export import stops
from nothing_tune.engine.export.proof import answers as references
from nothing_tune.engine.export.proof import conversion, llama, models, texts, weights
from nothing_tune.engine.export.proof.answers import Reference
from nothing_tune.engine.export.proof.checks import check, distance, number, result, unknown
from nothing_tune.engine.export.source import Base, Source
from nothing_tune.errors import TuneError
from nothing_tune.outputs import limits

NOTHING = 1e-7
"""Effect of a training (KL of the run to its base) up to which run and base cannot be told apart by their answers."""
NEARER = 0.5
"""An export of which the base explains the answers this much better than the run is not the run's."""
ADAPTER_GGUF = "adapter-"


@dataclass(frozen=True)
class Around:
    """What an output is compared with besides the run's answers.

    Attributes:
        base: The base model's files; None where they are gone.
        right: The tokenizer that it must have, with its template; None where unknown.
        whose: Whose that is.
    """

    base: Base | None
    right: Any
    whose: str


def around(source: Source) -> Around:
    """The base and the right tokenizer of a run, as far as they are there."""
    own, whose = None, "the run's"
    with contextlib.suppress(Exception):  # a tokenizer that cannot be read any more
        if (source.weights / "tokenizer_config.json").is_file():
            own = references.load_tokenizer(source.weights, bool(source.plan.model.get("trust_remote_code")))
    try:
        base = bases.find(source.plan)
    except TuneError:
        return Around(None, own, whose)
    right = own
    with contextlib.suppress(Exception):
        if own is not None:  # without the run it is not known which template it was told to use
            right, whose = texts.right_tokenizer(source.plan, base.folder, own)
    return Around(base, right, whose)


def adapter(
    source: Source, ref: Reference | None, near: Around | None = None, folder: Path | None = None
) -> dict[str, Any]:
    """Proves the exported adapter: it belongs to its base, loads again with PEFT, and answers as the run does.

    Args:
        source: What was exported.
        folder: The exported adapter; `source.adapter` when it is None.
        ref: The run's answers; None where they cannot be had any more.
        near: See `around`, which is asked when it is None.
    """
    near, folder = near or around(source), folder or source.adapter
    checks = [_belongs(source, ref), _config(source, folder)]
    warnings: list[dict[str, str]] = []
    numbers: dict[str, Any] = {}
    if ref is None or near.base is None:
        checks.append(unknown("answers", _lacking(ref, near)))
    else:
        tokenizer = references.tokenizer(source)
        trust = bool(source.plan.model.get("trust_remote_code"))
        try:
            pickles.refuse(folder)
            with models.exact(), _model(near.base.folder, trust, ref) as model:
                build.grow(model, tokenizer)
                said = models.log_probabilities(references.with_adapter(model, folder, source), ref.prompts)
        except TuneError:
            raise
        except Exception as error:
            checks.append(check("reload", False, f"PEFT does not load it: {_first_line(error)}"))
        else:
            checks.append(check("reload", True, "PEFT loads it onto the base"))
            numbers = _answers(said, ref, limits.adapter(), checks, warnings)
        _of_quantised(ref, checks, warnings)
    checks += _surroundings(folder, near, ref)
    return result(checks, warnings, **{**(ref.numbers if ref else {}), **numbers})


def merged(folder: Path, source: Source, ref: Reference | None, near: Around | None = None) -> dict[str, Any]:
    """Proves the merged (or fully trained) model in `folder`: every weight, its answers, its type, and that it stops."""
    near = near or around(source)
    if near.right is None and (source.adapter / "tokenizer_config.json").is_file() and not source.full:
        with contextlib.suppress(Exception):
            near = Around(near.base, references.load_tokenizer(source.adapter, False), "the exported adapter's")
    checks: list[dict[str, Any]] = []
    warnings: list[dict[str, str]] = []
    numbers: dict[str, Any] = {}
    if not source.full or source.weights.is_dir():
        _weights(folder, source, near, checks)
    config = models.read_config(folder)
    dtype = str(config.get("dtype") or config.get("torch_dtype") or (near.base.dtype if near.base else ""))
    if near.base is not None:
        dtype = near.base.dtype
        _same_config(config, near.base.config, checks)
    trust = bool(source.plan.model.get("trust_remote_code"))
    try:
        pickles.refuse(folder)
        with models.exact(), _model(folder, trust, ref) as model:
            checks.append(check("reload", True, "transformers loads it"))
            if ref is None:
                checks.append(unknown("answers", _lacking(ref, near)))
            else:
                said = models.log_probabilities(model, ref.prompts)
                numbers = _answers(said, ref, limits.merged(dtype), checks, warnings)
                if all(c["ok"] is not False for c in checks):
                    conversion.keep(folder, source, ref, said)
                given = stops.configured(read_json(folder / "generation_config.json"))
                checks.append(
                    _stops(ref, lambda prompt, n: models.answer(model, prompt, given, n), lambda t: t in given)
                )
    except TuneError:
        raise
    except Exception as error:
        checks.append(check("reload", False, f"transformers does not load it: {_first_line(error)}"))
    checks += _surroundings(folder, near, ref)
    return result(checks, warnings, **{**(ref.numbers if ref else {}), **numbers})


def gguf(file: Path, name: str, source: Source, ref: Reference | None, near: Around | None = None) -> dict[str, Any]:
    """Proves a GGUF file of type `name` (`q4_k_m`, `adapter-f16`) by reading it with llama.cpp.

    An adapter alone is read on top of the base's GGUF, which is made for that beside it, and removed again.
    """
    checks: list[dict[str, Any]] = []
    warnings: list[dict[str, str]] = []
    if not llama.installed():
        why = "llama.cpp is not installed here: pip install 'nothing-tune[gguf]'"
        return result([unknown(n, why) for n in ("reload", "answers", "tokens", "chat-template", "stop-tokens")])
    try:
        if name.startswith(ADAPTER_GGUF):
            numbers = _adapter_gguf(file, name, source, ref, near or around(source), checks, warnings)
        else:
            numbers = _whole_gguf(file, name, source, ref, checks, warnings)
    except TuneError:
        raise
    except Exception as error:
        checks.append(check("reload", False, f"llama.cpp does not load it: {_first_line(error)}"))
        numbers = {}
    return result(checks, warnings, **{**(ref.numbers if ref else {}), **numbers})


def _whole_gguf(
    file: Path,
    name: str,
    source: Source,
    ref: Reference | None,
    checks: list[dict[str, Any]],
    warnings: list[dict[str, str]],
) -> dict[str, Any]:
    tokenizer = _exported_tokenizer(source)
    numbers: dict[str, Any] = {}
    context = llama.context(ref.prompts) if ref else 512
    before = conversion.of_merged(source, ref)
    with llama.opened(file, context) as model:
        checks.append(check("reload", True, "llama.cpp loads it"))
        if ref is None:
            checks.append(unknown("answers", "the run's answers cannot be had any more"))
        else:
            said = llama.log_probabilities(model, ref.prompts)
            numbers = _answers(said, ref, limits.gguf(name), checks, warnings)
            numbers |= conversion.judge(said, name, before, ref, checks, warnings)
            checks.append(
                _stops(
                    ref, lambda prompt, n: llama.answer(model, prompt, n), lambda token: llama.stops_at(model, token)
                )
            )
        checks += llama.surroundings(model, tokenizer, ref.facts["end"] if ref else None)
    return numbers


def _exported_tokenizer(source: Source) -> Any:
    """The tokenizer that was exported beside a GGUF file, else the run's."""
    for folder in (source.folder / "merged", source.adapter):
        if (folder / "tokenizer_config.json").is_file():
            return references.load_tokenizer(folder, bool(source.plan.model.get("trust_remote_code")))
    return references.tokenizer(source)


def _adapter_gguf(
    file: Path,
    name: str,
    source: Source,
    ref: Reference | None,
    near: Around,
    checks: list[dict[str, Any]],
    warnings: list[dict[str, str]],
) -> dict[str, Any]:
    from nothing_tune.engine.export import gguf as converter

    if ref is None or near.base is None:
        checks.append(unknown("answers", _lacking(ref, near)))
        return {}
    on_the_way = file.with_name(f".base-of-{file.name}")
    try:
        converter.convert(near.base.folder, on_the_way, "f16", _silent)
        with llama.opened(on_the_way, llama.context(ref.prompts), adapter=file) as model:
            checks.append(check("reload", True, "llama.cpp loads it onto the base"))
            return _answers(llama.log_probabilities(model, ref.prompts), ref, limits.gguf(name), checks, warnings)
    except TuneError as error:
        checks.append(unknown("answers", f"the base cannot be made a GGUF file: {error.problems[0].what}"))
        return {}
    finally:
        on_the_way.unlink(missing_ok=True)


def _answers(
    said: torch.Tensor,
    ref: Reference,
    limit: limits.Limit,
    checks: list[dict[str, Any]],
    warnings: list[dict[str, str]],
) -> dict[str, Any]:
    """Adds what the answers tell; returns `kl`, `top1` and `max_kl`."""
    to_run, to_base, effect = distance(ref.run, said), distance(ref.base, said), ref.facts["effect"]
    told = f"over {to_run.positions} positions the answers lie KL {number(to_run.kl)} from the run's"
    if to_run.kl <= limit.kl:
        checks.append(check("answers", True, told, to_run.kl, limit.kl))
    else:
        checks.append(check("answers", False, f"{told}, the limit is {number(limit.kl)}", to_run.kl, limit.kl))
    same = f"{100 * to_run.top1:.1f} % of the most likely tokens are the run's"
    good = to_run.top1 >= limit.top1
    checks.append(
        check(
            "top-token",
            good,
            same if good else f"only {same}",
            to_run.top1,
            limit.top1,
        )
    )
    if effect <= NOTHING:
        checks.append(
            unknown("differs-from-base", f"the training changed the answers by no more than KL {number(effect)}")
        )
    elif to_base.kl < NEARER * to_run.kl or to_base.kl <= NOTHING:
        what = f"it answers as the base, KL {number(to_base.kl)}, not as the run, KL {number(to_run.kl)}"
        checks.append(check("differs-from-base", False, what, to_base.kl, effect))
    else:
        what = f"it lies KL {number(to_base.kl)} from the base, {number(to_run.kl)} from the run; the training changed {number(effect)}"
        checks.append(check("differs-from-base", True, what, to_base.kl, effect))
    if to_run.kl <= limit.kl and to_run.kl > limit.poor:
        warnings.append(
            {
                "what": f"{told}, which is much for this format",
                "hint": f"expected below {number(limit.poor)} ({limit.why})",
            }
        )
    if NOTHING < effect < to_run.kl <= limit.kl:
        warnings.append(
            {
                "what": f"it loses more (KL {number(to_run.kl)}) than the training changed (KL {number(effect)})",
                "hint": "a format with more bits keeps what was trained",
            }
        )
    return {"kl": to_run.kl, "top1": to_run.top1, "max_kl": to_run.most}


def _stops(ref: Reference, answer: Callable[..., Sequence[int]], ends: Callable[[int], bool]) -> dict[str, Any]:
    """Whether it comes to an end where the run does: at least half of those answers, in twice the tokens (one other word, where two
    are as likely, may make an answer longer)."""
    name, told = "stops", ref.facts["answers"]
    ended = [a for a in told if a["ended"]]
    if not ended:
        why = (
            "the run itself does not end its answers soon"
            if told
            else "there is no row of the run's own data to answer"
        )
        return unknown(name, why, mild=True)
    done = 0
    for one in ended:
        said = answer(ref.prompts[one["prompt"]], 2 * max(int(one["tokens"]), 16))
        done += bool(said) and ends(int(said[-1]))
    if 2 * done < len(ended):
        return check(
            name,
            False,
            f"it does not stop: the run ends {len(ended)} answers, it ends {done} of these",
            done,
            len(ended),
        )
    return check(name, True, f"it ends {done} of the {len(ended)} answers that the run ends", done, len(ended))


def _belongs(source: Source, ref: Reference | None) -> dict[str, Any]:
    name = "base"
    told = ref.facts["base"] if ref else None
    called = str(source.plan.model.get("name_or_path"))
    if told is None:
        return unknown(name, "the base cannot be looked at")
    if told["ok"] is None:
        return unknown(name, told["why"])
    if not told["ok"]:
        return check(
            name,
            False,
            f"{called} is not the base that the run was trained on, or another revision of it ({told['why']})",
        )
    return check(name, True, f"{called} is the base that the run was trained on")


def _config(source: Source, folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    name, config = "adapter-files", read_json(folder / "adapter_config.json")
    path = folder / "adapter_model.safetensors"
    if not isinstance(config, dict) or not path.is_file():
        return check(name, False, "adapter_config.json or adapter_model.safetensors is not there")
    named, wanted = str(config.get("base_model_name_or_path") or ""), str(source.facts["base"]["name_or_path"])
    if Path(named).expanduser().absolute() != Path(wanted).expanduser().absolute():
        return check(name, False, f"adapter_config.json names the base {named}, the run was trained on {wanted}")
    if str(config.get("init_lora_weights")).lower().startswith(build.MOVES_BASE):
        return check(
            name,
            False,
            f"it is no plain adapter: init_lora_weights {config['init_lora_weights']} moves the base's weights",
        )
    try:
        tensors = load_file(path)
    except Exception as error:
        return check(name, False, f"adapter_model.safetensors cannot be read: {_first_line(error)}")
    broken = sorted(n for n, t in tensors.items() if not torch.isfinite(t).all())
    if broken:
        return check(name, False, f"{len(broken)} tensors have values that are not finite: {broken[0]}")
    halves = [t for n, t in tensors.items() if ".lora_B" in n or ".lora_embedding_B" in n]
    if halves and not any(t.any() for t in halves):
        return check(name, False, "all its lora_B are zero: it changes nothing")
    return check(name, True, f"{len(tensors)} tensors, all finite, for {named}")


def _weights(folder: Path, source: Source, near: Around, checks: list[dict[str, Any]]) -> None:
    try:
        if source.full:
            found = weights.compare(folder, source.weights, source.adapter / ".none")
            kept = near.base.dtype if near.base else ""
            others = weights.other_dtypes(folder, near.base.folder, kept) if near.base else []
            if near.base is None:
                checks.append(unknown("dtype", "the base, whose type they must have, is gone", mild=True))
            elif others:
                checks.append(check("dtype", False, f"the weights are {', '.join(others)}, the base's {kept}"))
            else:
                checks.append(check("dtype", True, f"the weights are {kept}, as the base's"))
            checks += [c for c in weights.checks(found, kept) if c["name"] not in ("other-weights", "dtype")]
            wrong = [*found.strange, *found.gone]
            what = (
                f"{len(wrong)} tensors are not those of the run, first {wrong[0]}"
                if wrong
                else "every tensor is the run's"
            )
            checks.append(check("merged-weights", not wrong, what))
        elif near.base is None:
            checks.append(unknown("merged-weights", "the base is gone"))
        elif not (source.adapter / "adapter_config.json").is_file():
            checks.append(unknown("merged-weights", "the exported adapter is gone"))
        else:
            checks += weights.checks(weights.compare(folder, near.base.folder, source.adapter), near.base.dtype)
    except Exception as error:  # safetensors raises its own
        checks.append(check("merged-weights", False, f"the weights cannot be read: {_first_line(error)}"))


_OWN = (
    "_name_or_path", "transformers_version", "dtype", "torch_dtype", "vocab_size", "quantization_config", "use_cache",
)  # fmt: skip
_TOKENS = ("eos_token_id", "bos_token_id", "pad_token_id")


def _same_config(config: dict[str, Any], base: dict[str, Any], checks: list[dict[str, Any]]) -> None:
    """Whether config.json describes the base's architecture."""
    if not config:
        checks.append(check("config", False, "config.json is not there"))
        return
    other = sorted(
        k
        for k, v in base.items()
        if k not in (*_OWN, *_TOKENS) and k in config and config[k] != v and not isinstance(v, dict)
    )
    if other == ["tie_word_embeddings"] and base["tie_word_embeddings"]:
        other = []  # one of the two was trained; whether the head is right is seen in its weights
    if config.get("quantization_config"):
        checks.append(check("config", False, "config.json says that the weights are quantised"))
    elif other:
        checks.append(check("config", False, f"config.json differs from the base's in {', '.join(other[:3])}"))
    else:
        checks.append(check("config", True, "config.json describes the base's architecture"))


def _surroundings(folder: Path, near: Around, ref: Reference | None) -> list[dict[str, Any]]:
    try:
        tokenizer = references.load_tokenizer(folder, False)
    except Exception as error:
        return [check("tokens", False, f"the tokenizer cannot be loaded: {_first_line(error)}")]
    return texts.surroundings(folder, tokenizer, near.right, near.whose, ref.facts["end"] if ref else None)


def _of_quantised(ref: Reference, checks: list[dict[str, Any]], warnings: list[dict[str, str]]) -> None:
    """What the change from the quantised base to the 16-bit one does to a run that was trained on the first."""
    told = ref.facts["trained"]
    if not told:
        return
    published = limits.gguf("q4_0")
    what = f"on the 16-bit base the run answers KL {number(told['kl'])} from what it answered on the quantised one it was trained on"
    checks.append(check("quantised-base", True, what, told["kl"], published.kl))
    if told["kl"] > published.poor:
        warnings.append({"what": what, "hint": "evaluate the export, not the run as it was trained"})


def _model(folder: Path, trust: bool, ref: Reference | None) -> Any:
    count = models.parameters(folder)
    config = models.read_config(folder)
    width = int(ref.run.shape[1]) if ref else int(config.get("vocab_size") or 32_000)
    return models.loaded(folder, trust, models.device(count, width))


def _lacking(ref: Reference | None, near: Around) -> str:
    return "the base is gone" if near.base is None and ref is not None else "the run's answers cannot be had any more"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _silent(**_: Any) -> None:
    return None
