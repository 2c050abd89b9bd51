# `make demo` and `make test` are the two commands; each makes .venv when it is not there.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
OUT ?= out/demo
# What is built on a store runs on Redis too.
REDIS_TESTS = $(shell grep -lE 'tests\.(stores|shop) import' tests/test_*.py)

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-redis lint format docs bench bench-check clean

help:  ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.all  ## what LLM features add, on real data: MovieLens-100K, LightGBM, Feast
	$(BIN)/llmfeat demo --out $(OUT) --feature-repo feature_repo

# A process per core, of one thread each: torch's and ONNX Runtime's threads would only get in each other's way. Files in their
# order: sorted by their number of tests, the longest would come last, one alone.
test: lint  ## lint, types, layers, then the tests, but for the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow"

test-all: lint  ## the same with the slow ones: quick runs of the benchmarks, processes that are killed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-redis: $(VENV)/.dev  ## the tests of the feature store, with a Redis server, which is installed where there is none
	@command -v redis-server >/dev/null || { test $$(id -u) = 0 && command -v apt-get >/dev/null; } || { echo "redis-server is missing, and installing it takes apt and root: install it, or run this as root"; exit 1; }
	command -v redis-server >/dev/null || { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y redis-server; }
	LLMFEAT_REQUIRE_REDIS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(REDIS_TESTS)

lint: $(VENV)/.dev  ## what CI holds besides the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## rewrite the code in the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev  ## the documentation as a site, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# encode_gpu.py needs a machine with a GPU, and says how it is run there.
bench: $(VENV)/.bench  ## every benchmark in full, into benchmarks/results
	for name in artifacts encode features lift models movielens online scale scorer verdict; do \
	  out=benchmarks/results/$${name/#encode/encode-cpu}.json; \
	  $(BIN)/python benchmarks/$$name.py --full --json $$out || exit 1; \
	done
	$(BIN)/python benchmarks/features.py --validation --json benchmarks/results/features-validation.json
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/peers.py --json benchmarks/results/peers.json
	$(BIN)/python benchmarks/check.py --render

bench-check: $(VENV)/.dev  ## what README and docs say of measurements is what benchmarks/results says
	$(BIN)/python benchmarks/check.py

clean:  ## remove what the commands above made
	rm -rf $(VENV) out site feature_repo/data dist build

# A stamp per extra, so that a second `make` installs nothing unless what is asked for changed.
$(VENV)/.all: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.all

$(VENV)/.bench: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@ $(VENV)/.dev $(VENV)/.all

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "llmfeat needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version): make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
