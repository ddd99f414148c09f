# Lectern. `make help` lists what there is.
PYTHON ?= python3
# The lists of exact versions to install from; `LOCK=` installs the newest releases that pyproject.toml allows.
LOCK ?= requirements
VENV ?= $(if $(LOCK),.venv,.venv-newest)
BIN := $(VENV)/bin
# A GPU is used if one answers.
ENGINE ?= $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
MODEL ?=
FAST ?=
PROMOTE ?=
SEED ?= 0
DEVICE ?= cpu
BRIEF ?=
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

check: lint ## Check style, types and protos, and run the tests that start nothing: under two minutes
	$(BIN)/python -m pytest -m unit --numprocesses $(TEST_PROCESSES)

test: $(VENV)/.dev ## Run every test, TEST_PROCESSES=2 side by side
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadgroup

lint: $(VENV)/.dev ## Check style, types and protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint
	@if git rev-parse -q --verify origin/main >/dev/null; then $(BIN)/buf breaking --against '.git#ref=origin/main'; \
	else echo 'buf breaking: no origin/main to compare with'; fi

lock: .venv-lock/bin/uv ## Renew requirements/: the newest releases that pyproject.toml allows; UPGRADE= keeps those that still fit
	$(COMPILE) pyproject.toml --extra dev --output-file requirements/dev.txt
	$(COMPILE) pyproject.toml --extra console --constraint requirements/dev.txt --output-file requirements/console.txt
	$(COMPILE) pyproject.toml --extra load --output-file requirements/load.txt
	for engine in cpu gpu; do $(COMPILE) --generate-hashes pyproject.toml --extra $$engine --extra episodes --extra tracing \
	  --constraint requirements/dev.txt --output-file requirements/serve-$$engine.txt || exit; done
	for server in triton mlserver; do $(COMPILE) --generate-hashes requirements/$$server.in \
	  --output-file requirements/$$server.txt || exit; done

proto: $(VENV)/.dev ## Generate the stubs of protos/ again
	$(BIN)/python hatch_build.py

train-export: $(VENV)/.dev ## Train and export every model, or one: MODEL=name; FAST=1 for a trial run in seconds; PROMOTE=1 to serve even a worse one
	$(BIN)/lectern train $(or $(MODEL),--all) --seed $(SEED) $(if $(FAST),--fast) $(if $(PROMOTE),--promote)

deploy-check: $(VENV)/.dev ## Check what an operator applies: manifests, Prometheus rules
	$(BIN)/python deploy/check.py

loadtest: $(VENV)/.serve .venv-load/.installed ## Load every capability with locust: LOADTEST_SECONDS=30 LOADTEST_USERS=16
	.venv-load/bin/python loadtests/run.py --lectern $(BIN)/lectern

bench: $(VENV)/.dev ## Measure Lectern beside its peers, under overload, and every RPC; DEVICE=cuda; BRIEF=1: one short cell of each
	$(BIN)/python -m benchmarks --device $(DEVICE) $(if $(BRIEF),--brief)

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
	rm -rf .venv .venv-newest .venv-load .venv-lock build dist lectern/v1

# Each marker stands for an installed environment; pyproject.toml, the lock and the contract make it stale.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

SOURCES := pyproject.toml hatch_build.py $(wildcard protos/lectern/v1/*.proto) $(wildcard requirements/*.txt)

# Extras of serve-cpu.txt and serve-gpu.txt.
SERVED := $(ENGINE),episodes,tracing

# $(call install,ENVIRONMENT,LIST,EXTRAS): what the list names, then the project itself, built with the list's versions too.
ifdef LOCK
install = $(1)/bin/pip install --quiet --requirement $(LOCK)/$(2).txt && \
	PIP_CONSTRAINT=$(LOCK)/dev.txt PIP_BUILD_CONSTRAINT=$(LOCK)/dev.txt $(1)/bin/pip install --quiet --no-deps --editable .
else
install = $(1)/bin/pip install --quiet --upgrade --upgrade-strategy eager --editable '.[$(3)]'
endif

$(VENV)/.serve: $(SOURCES) | $(VENV)/bin/python
	test -e $(VENV)/.dev || { $(call install,$(VENV),serve-$(ENGINE),$(SERVED)); }
	touch $@

$(VENV)/.dev: $(SOURCES) | $(VENV)/bin/python
	$(call install,$(VENV),dev,dev)
	touch $@ $(VENV)/.serve

# locust has its own environment: gevent changes the standard library under everything it shares one with.
.venv-load/.installed: $(SOURCES)
	test -x .venv-load/bin/python || $(PYTHON) -m venv .venv-load
	$(call install,.venv-load,load,load)
	touch $@

$(VENV)/.console: $(VENV)/.serve
	$(call install,$(VENV),console,console)
	touch $@

# Names, versions and markers alone, alike for every Python that pyproject.toml names.
UPGRADE ?= --upgrade
COMPILE := .venv-lock/bin/uv pip compile --quiet $(UPGRADE) --universal --python-version 3.11 --fork-strategy fewest \
  --no-annotate --no-emit-index-url --custom-compile-command 'make lock'

.venv-lock/bin/uv:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet uv

.PHONY: help setup serve test check lint lock proto train-export deploy-check loadtest bench soak chaos docs console clean
