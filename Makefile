# Everything that people and CI do with this checkout. `make` alone lists it.
#
#   make quickstart                    make test PYTHON=python3.12                  make test-light ARGS="-k golden -x"

SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
# The environment is made anew when pyproject.toml or constraints.txt change in content, not in age.
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
# llama.cpp takes minutes to build: what only some commands and the slow tests need has a stamp of its own.
EXTRAS := $(VENV)/.extras-$(shell grep -hiE 'llama|lm.eval' pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
PYTEST := $(BIN)/python -m pytest
# Two processes of one thread each: two trainings with two threads each would wait for each other most of the time.
PARALLEL := OMP_NUM_THREADS=1 $(PYTEST) -q -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help quickstart extras test test-light test-engine test-full lint format types check docs docs-check bench bench-cli \
	bench-train bench-checkpoint bench-prepare bench-memory bench-merge bench-proof wheel-test storm clean

help: ## this list
	@echo "nothing-tune: one YAML recipe says how a language model is fine-tuned"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

$(STAMP):
	@scripts/environment.sh "$(PYTHON)" "$(VENV)" "$(STAMP)"

quickstart: $(STAMP) ## fine-tune the small model that ships with the project, and talk to it (CPU, minutes)
	@PATH="$(abspath $(BIN)):$$PATH" scripts/quickstart.sh

$(EXTRAS): $(STAMP)
	@scripts/extras.sh "$(VENV)" "$(EXTRAS)"

extras: $(EXTRAS) ## llama.cpp for `tune export --gguf`, lm-evaluation-harness for `tune eval --tasks` (builds: about four minutes)

test: test-light test-engine ## all tests but the slow ones (minutes)

test-light: $(STAMP) ## tests that never import torch (seconds)
	@echo "Light tests: recipes, plans, commands, documents. Under 30 seconds."
	@$(PYTEST) -q -n 2 -m "not engine and not slow and not gpu" $(ARGS)

test-engine: $(STAMP) ## tests that train the small model (minutes)
	@echo "Engine tests: real training of the small model on the CPU. Some minutes."
	@$(PARALLEL) -m "engine and not slow and not gpu" $(ARGS)

test-full: $(STAMP) $(EXTRAS) ## what `make test` leaves out: slow tests, the wheel, GPU tests where there is a GPU
	@echo "Slow tests: whole recipes against plain TRL, the quickstart, the wheel. Up to half an hour on two cores."
	@$(PARALLEL) -m "slow or gpu" $(ARGS)

lint: $(STAMP) ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(STAMP) ## ruff: mend what can be mended
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

types: $(STAMP) ## mypy, strict
	@$(BIN)/python -m mypy

check: lint types docs-check ## lint, types, generated documents, architecture
	@$(PYTEST) -q tests/test_architecture.py

docs: $(STAMP) ## write docs/reference from the code
	@$(BIN)/python scripts/make_docs.py

docs-check: $(STAMP) ## say what in docs/reference is not what the code says
	@$(BIN)/python scripts/make_docs.py --check

bench: bench-cli bench-train bench-checkpoint bench-prepare bench-memory bench-merge bench-proof ## all benchmarks; writes docs/measurements (about two hours, on a quiet machine)

bench-cli: $(STAMP) ## time of `tune --help` and `tune show-config --why`
	@$(BIN)/python benchmarks/bench_cli.py

bench-train: $(STAMP) ## time to the first step and tokens/s, beside a plain TRL script
	@$(BIN)/python benchmarks/bench_train.py

bench-checkpoint: $(STAMP) ## what a save costs, what the protocol adds to a step, how long a resume takes
	@$(BIN)/python benchmarks/bench_checkpoint.py

bench-prepare: $(STAMP) ## a million rows prepared, beside plain datasets.map (about 12 minutes)
	@$(BIN)/python benchmarks/bench_prepare.py

bench-memory: $(STAMP) ## peak memory: arithmetic beside simulation, simulation beside a real CPU and published numbers (about 15 minutes)
	@OMP_NUM_THREADS=1 nice $(BIN)/python benchmarks/bench_memory.py

bench-merge: $(STAMP) ## merging a model of 3B in bounded memory, beside PEFT's own merge (about 15 minutes, 20 GB of disk)
	@OMP_NUM_THREADS=2 $(BIN)/python benchmarks/bench_merge.py

bench-proof: $(EXTRAS) ## how far merged and GGUF models are from the run, methods by families (about half an hour)
	@OMP_NUM_THREADS=2 nice $(BIN)/python benchmarks/bench_proof.py

wheel-test: $(STAMP) ## build the wheel, install it in a clean environment, use it there
	@$(PYTEST) -q tests/test_wheel.py $(ARGS)

storm: $(STAMP) ## hurt runs at random until Ctrl-C, or as in ARGS="--hours 2"; stops at the first one that is not exact
	@$(BIN)/python scripts/storm.py $(ARGS)

clean: ## remove what is built and cached; keep the environment and the runs
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find nothing_tune tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Clean. The environment is in $(VENV), runs are in runs/: remove them by hand if you want to."
