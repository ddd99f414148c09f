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
FUZZ_CASES ?= 20000
FUZZ_SECONDS ?= 1800
LOADTEST_SECONDS ?= 30
LOADTEST_USERS ?= 16
export LOADTEST_SECONDS LOADTEST_USERS

.DEFAULT_GOAL := help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}'

setup: $(VENV)/.dev ## Install everything for development into .venv

serve: $(VENV)/.serve ## Serve the committed models on 127.0.0.1: a page and HTTP on 8000, gRPC on 8001, metrics on 8002
	$(BIN)/lectern serve

check: lint ## Check style, types and protos, and run the tests that start nothing: under two minutes
	$(BIN)/python -m pytest -m unit --numprocesses $(TEST_PROCESSES)

test: $(VENV)/.dev ## Run every test, TEST_PROCESSES=2 side by side
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile

test-grpc: $(VENV)/.dev ## Run the tests of the server over grpc.aio, where `make native` has built the other transport
	LECTERN_TRANSPORT=grpc $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile \
	  tests/server tests/services/test_inference.py

lint: $(VENV)/.dev ## Check style, types, protos and what is generated
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/unasync.py --check
	$(BIN)/python scripts/capabilities.py --check
	$(BIN)/python scripts/jobs.py --check
	$(BIN)/python scripts/openapi.py --check
	$(BIN)/python scripts/monitoring.py --check
	$(BIN)/python scripts/results.py --check
	$(BIN)/buf lint
	@if git rev-parse -q --verify origin/main >/dev/null; then $(BIN)/buf breaking --against '.git#ref=origin/main'; \
	else echo 'buf breaking: no origin/main to compare with'; fi

lock: .venv-lock/bin/uv ## Renew requirements/: the newest releases that pyproject.toml allows; UPGRADE= keeps those that still fit
	$(COMPILE) pyproject.toml --extra dev --output-file requirements/dev.txt
	$(COMPILE) pyproject.toml --extra console --constraint requirements/dev.txt --output-file requirements/console.txt
	$(COMPILE) pyproject.toml --extra load --output-file requirements/load.txt
	$(COMPILE) pyproject.toml --extra cpu --extra train --constraint requirements/dev.txt --output-file requirements/train.txt
	for engine in cpu gpu; do $(COMPILE) --generate-hashes pyproject.toml --extra $$engine --extra episodes --extra tracing \
	  --constraint requirements/dev.txt --output-file requirements/serve-$$engine.txt || exit; done
	$(COMPILE) --generate-hashes requirements/build.in --constraint requirements/dev.txt --output-file requirements/build.txt
	for server in triton mlserver kserve litserve bentoml ray; do $(COMPILE) --generate-hashes requirements/$$server.in \
	  --output-file requirements/$$server.txt || exit; done

FOR_PYTHON = -DPython_EXECUTABLE=$(abspath $(BIN)/python) -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)

# Where the front is built, it serves; everything else works without a compiler.
native: $(VENV)/.serve ## Build the native front, which `make serve` then uses: needs a C++ compiler and two libraries
	@for program in cmake $${CXX:-g++} pkg-config; do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	pkg-config --exists libnghttp2 openssl 2>/dev/null || missing="$$missing libraries"; \
	$(BIN)/python -c 'import pathlib, sysconfig as s; pathlib.Path(s.get_path("include"), "Python.h").stat()' 2>/dev/null || missing="$$missing Python.h"; \
	test -z "$$missing" || { echo "missing:$$missing: apt-get install cmake g++ libnghttp2-dev libssl-dev pkg-config python3-dev"; exit 1; }
	$(BIN)/python -c 'import pybind11' 2>/dev/null || PIP_CONSTRAINT=$(LOCK)/dev.txt $(BIN)/pip install --quiet pybind11
	cmake -S native -B build/native $(FOR_PYTHON) $(NATIVE_FLAGS)
	cmake --build build/native --parallel

native-sanitize: $(VENV)/.dev ## Run the tests of the native front, in C++ and in Python, under AddressSanitizer, UBSan and ThreadSanitizer
	for checks in address,undefined thread; do \
	  cmake -S native -B build/native-$$checks -DTESTS=ON -DSANITIZE=$$checks -DCMAKE_BUILD_TYPE=RelWithDebInfo && \
	  cmake --build build/native-$$checks --parallel && ctest --test-dir build/native-$$checks --output-on-failure || exit; done
	cmake -S native -B build/native-module -DSANITIZE=address,undefined -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DMODULE_FOLDER=$(abspath build/native-module) $(FOR_PYTHON)
	cmake --build build/native-module --parallel
	$(BIN)/python native/tests/sanitized/run.py build/native-module

native-fuzz: ## Fuzz the native front's parsers for FUZZ_SECONDS=1800 each; needs clang
	cmake -S native -B build/native-fuzz -DFUZZ=ON -DSANITIZE=address,undefined -DCMAKE_CXX_COMPILER=clang++
	cmake --build build/native-fuzz --parallel
	for fuzzer in fuzz_infer fuzz_front; do build/native-fuzz/$$fuzzer -max_total_time=$(FUZZ_SECONDS) || exit; done

proto: $(VENV)/.dev ## Generate the stubs of protos/ again
	$(BIN)/python hatch_build.py

client: $(VENV)/.dev ## Write lectern/client/, the client for threads, from lectern/aio/
	$(BIN)/python scripts/unasync.py

capabilities: $(VENV)/.dev ## Write what deploy/ and loadtests/ have of each capability, from its descriptor
	$(BIN)/python scripts/capabilities.py

openapi: $(VENV)/.dev ## Write the OpenAPI document of HTTP, from the protos
	$(BIN)/python scripts/openapi.py

jobs: $(VENV)/.dev ## Write the Jobs of deploy/ that train, from recipes and cards
	$(BIN)/python scripts/jobs.py

monitoring: $(VENV)/.dev ## Write the rules, dashboards and autoscalers of deploy/ that are derived
	$(BIN)/python scripts/monitoring.py

train-export: $(VENV)/.dev ## Train and export every model, or one: MODEL=name; FAST=1 for a trial run in seconds; PROMOTE=1 to serve even a worse one
	$(BIN)/lectern train $(or $(MODEL),--all) --seed $(SEED) $(if $(FAST),--fast) $(if $(PROMOTE),--promote)

deploy-check: $(VENV)/.dev ## Check what an operator applies: manifests, Prometheus rules
	$(BIN)/python deploy/check.py

image-check: $(VENV)/.serve ## Build the image on a base made here, and see it serve, read-only, over both transports; as root
	$(BIN)/python deploy/image.py

cluster-test: $(VENV)/.dev ## Run deploy/ on a real Kubernetes node in namespaces of its own: rollouts, losses, faults; as root; builds Kubernetes the first time
	$(BIN)/python deploy/cluster

loadtest: $(VENV)/.serve .venv-load/.installed ## Load every capability with locust: LOADTEST_SECONDS=30 LOADTEST_USERS=16
	.venv-load/bin/python loadtests/run.py --lectern $(BIN)/lectern

bench: $(if $(filter cuda,$(DEVICE)),.venv-gpu/.installed,$(VENV)/.dev) ## Measure Lectern beside its peers, under overload, and every RPC; DEVICE=cuda: every graph on a GPU; BRIEF=1: one short cell of each
	$(<D)/bin/python -m benchmarks --device $(DEVICE) $(if $(BRIEF),--brief)

soak: $(VENV)/.dev ## Mixed load on a repository that is copied into, linked over and damaged, for SOAK_SECONDS=900: does anything leak or fail?
	SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest -s tests/server/test_soak.py

fuzz: $(VENV)/.dev ## Falsified files, messages and requests, FUZZ_CASES=20000 of the commonest: is each answered or refused as the caller's?
	FUZZ_CASES=$(FUZZ_CASES) $(BIN)/python -m pytest tests/server/test_fuzzing*.py

chaos: $(VENV)/.dev ## Kill, corrupt and starve what serves, and see it recover by itself
	$(BIN)/python -m pytest -v -m chaos

alerts: $(VENV)/.dev ## Load real servers until Prometheus scales them and every alert arrives at a webhook
	$(BIN)/python -m pytest -v -m live

docs: pages ## Write the generated parts of docs/ and build the site, build/site, with every link checked
	$(BIN)/python docs/make_site.py

pages: $(VENV)/.dev ## Write the generated parts of docs/ alone
	for page in settings models architecture rpcs metrics errors tutorials; do $(BIN)/python docs/make_$$page.py || exit; done
	$(BIN)/python scripts/results.py

console: $(VENV)/.console ## Open a Python shell with a connected client
	$(BIN)/lectern console

clean: ## Remove environments and build outputs
	rm -rf .venv .venv-newest .venv-load .venv-gpu .venv-lock build dist lectern/v1 inference

# Each marker stands for an installed environment; pyproject.toml, the lock and the contract make it stale.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

SOURCES := pyproject.toml hatch_build.py $(wildcard protos/lectern/v1/*.proto protos/inference/*.proto) $(wildcard requirements/*.txt)

# Extras of serve-cpu.txt and serve-gpu.txt.
SERVED := $(ENGINE),episodes,tracing
SERVED_ON_GPU := gpu,episodes,tracing

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

# So has ONNX Runtime for a GPU: it and the one for the CPU, which development takes, are the same module.
.venv-gpu/.installed: $(SOURCES)
	test -x .venv-gpu/bin/python || $(PYTHON) -m venv .venv-gpu
	$(call install,.venv-gpu,serve-gpu,$(SERVED_ON_GPU))
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

.PHONY: help setup serve test test-grpc check lint lock native native-sanitize native-fuzz proto client capabilities openapi jobs monitoring train-export deploy-check pages image-check cluster-test loadtest bench soak fuzz chaos alerts docs console clean
