# `make demo` and `make test` set everything up by themselves; Python >= 3.11 is all they need.
VENV ?= .venv
PYTHON ?= python3
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check setup clean
.DEFAULT_GOAL := demo

demo: setup  ## run the whole pipeline on the embedded small world
	dvc repro
	@tgo evaluation
	@echo "The report: $(CURDIR)/report.html"

test: setup  ## run the tests
	python -m pytest -n 2 --dist loadfile

check: setup  ## lint and type-check
	ruff check . && ruff format --check . && pyright --pythonpath $(BIN)/python

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $$($(PYTHON) --version) was found. Set PYTHON=/path/to/python3."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	@touch $@

clean:  ## remove what the pipeline wrote (not the environment)
	rm -rf data models metrics training report.html plots/thresholds plots/*.csv
