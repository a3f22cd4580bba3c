"""Plain TRL for the recipe function-calling, written out by hand: what `tune` trains must equal this to the last bit.

usage: python function_calling.py OUT_DIR MAX_STEPS
"""

import json
import sys
from pathlib import Path

import bitsandbytes.nn.modules as bnb_modules
import torch
from datasets import Dataset
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


def conversation(row: dict[str, str]) -> dict[str, object]:
    """One row of Glaive's text as messages and tools; the sample is written as cleanly as this needs."""
    head, _, listed = row["system"].removeprefix("SYSTEM: ").partition("\n")
    decoder, tools = json.JSONDecoder(), []
    while listed.strip():
        tool, end = decoder.raw_decode(listed.strip())
        tools.append({"type": "function", "function": tool})
        listed = listed.strip()[end:]
    messages = [{"role": "system", "content": "You are a helpful assistant."}]
    assert head.startswith("You are a helpful assistant")
    for part in row["chat"].strip().split("\n\n\n"):
        name, _, text = part.partition(": ")
        text = text.removesuffix("<|endoftext|>").strip()
        role = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}[name]
        before, called, call = text.partition("<functioncall> ")
        if called:
            function, _, arguments = call.removeprefix('{"name": "').partition('", "arguments": \'')
            # as text: Arrow would give every call the arguments of all others
            function = {"name": function, "arguments": arguments.removesuffix("'}").replace("\\'", "'")}
            messages.append(
                {"role": role, "content": before, "tool_calls": [{"type": "function", "function": function}]}
            )
        else:
            messages.append({"role": role, "content": text})
    return {"messages": messages, "tools": json.dumps(tools) if tools else None}


def read(name: str) -> Dataset:
    lines = (recipes / "samples" / name).read_text(encoding="utf-8").splitlines()
    return Dataset.from_list([conversation(json.loads(line)) for line in lines])


rows = {"train": read("function-calling.jsonl"), "eval": read("function-calling.eval.jsonl")}
trainer = SFTTrainer(
    model=model,
    processing_class=AutoTokenizer.from_pretrained(recipes / "models" / "nano"),
    train_dataset=rows["train"],
    eval_dataset=rows["eval"],
    peft_config=LoraConfig(
        task_type="CAUSAL_LM",
        r=16,
        lora_alpha=32,
        lora_dropout=0.05,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        bias="none",
    ),
    args=SFTConfig(
        output_dir=str(out / "checkpoints"),
        max_length=512,
        packing=True,
        packing_strategy="bfd",
        eval_packing=False,
        assistant_only_loss=True,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        per_device_eval_batch_size=2,
        num_train_epochs=3,
        max_steps=max_steps,
        optim="adamw_8bit",
        learning_rate=2e-4,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        weight_decay=0.0,
        max_grad_norm=1.0,
        activation_checkpointing=True,
        activation_checkpointing_kwargs={"use_reentrant": False},
        eval_strategy="steps",
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
