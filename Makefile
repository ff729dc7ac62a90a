# Everything a developer or a user types. `make help` lists it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DPUS ?= 4
TESTS ?= test
WORKERS ?= 2

.DEFAULT_GOAL := help

.PHONY: help setup demo test lint format generate bench spec control-planes kamaji clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## the virtual environment with pinned packages and the console scripts

$(VENV)/.installed: requirements.lock pyproject.toml
	@echo "setup: installing pinned packages into $(VENV) (under a minute)" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

control-planes: setup ## etcd, kube-apiserver and kube-controller-manager, built once and cached
	@$(BIN)/python -m dpf.sandbox.controlplane build >/dev/null

kamaji: setup ## the Kamaji that tests run, built once and cached
	@$(BIN)/python -m test.kamaji >/dev/null

demo: control-planes ## the main job: a sandbox, a DPUSet, Ready DPUs, a summary, all taken down (DPUS=4)
	@$(BIN)/dpfctl sandbox demo --dpus $(DPUS)

test: control-planes kamaji lint ## lint, types and all tests (TESTS=path, WORKERS=2)
	@$(BIN)/pytest -n $(WORKERS) --dist loadgroup $(TESTS)

lint: setup ## ruff, strict types, import contracts, generated files up to date
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy dpf api/dpf_api cmd/dpf_cmd hack test
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python hack/generate_crds.py --check
	@$(BIN)/python hack/generate_protos.py --check

format: setup ## puts the sources into shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

generate: setup ## CRDs from the API models, gNOI stubs from their protos
	@$(BIN)/python hack/generate_crds.py
	@$(BIN)/python hack/generate_protos.py

bench: control-planes ## measurements as JSON lines (ONLY=name for one)
	@$(BIN)/python -m test.bench $(if $(ONLY),--only $(ONLY))

spec: setup ## which numbered statements of the specification are proven by a test
	@$(BIN)/python hack/spec.py

clean: ## removes what make made here; the cache outside the clone stays
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
