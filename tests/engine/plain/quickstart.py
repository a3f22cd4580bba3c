"""Plain TRL for the recipe quickstart, written out by hand: what `tune` trains must equal this to the last bit.

usage: python quickstart.py OUT_DIR MAX_STEPS
"""

import json
import sys
from pathlib import Path

import bitsandbytes.nn.modules as bnb_modules
import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer

out, max_steps = Path(sys.argv[1]), int(sys.argv[2])
recipes = Path(__file__).resolve().parents[3] / "recipes"

# bitsandbytes 0.50 repacks 4-bit weights in place when a CPU with AVX512-BF16 evaluates, which changes the training after it
bnb_modules.has_avx512bf16 = lambda: False

model = AutoModelForCausalLM.from_pretrained(
    recipes / "models" / "nano",
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
    "json",
    data_files={
        "train": str(recipes / "samples" / "quickstart.jsonl"),
        "eval": str(recipes / "samples" / "quickstart.eval.jsonl"),
    },
    cache_dir=str(out / "cache"),
)
trainer = SFTTrainer(
    model=model,
    processing_class=AutoTokenizer.from_pretrained(recipes / "models" / "nano"),
    train_dataset=rows["train"],
    eval_dataset=rows["eval"],
    peft_config=LoraConfig(
        task_type="CAUSAL_LM",
        r=16,
        lora_alpha=32,
        lora_dropout=0.0,
        target_modules="all-linear",
        bias="none",
    ),
    args=SFTConfig(
        output_dir=str(out / "checkpoints"),
        max_length=512,
        packing=False,
        assistant_only_loss=True,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=1,
        per_device_eval_batch_size=8,
        num_train_epochs=3,
        max_steps=max_steps,
        optim="adamw_torch_fused",
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        weight_decay=0.0,
        max_grad_norm=1.0,
        activation_checkpointing=False,
        activation_checkpointing_kwargs={"use_reentrant": False},
        eval_strategy="steps",
        eval_on_start=True,
        eval_steps=5,
        save_strategy="steps",
        save_steps=5,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=1,
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
history = trainer.state.log_history
(out / "losses.json").write_text(
    json.dumps(
        {
            "loss": [row["loss"] for row in history if "loss" in row],
            "grad_norm": [row["grad_norm"] for row in history if "grad_norm" in row],
            "eval_loss": [row["eval_loss"] for row in history if "eval_loss" in row],
        }
    )
)
