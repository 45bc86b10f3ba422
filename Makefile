# `make demo` and `make test` set everything up by themselves; Python >= 3.11 is all they need.
VENV ?= .venv
PYTHON ?= python3
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Tests start hundreds of processes: each would compile the whole package again.
unexport PYTHONDONTWRITEBYTECODE

# `make parity` compares the rewards with the official packages, which live in an environment of their own (tgo env).
PARITY_WORK ?= tmp/parity
PARITY_OUT ?= .
SIZE ?= both
SEED ?=

.PHONY: demo test test-long test-all test-isa check docs parity setup clean
.DEFAULT_GOAL := demo

demo: setup  ## run the whole pipeline on the embedded small world
	dvc repro
	@tgo evaluation
	@echo "The report: $(CURDIR)/report.html"

# Two processes of one thread each: threads of several processes on two cores would wait for each other in turns.
PYTEST := OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: setup  ## run the tests of every part, in minutes
	$(PYTEST) -m "not long"

test-long: setup  ## run the long tests: whole pipelines, kills, every family with every objective
	$(PYTEST) -m "long and not longest"

test-all: test test-long  ## run every test but those that take longest (.ci/long)

test-isa: setup  ## run the numeric tests as other processors would compute
	python -m tests.isa

check: setup  ## lint and type-check
	ruff check . && ruff format --check . && pyright --pythonpath $(BIN)/python

SITE_SOURCE := tmp/docs
# Not --quiet: --strict counts the warnings that are printed.

docs: setup  ## build the documents as a site in tmp/site, and check every link
	@rm -rf $(SITE_SOURCE) && mkdir -p $(SITE_SOURCE)/benchmarks
	@cp -R docs README.md CONTRIBUTING.md CHANGELOG.md CITATION.cff LICENSE docker params.yaml $(SITE_SOURCE)
	@cp benchmarks/RESULTS.md benchmarks/*.svg $(SITE_SOURCE)/benchmarks
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict
	@echo "The site: $(CURDIR)/tmp/site/index.html; with search: python -m http.server --directory tmp/site"

parity: setup  ## compare with the official packages on fresh weights (SIZE=tiny|full|both SEED=n)
	tgo env create official-rewards
	python -m benchmarks.parity --work $(PARITY_WORK) --out $(PARITY_OUT) --size $(SIZE) $(if $(SEED),--seed $(SEED))

setup: $(VENV)/.installed

# pip draws its progress on a terminal; elsewhere its hundreds of lines say nothing that a log needs.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $$($(PYTHON) --version) was found. Set PYTHON=/path/to/python3."; exit 1; }
	@echo "Installing into $(VENV), once: 3.1 GB to download, 6.3 GB on disk, some minutes. Most of it is torch with CUDA; an"
	@echo "index of CPU builds of torch in PIP_EXTRA_INDEX_URL saves three quarters of the download (docs/INSTALL.md)."
	$(PYTHON) -m venv $(VENV)
	test -t 1 || quiet=--quiet; $(BIN)/python -m pip install $$quiet --editable '.[dev]' --constraint constraints.txt
	@touch $@

clean:  ## remove what the pipeline wrote (not the environment)
	rm -rf data models metrics tables training inputs.yaml report.html plots/thresholds plots/adequacy plots/*.csv
