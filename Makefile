# The first target is help. Everything runs from .venv, which `make .venv/installed` fills from hash-checked files.
PYTHON ?= python3
BIN := .venv/bin
DATA ?= .dcops
PORT ?= 8000
BIND ?=
UP := $(BIN)/dcops up --data-dir "$(DATA)" --port "$(PORT)" $(if $(BIND),--bind "$(BIND)")

.PHONY: help up demo test check format bench soak torch backup

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "dcops needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Install a newer one, or run: make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "Python has no venv module. On Debian or Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

.venv/developed: .venv/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.txt
	@touch $@

up: .venv/installed  ## start dcops on this machine (BIND=, PORT=, DATA=)
	@exec $(UP)

demo: .venv/installed  ## the same, with a simulated hall (NODES=, GPUS=)
	@exec $(UP) --demo --demo-nodes "$(or $(NODES),20)" --demo-gpus-per-node "$(or $(GPUS),8)"

test: .venv/developed  ## the whole test suite; no GPU, no running service needed
	@$(BIN)/python -m pytest -n 2 --dist loadgroup

check: .venv/developed  ## format, lint, import contracts, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	@DCOPS_SECRET_KEY=unused DCOPS_DATABASE_URL=postgresql://unused/unused $(BIN)/mypy

format: .venv/developed  ## rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/developed  ## the benchmarks (ONLY=name), into build/figures.json
	@$(BIN)/python -m tests.bench $(if $(ONLY),--only "$(ONLY)")

soak: .venv/developed  ## the long runs (ONLY=name), into build/figures.json
	@$(BIN)/python -m tests.soak $(if $(ONLY),--only "$(ONLY)")

torch: .venv/installed  ## add PyTorch, for the recipes
	$(BIN)/python -m pip install --quiet torch==2.13.0

backup: .venv/installed  ## write an encrypted backup of the database (DATA=)
	@$(BIN)/dcops backup --data-dir "$(DATA)"
