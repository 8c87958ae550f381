# `make help` lists the targets. PYTHON chooses the interpreter that .venv is made from.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# One thread per test process: torch's own threads would fight over the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8
# The whole public data sets, in the folders that tests/data/slices/README.md names.
MLLM_SREC_REAL_DATA ?= ../shared/data

.PHONY: help install demo test test-slow real-data lint format docs clean

help:  ## List the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | column -t -s:

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -e '.[test,lint,docs]'
	touch $@

install: $(INSTALLED)  ## Set up .venv with everything.

demo: install  ## Run the main job on the demo shop, from raw data to a printed result.
	$(BIN)/python -m mllm_srec run --config configs/demo.yaml

test: install  ## Run the tests but the slow ones (minutes).
	$(PYTEST)

test-slow: install  ## Run the slow tests.
	$(PYTEST) -m 'slow and not gpu'

real-data: install  ## Run the tests on whole public data sets, which lie in MLLM_SREC_REAL_DATA.
	MLLM_SREC_REAL_DATA="$(MLLM_SREC_REAL_DATA)" $(PYTEST) -m 'real_data and not gpu'

lint: install  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## Put the code into the project's format.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install  ## Build the site of docs/ into site/, without network; warnings are errors.
	$(BIN)/zensical build --strict

clean:  ## Remove the virtual environment and caches; data/ and runs/ stay.
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .cache site
