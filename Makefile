.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
DATA ?= digits

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: .venv/.done  ## create .venv from requirements.lock

# uv takes seconds where pip takes minutes; pip is the fallback for networks where uv cannot connect. With bytecode
# compiled here, a process imports its dependencies in 3 s instead of 11: training and tests start dozens.
.venv/.done: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements.lock)"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock || \
		$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup  ## pack, train on two workers, evaluate, track; DATA=folder uses your own images
	$(BIN)/python -m demo --data "$(DATA)"

stop:  ## stop the servers that the demo started
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m demo --stop; else echo "nothing of the demo runs"; fi

lint: setup  ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: lint  ## lint, types and tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-faults: setup  ## nodes that are lost and leave; each fault once, 40 minutes; needs root and iproute2
	$(BIN)/python -m pytest -m faults
	$(BIN)/python -m tests.faults

docs: setup  ## build the documentation site in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

bench-data: setup  ## compare input pipelines, measure cores per rate; PEERS=folder, see benchmarks/README.md
	$(BIN)/python -m benchmarks.data $(if $(PEERS),--peers "$(PEERS)")
	$(BIN)/python -m benchmarks.stall

clean:  ## remove files made by the demo and the tools, except .venv
	rm -rf .demo .mypy_cache .import_linter_cache .ruff_cache .pytest_cache .hypothesis

.PHONY: help setup demo stop lint test test-faults docs bench-data clean
