# Lectern. `make help` lists what there is.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A GPU is used if one answers.
ENGINE ?= $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
MODEL ?=
FAST ?=
PROMOTE ?=
SEED ?= 0
DEVICE ?= cpu
TEST_PROCESSES ?= 2
SOAK_SECONDS ?= 900
LOADTEST_SECONDS ?= 30
LOADTEST_USERS ?= 16
export LOADTEST_SECONDS LOADTEST_USERS

.DEFAULT_GOAL := help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}'

setup: $(VENV)/.dev ## Install everything for development into .venv

serve: $(VENV)/.serve ## Serve the committed models on 127.0.0.1:8001 (metrics on 8002)
	$(BIN)/lectern serve

test: $(VENV)/.dev ## Run every test, TEST_PROCESSES=2 side by side
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadgroup

lint: $(VENV)/.dev ## Check style, types and protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint
	@if git rev-parse -q --verify origin/main >/dev/null; then $(BIN)/buf breaking --against '.git#ref=origin/main'; \
	else echo 'buf breaking: no origin/main to compare with'; fi

proto: $(VENV)/.dev ## Generate the stubs of protos/ again
	$(BIN)/python hatch_build.py

train-export: $(VENV)/.dev ## Train and export every model, or one: MODEL=name; FAST=1 for a trial run in seconds; PROMOTE=1 to serve even a worse one
	$(BIN)/lectern train $(or $(MODEL),--all) --seed $(SEED) $(if $(FAST),--fast) $(if $(PROMOTE),--promote)

deploy-check: $(VENV)/.dev ## Check what an operator applies: manifests, Prometheus rules
	$(BIN)/python deploy/check.py

loadtest: $(VENV)/.serve .venv-load/.installed ## Load every capability with locust: LOADTEST_SECONDS=30 LOADTEST_USERS=16
	.venv-load/bin/python loadtests/run.py --lectern $(BIN)/lectern

bench: $(VENV)/.dev ## Measure Lectern beside Triton, MLServer, CTranslate2 and bare ONNX Runtime, under overload, and every RPC; DEVICE=cuda
	$(BIN)/python -m benchmarks.throughput --device $(DEVICE)
	$(BIN)/python -m benchmarks.saturation
	$(BIN)/python -m benchmarks.explain
	$(BIN)/python -m benchmarks.defend
	$(BIN)/python -m benchmarks.decoding
	$(BIN)/python -m benchmarks.rpcs

soak: $(VENV)/.dev ## Mixed load, bad input, cancellations and reloads for SOAK_SECONDS=900: does anything leak?
	SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest -s tests/server/test_soak.py

chaos: $(VENV)/.dev ## Kill, corrupt and starve what serves, and see it recover by itself
	$(BIN)/python -m pytest -v -m chaos

docs: $(VENV)/.dev ## Write the generated parts of docs/
	$(BIN)/python docs/make_settings.py
	$(BIN)/python docs/make_models.py

console: $(VENV)/.console ## Open a Python shell with a connected client
	$(BIN)/lectern console

clean: ## Remove environments and build outputs
	rm -rf .venv .venv-load build dist lectern/v1

# Each marker stands for an installed environment; pyproject.toml and the contract make it stale.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

SOURCES := pyproject.toml hatch_build.py $(wildcard protos/lectern/v1/*.proto)

$(VENV)/.serve: $(SOURCES) | $(VENV)/bin/python
	test -e $(VENV)/.dev || $(BIN)/pip install --quiet --editable '.[$(ENGINE),episodes]'
	touch $@

$(VENV)/.dev: $(SOURCES) | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.serve

# locust has its own environment: gevent changes the standard library under everything it shares one with.
.venv-load/.installed: $(SOURCES)
	test -x .venv-load/bin/python || $(PYTHON) -m venv .venv-load
	.venv-load/bin/pip install --quiet --editable '.[load]'
	touch $@

$(VENV)/.console: $(VENV)/.serve
	$(BIN)/pip install --quiet --editable '.[console]'
	touch $@

.PHONY: help setup serve test lint proto train-export deploy-check loadtest bench docs console clean
