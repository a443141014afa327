# Every target makes what it needs; stamps in .venv keep a second call short.
# `make quickstart` is the newcomer's; `make check test bench docs` are the developer's.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

# The CPU build of torch carries the local version "+cpu" where the package index has one;
# plain PyPI has not (there the plain build also runs on a CPU, it is only larger).
# `make TORCH="--index-url URL torch" quickstart` takes any other build.
TORCH ?=
TORCH_VERSION := 2.13.0
GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)

QUICKSTART_FLAGS ?=
PYTEST_FLAGS ?=
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)
KITS := tests/kits tests/challenges $(wildcard tests/cli/test_familiar_*.py)
BROWSERS := chromium chromium-browser google-chrome

.PHONY: help quickstart notebook test test-slow check format bench docs clean browser

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: $(VENV)/.product ## the whole loop in small: runs/quickstart/report.html
	$(BIN)/vlforge quickstart $(QUICKSTART_FLAGS)

notebook: $(VENV)/.product ## the Better Synth loop as a notebook, in the browser
	$(PIP) install -q -c $(VENV)/torch.txt -e '.[train,report,eval,notebook]'
	cd examples && ../$(BIN)/jupyter lab better_synth_10k.ipynb

test: $(VENV)/.dev ## format, lint, types and the quick tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -m "not slow and not gpu" -n 2

test-slow: $(VENV)/.dev browser ## kills, browser, several processes; then whole workflows, two at a time
	$(PYTEST) -m "slow and not gpu" $(KITS:%=--ignore=%)
	$(PYTEST) -m "slow and not gpu" -n 2 --dist loadscope $(KITS)

check: $(VENV)/.dev ## format, lint, types and the structure of the tree
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) tests/structure

format: $(VENV)/.dev ## rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev ## speed, as JSON on the terminal
	for file in benchmarks/*.py; do $(BIN)/python $$file; done

docs: $(VENV)/.dev ## write the generated pages anew and check every link and command
	$(BIN)/vlforge list ops --markdown > $(VENV)/page && mv $(VENV)/page docs/operators.md
	$(BIN)/vlforge list kinds --markdown > $(VENV)/page && mv $(VENV)/page docs/stages.md
	$(BIN)/vlforge list keys --into docs/data-juicer.md
	$(BIN)/vlforge list ops --data-juicer --into docs/data-juicer.md
	for page in data_juicer,better_synth:data-juicer mgm,llava:from_mgm xtuner:from_xtuner minigpt4:from_minigpt4 mgen_vl:from_mgen_vl; do \
	  $(BIN)/vlforge list commands --system $${page%%:*} --into docs/$${page##*:}.md; done
	$(PYTEST) tests/docs

clean: ## drop caches and the environment; runs stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache build dist

browser:
	@for b in $(BROWSERS); do command -v $$b >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; \
	else \
	  echo "The page tests need Chromium: install the package 'chromium' and call this again." >&2; exit 1; \
	fi

$(VENV)/.made:
	@[ -n "$(PYTHON)" ] || { echo "VLForge needs Python 3.11 or newer; none found. Set PYTHON=/path/to/python3." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Could not make $(VENV): install your system's venv package (Debian: python3-venv)." >&2; exit 1; }
	@touch $@

$(VENV)/.torch: $(VENV)/.made
	@echo "Installing torch into $(VENV) (once; some minutes)"
	@if [ -n "$(TORCH)" ]; then $(PIP) install -q $(TORCH); \
	elif [ -n "$(GPU)" ]; then $(PIP) install -q torch; \
	else $(PIP) install -q "torch==$(TORCH_VERSION)+cpu" 2>/dev/null || $(PIP) install -q "torch==$(TORCH_VERSION)"; fi
	@$(BIN)/python -c 'from importlib.metadata import version as v; print("torch==" + v("torch"))' > $(VENV)/torch.txt
	@touch $@

$(VENV)/.product: pyproject.toml $(VENV)/.torch
	@echo "Installing VLForge into $(VENV)"
	@$(PIP) install -q -c $(VENV)/torch.txt -e '.[train,report]'
	@$(BIN)/python -m compileall -q vlforge
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	@echo "Installing VLForge and its checks into $(VENV)"
	@$(PIP) install -q -c $(VENV)/torch.txt -e '.[dev]'
	@$(BIN)/python -m compileall -q vlforge
	@touch $@ $(VENV)/.product
