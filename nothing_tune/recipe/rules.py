"""Rules between fields: hardware, precision, quantization and PEFT. Those of training and
data are in `rules_training.py` and `rules_data.py`.

A rule is a function from a `View` to the problems that it finds. Its docstring says why, and who says so.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator

from nothing_tune.errors import Problem
from nothing_tune.recipe import rules_data, rules_export, rules_generate, rules_training
from nothing_tune.recipe.view import View

__all__ = ["RULES", "View"]

Rule = Callable[[View], Iterator[Problem]]
NOT_QUANTISED = ("DELORA", "FROD", "GLORA", "OSF", "PSOFT", "SUPERTUNING", "TINYLORA")
NOT_4BIT = ("DEFT", "HIRA", "HRA", "LOHA", "LOKR", "PEANUT")
HALF = {"bf16": "bfloat16", "fp16": "float16"}


def bf16_needs_hardware(view: View) -> Iterator[Problem]:
    """Without bfloat16 units SFTConfig raises "Your setup doesn't support bf16/gpu" (transformers training_args.py)."""
    if view.get("gpu.bf16") is False and view.get("gpu.kind") != "cpu":
        for key in ("training.bf16", "training.bf16_full_eval"):
            if view.get(key) is True:
                instead = "fp16" if view.get("gpu.kind") == "cuda" else "float32"
                yield view.problem(
                    key,
                    f"{key} is true, and {view.gpu} has no bfloat16",
                    f"remove the line: the precision follows the GPU, here {instead}",
                )


def one_half_precision(view: View) -> Iterator[Problem]:
    """ "At most one of fp16 and bf16 can be True" (transformers training_args.py)."""
    for one, other in (("bf16", "fp16"), ("bf16_full_eval", "fp16_full_eval")):
        if view.get(f"training.{one}") and view.get(f"training.{other}"):
            key = view.latest(f"training.{one}", f"training.{other}")
            yield view.problem(
                key, f"training.{one} and training.{other} are both true", "remove both: the precision follows the GPU"
            )


def fp16_needs_cuda(view: View) -> Iterator[Problem]:
    """fp16 training scales gradients, which PyTorch does on CUDA devices (torch.amp.GradScaler)."""
    if view.get("training.fp16") and view.get("gpu.kind") in ("cpu", "mps"):
        yield view.problem(
            "training.fp16",
            f"training.fp16 is true, and {view.gpu} cannot train in float16",
            "remove the line: the precision follows the GPU, here float32",
        )


def tf32_needs_hardware(view: View) -> Iterator[Problem]:
    """ "--tf32 requires Ampere or a newer GPU arch" (transformers training_args.py)."""
    if view.get("training.tf32") and (view.get("gpu.kind") in ("cpu", "mps") or _capability(view) < 8):
        yield view.problem(
            "training.tf32", f"training.tf32 is true, and {view.gpu} has no TensorFloat-32", "remove the line"
        )


def compute_dtype_follows(view: View) -> Iterator[Problem]:
    """4-bit weights are computed in the training precision; another half type converts every layer's input and output."""
    key = "quantization.bnb_4bit_compute_dtype"
    compute, mode = view.get(key), _mode(view)
    if compute == "bfloat16" and view.get("gpu.bf16") is False and view.get("gpu.kind") == "cuda":
        yield view.problem(
            key, f"{key} is bfloat16, and {view.gpu} has no bfloat16", "remove the line: it follows the GPU"
        )
    elif mode and compute in HALF.values() and compute != HALF[mode]:
        yield view.problem(
            key,
            f"{key} is {compute}, and training runs in {mode}",
            f"write {HALF[mode]}, or remove the line: it follows",
        )


def dtype_fits(view: View) -> Iterator[Problem]:
    """bfloat16 weights need a GPU that computes in them; float16 weights cannot be trained themselves: GradScaler raises
    "Attempting to unscale FP16 gradients" (transformers #30559)."""
    key, dtype = "model.dtype", view.get("model.dtype")
    if dtype == "bfloat16" and view.get("gpu.bf16") is False and view.get("gpu.kind") == "cuda":
        yield view.problem(key, f"{key} is bfloat16, and {view.gpu} has no bfloat16", "write auto: it follows the GPU")
    if dtype == "float16" and view.null("peft"):
        yield view.problem(key, f"{key} is float16, and full fine-tuning trains these weights", "write auto or float32")


def device_matches_gpu(view: View) -> Iterator[Problem]:
    """The chosen GPU layer says where training runs."""
    use_cpu, kind = view.get("training.use_cpu"), view.get("gpu.kind")
    if use_cpu is True and kind in ("cuda", "mps"):
        yield view.problem(
            "training.use_cpu", f"training.use_cpu is true, and the GPU is {view.gpu}", "choose --gpu cpu"
        )
    if use_cpu is False and kind == "cpu":
        yield view.problem("training.use_cpu", "training.use_cpu is false, and the GPU is cpu", "remove the line")


def flash_attention_needs_hardware(view: View) -> Iterator[Problem]:
    """FlashAttention-2 runs on compute capability 8.0 and later (its README); 3 and 4 on 9.0 and later."""
    attention = str(view.get("model.attn_implementation", ""))
    if not attention.startswith("flash_attention"):
        return
    need = 9.0 if attention[-1] in "34" else 8.0
    has = f", of compute capability {_capability(view):g}" if _capability(view) < need else ""
    if view.get("gpu.kind") in ("cpu", "mps") or view.get("gpu.flash_attention") is False or _capability(view) < need:
        yield view.problem(
            "model.attn_implementation",
            f"model.attn_implementation is {attention}, which does not run on {view.gpu}" + has,
            "write sdpa, or auto",
        )


def bitsandbytes_needs_its_devices(view: View) -> Iterator[Problem]:
    """bitsandbytes has no code for Apple's GPU (its README: CUDA, ROCm, XPU, HPU and CPU)."""
    if view.get("gpu.kind") != "mps":
        return
    if _bits(view):
        yield view.problem(
            f"quantization.load_in_{_bits(view)}bit",
            f"bitsandbytes does not run on {view.gpu}",
            "write quantization: null",
        )
    optim = str(view.get("training.optim", ""))
    if "8bit" in optim or optim.startswith("paged_") or "bnb" in optim:
        yield view.problem(
            "training.optim", f"training.optim is {optim}: bitsandbytes does not run on {view.gpu}", "write adamw_torch"
        )


def one_quantization(view: View) -> Iterator[Problem]:
    """ "load_in_4bit and load_in_8bit are both True" (transformers quantization_config.py)."""
    four, eight = view.get("quantization.load_in_4bit"), view.get("quantization.load_in_8bit")
    if four and eight:
        key = view.latest("quantization.load_in_4bit", "quantization.load_in_8bit")
        yield view.problem(
            key,
            "quantization.load_in_4bit and load_in_8bit are both true",
            "remove one, or start the section anew with replace: [quantization]",
        )
    elif view.get("quantization") and not four and not eight:
        key = view.written("quantization.load_in_4bit", "quantization.load_in_8bit")
        yield view.problem(
            key,
            "quantization asks for neither 4 nor 8 bits: nothing is quantised",
            "quantization: null says so",
            "advice",
        )


def quantised_weights_do_not_train(view: View) -> Iterator[Problem]:
    """A quantised base has no gradients: "You cannot perform fine-tuning on purely quantized models" (transformers Trainer)."""
    if _bits(view) and view.null("peft"):
        yield view.problem(
            view.latest("peft", f"quantization.load_in_{_bits(view)}bit"),
            f"full fine-tuning cannot train {_bits(view)}-bit weights: peft is null",
            "write quantization: null, or choose a PEFT method",
        )


def initialisation_needs_full_weights(view: View) -> Iterator[Problem]:
    """LoftQ quantises the base itself; PiSSA and MiCA decompose it, the orthogonal start writes to it: PEFT raises on
    quantised weights ("Please initialize PiSSA under float32, float16, or bfloat16", peft/tuners/lora/layer.py)."""
    start = view.get("peft.init_lora_weights")
    if isinstance(start, str) and _bits(view) and re.match(r"loftq|pissa|olora|mica|orthogonal", start):
        yield view.problem(
            "peft.init_lora_weights",
            f"peft.init_lora_weights is {start}, which needs weights that are not quantised",
            "write quantization: null" + ("; LoftQ quantises them itself" if start == "loftq" else ""),
        )
    if start in ("eva", "corda", "lora_ga"):
        yield view.problem(
            "peft.init_lora_weights",
            f"peft.init_lora_weights is {start}, which needs a pass over the data before training that tune does not make",
            "remove the line, or write pissa or olora, which need none",
        )
    if start == "loftq" and not view.get("peft.loftq_config"):
        yield view.problem(
            "peft.init_lora_weights",
            "loftq needs peft.loftq_config",
            "write loftq_config: {loftq_bits: 4, loftq_iter: 1}",
        )
    if start == "loftq" and view.get("gpu.kind") in ("cpu", "mps"):
        yield view.problem(
            "peft.init_lora_weights",
            f"peft.init_lora_weights is loftq, which PEFT computes on a CUDA GPU, and the GPU is {view.gpu}",
            "choose a CUDA GPU with --gpu, or write init_lora_weights: true",
        )
    bits = view.number("peft.loftq_config.loftq_bits")
    if bits is not None and bits not in (2, 4, 8):
        key = "peft.loftq_config.loftq_bits"
        yield view.problem(key, f"{key} must be 2, 4 or 8, not {bits:g}")
    if start == "orthogonal" and (view.number("peft.r") or 8) % 2:
        yield view.problem("peft.r", "orthogonal initialisation needs an even peft.r", "add one")
    if view.get("peft.lora_bias") and (isinstance(start, str) or view.get("peft.use_dora")):
        other = f"init_lora_weights: {start}" if isinstance(start, str) else "use_dora: true"
        yield view.problem("peft.lora_bias", f"peft.lora_bias does not go with {other}", "write lora_bias: false")


def method_bears_quantised_weights(view: View) -> Iterator[Problem]:
    """These methods compute with the base's stored numbers and fail on packed ones: tried with peft 0.21.2 and
    bitsandbytes 0.50.2 on one nf4 and one int8 layer, November 2026 (tests/recipe/test_rules_upstream.py)."""
    kind, bits = view.get("peft.peft_type"), _bits(view)
    if bits and (kind in NOT_QUANTISED or (bits == 4 and kind in NOT_4BIT)):
        yield view.problem(
            view.latest("peft.peft_type", f"quantization.load_in_{bits}bit"),
            f"{kind} does not train on {bits}-bit weights",
            "write quantization: null, or choose a method that does, such as LORA",
        )


def not_on_the_head(view: View) -> Iterator[Problem]:
    """TRL 1.16 computes the loss from `lm_head.weight` itself, so that an adapter on it would never be trained; it raises."""
    for key in ("peft.target_modules", "peft.feedforward_modules"):
        targets = view.get(key)
        names = targets if isinstance(targets, list) else [targets]
        if any(isinstance(n, str) and n.split(".")[-1] == "lm_head" for n in names):
            yield view.problem(
                key, f"{key} holds lm_head, whose adapter would not be trained", "write modules_to_save: [lm_head]"
            )


def modules_are_named(view: View) -> Iterator[Problem]:
    """Rules of the PEFT configs' own `__post_init__`."""
    targets, forward = view.get("peft.target_modules"), view.get("peft.feedforward_modules")
    if isinstance(targets, list) and isinstance(forward, list) and not set(forward) <= set(targets):
        left = ", ".join(sorted(set(forward) - set(targets)))
        yield view.problem(
            "peft.feedforward_modules",
            f"peft.feedforward_modules names {left}, which target_modules does not",
            "add it there",
        )
    if targets == []:
        yield view.problem(
            "peft.target_modules", "peft.target_modules is empty: nothing would train", "write all-linear"
        )
    for key in ("peft.layers_to_transform", "peft.layers_pattern"):
        if view.get(key) is not None and isinstance(targets, str):
            yield view.problem(
                key, f"{key} needs target_modules to be a list, not {targets!r}", "name the modules: [q_proj, v_proj]"
            )
    if view.get("peft.layers_pattern") and view.get("peft.layers_to_transform") is None:
        yield view.problem("peft.layers_pattern", "peft.layers_pattern does nothing without layers_to_transform")


def peft_is_complete(view: View) -> Iterator[Problem]:
    """PEFT builds a config by its type; AdaLoRA plans its ranks over all steps."""
    peft = view.get("peft")
    if isinstance(peft, dict) and peft and "peft_type" not in peft and "peft.peft_type" not in view.origins:
        yield view.problem(
            "peft", "peft.peft_type is missing", "write peft_type: LORA, or peft: null for full fine-tuning"
        )
    if view.get("peft.peft_type") == "ADALORA" and view.number("peft.total_step") is None:
        yield view.problem(
            "peft.peft_type",
            "ADALORA needs peft.total_step, the number of steps",
            "write both max_steps and total_step",
        )


def rslora_is_for_high_ranks(view: View) -> Iterator[Problem]:
    """rsLoRA scales by alpha / sqrt(r): PEFT Studio's guide recommends it above rank 16; below, alpha acts far stronger."""
    rank = view.number("peft.r")
    if view.get("peft.use_rslora") and rank is not None and rank <= 16:
        yield view.problem(
            "peft.use_rslora",
            f"peft.use_rslora with r {rank:g}; PEFT Studio's training guide recommends it above 16",
            "the adapter is scaled by lora_alpha / sqrt(r): lower lora_alpha, or raise r",
            "advice",
        )


def what_runs_code_is_your_own(view: View) -> Iterator[Problem]:
    """A layer that someone else wrote, included for its numbers, must not run code with your rights."""
    for key, does in (
        ("model.trust_remote_code", "runs code of the model's repository"),
        ("checkpoint.on_commit", "runs a command"),
    ):
        origin = view.origins.get(key)
        if view.get(key) and not (origin and origin.own):
            value = "'COMMAND'" if key.startswith("checkpoint") else "true"
            yield view.problem(
                key,
                f"{key} {does}, and a layer that the recipe includes sets it",
                f"write it in the recipe itself, or add {key}={value} to the command line",
            )


def commands_are_words(view: View) -> Iterator[Problem]:
    """No shell reads the command: quotes must close, and the first word is a program."""
    key = "checkpoint.on_commit"
    command = view.get(key)
    if command is None:
        return
    try:
        words = shlex.split(str(command))
    except ValueError:
        yield view.problem(key, f"{key}: a quote is not closed", "close it, or write a backslash before it")
        return
    if not words:
        yield view.problem(key, f"{key} names no command", "write null for none")
    elif set(words) & {"|", "&&", "||", ";", "&", ">", ">>", "<"}:
        yield view.problem(
            key,
            f"{key} looks like a line for a shell, and none runs it",
            "put the line in a script and name that, or write sh -c '...'",
        )


def remote_code_is_pinned(view: View) -> Iterator[Problem]:
    """Code from the Hub runs with your rights: only a commit, which cannot change, is the code that was read."""
    if str(view.get("model.name_or_path", "")).startswith(("/", "./", "../", "~")):
        return  # a folder has no revision: its code is what lies there
    if view.get("model.trust_remote_code") and not re.fullmatch(r"[0-9a-f]{40}", str(view.get("model.revision", ""))):
        yield view.problem(
            "model.trust_remote_code",
            "model.trust_remote_code runs code of the model's repository, and model.revision names no commit",
            "write model.revision with the 40 hexadecimal digits of the commit that you have read",
        )


def _bits(view: View) -> int:
    """4 or 8 where the base is quantised, else 0."""
    return 4 if view.get("quantization.load_in_4bit") else 8 if view.get("quantization.load_in_8bit") else 0


def _mode(view: View) -> str:
    """`bf16` or `fp16` as written, else as the plan will derive it; empty where neither, or unknown."""
    bf16, fp16 = view.get("training.bf16"), view.get("training.fp16")
    if bf16 and fp16:
        return ""
    if bf16 or fp16:
        return "bf16" if bf16 else "fp16"
    if view.get("gpu.kind") != "cuda" or bf16 is False or fp16 is False or view.get("gpu.bf16") is None:
        return ""
    return "bf16" if view.get("gpu.bf16") else "fp16"


def _capability(view: View) -> float:
    """CUDA compute capability; infinite where unknown."""
    text = str(view.get("gpu.compute_capability", ""))
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else float("inf")


RULES: tuple[Rule, ...] = (
    bf16_needs_hardware,
    one_half_precision,
    fp16_needs_cuda,
    tf32_needs_hardware,
    compute_dtype_follows,
    dtype_fits,
    device_matches_gpu,
    flash_attention_needs_hardware,
    bitsandbytes_needs_its_devices,
    one_quantization,
    quantised_weights_do_not_train,
    initialisation_needs_full_weights,
    method_bears_quantised_weights,
    not_on_the_head,
    modules_are_named,
    peft_is_complete,
    rslora_is_for_high_ranks,
    what_runs_code_is_your_own,
    remote_code_is_pinned,
    commands_are_words,
    *rules_training.RULES,
    *rules_data.RULES,
    *rules_generate.RULES,
    *rules_export.RULES,
)
"""Every rule, in the order in which problems are shown."""
