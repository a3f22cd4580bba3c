#!/usr/bin/env bash
# What `make quickstart` shows: train the shipped model on the shipped sample, then ask it before and after.
# Every command is printed before it runs, so that you can type it yourself.
set -euo pipefail
cd "$(dirname "$0")/.."

run() {
  printf '\n$ %s\n' "$*"
  "$@"
}
ask() { # printed with the quotes that a shell needs
  printf '\n$ %s --prompt "%s"\n' "$*" "$prompt"
  "$@" --prompt "$prompt"
}

prompt=$(python - <<'PYTHON'
import json

with open("recipes/samples/quickstart.eval.jsonl", encoding="utf-8") as rows:
    print(next(m["content"] for m in json.loads(rows.readline())["messages"] if m["role"] == "user"))
PYTHON
)

cat <<'TEXT'
nothing-tune quickstart

One recipe, recipes/quickstart.yaml, says everything: a small language model that ships with the project, a few hundred
short dialogues, 4-bit QLoRA. It is fine-tuned first; then you see one reply without and one with what it learned.
No GPU, no account and no download are needed. The training takes less than three minutes on two cores.
TEXT

run tune train quickstart

printf '\nA prompt that was not among the training rows. The base model alone:\n'
ask tune chat latest --base
printf '\nThe same model with the adapter that was just trained:\n'
ask tune chat latest

cat <<'TEXT'

What now? First, in this shell: source .venv/bin/activate
  tune chat latest                          talk to it yourself
  tune runs show latest                     everything about the run
  tune eval latest                          what it has learned, measured beside its base
  tune export latest --merge                one model of it for others, proved to be what was trained
  tune show-config quickstart --why         every value, and the line that set it
  tune list                                 the other recipes
  tune plan nothing-gpt --rows 13482 --fits which GPU would do for another one, and what it costs
  tune init                                 a recipe for your own data
  tune train nothing-gpt --with models/nano another recipe, rehearsed on this machine
TEXT
