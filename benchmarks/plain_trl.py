"""The quickstart as a plain TRL script, written out by hand: what `tune train quickstart` is timed beside.

python plain_trl.py OUT_DIR STEPS        writes OUT_DIR/times.json: [step, Unix seconds, tokens seen] of each optimizer step
"""

import json
import sys
import time
from pathlib import Path

import bitsandbytes.nn.modules as bnb_modules
import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer

out, steps = Path(sys.argv[1]), int(sys.argv[2])
recipes = Path(__file__).resolve().parents[1] / "recipes"
times = []

# As tune does: bitsandbytes 0.50 repacks 4-bit weights in place on a CPU with AVX512-BF16 when the model evaluates.
bnb_modules.has_avx512bf16 = lambda: False


class Clock(TrainerCallback):
    """Notes when each step is logged."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """One entry a step."""
        if "loss" in logs:
            times.append([state.global_step, time.time(), logs["num_tokens"]])


model = AutoModelForCausalLM.from_pretrained(
    recipes / "models/nano",
    dtype=torch.float32,
    attn_implementation="sdpa",
    quantization_config=BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    ),
)
rows = load_dataset(
    "json", data_files=str(recipes / "samples/quickstart.jsonl"), split="train", cache_dir=str(out / "cache")
)
trainer = SFTTrainer(
    model=model,
    processing_class=AutoTokenizer.from_pretrained(recipes / "models/nano"),
    train_dataset=rows,
    callbacks=[Clock()],
    peft_config=LoraConfig(
        task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", bias="none"
    ),
    args=SFTConfig(
        output_dir=str(out / "checkpoints"),
        max_length=512,
        packing=False,
        assistant_only_loss=True,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=1,
        max_steps=steps,
        optim="adamw_torch_fused",
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        weight_decay=0.0,
        max_grad_norm=1.0,
        activation_checkpointing=False,
        activation_checkpointing_kwargs={"use_reentrant": False},
        eval_strategy="no",
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        seed=42,
        data_seed=42,
        use_cpu=True,
        bf16=False,
        report_to="none",
        dataloader_pin_memory=False,
    ),
)
trainer.train()
trainer.save_model(str(out / "adapter"))
(out / "times.json").write_text(json.dumps(times), encoding="utf-8")
