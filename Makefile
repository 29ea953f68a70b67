# One line per thing one can do. Every target needs nothing before it but Python 3.11 or newer and make.

# Settings, as in `make setup TORCH_INDEX=URL`
PYTHON      ?=                # the Python to build .venv with; without it the first that is new enough
TORCH       ?= torch==2.13.0
TORCH_INDEX ?=                # another source of torch wheels: for a CPU alone, or for one CUDA version
EXTRAS      ?= dev,plot,eval,serve,clients
ARGS        ?=                # handed to pytest by `make test`, as in ARGS="tests/ops -k norm"

PYTHON := $(strip $(PYTHON))
TORCH_INDEX := $(strip $(TORCH_INDEX))
RUN := .venv/bin/python -m
WORKERS := -n auto --dist loadfile --no-loadscope-reorder  # else files with few, long tests come last

.DEFAULT_GOAL := help
.PHONY: help setup demo serve bench test check clean

help:  ## this list
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1 \2/p' Makefile | awk '{ name = $$1; $$1 = ""; printf "  %-8s%s\n", name, $$0 }'
	@echo "Settings: PYTHON=, TORCH_INDEX=URL (where torch wheels come from; on Linux without a GPU PyTorch's CPU index saves"
	@echo "gigabytes), ARGS= (for pytest)."

setup: .venv/.installed  ## make .venv with Fathom and all that its tests need; a second time it does nothing

demo: setup  ## train a small V4 model on Python's own source files, then complete some code with it
	@.venv/bin/fathom demo

serve: setup  ## serve a model on 127.0.0.1:8000, with a page to talk to it; without one, train the demo's first
	@.venv/bin/fathom serve

bench: setup  ## measure speed beside transformers; bench/ gets a table and plots
	@.venv/bin/fathom bench

test: setup  ## the tests for everyone
	@$(RUN) pytest -m "not check" $(WORKERS) $(ARGS)

check: setup  ## lint, types of public functions, long laws; every tool must be there
	@$(RUN) ruff check .
	@$(RUN) mypy
	@$(RUN) pytest -m "check or needs" --strict-tools $(WORKERS) $(ARGS)

clean:  ## remove .venv, caches and build outputs; runs/ stays
	@rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Made anew when pyproject.toml changes; an interrupted setup has no stamp and starts over with what is there.
.venv/.installed: pyproject.toml
	@sh scripts/make-venv.sh "$(PYTHON)"
	@echo "setup 2/4: $(TORCH), the large one"
	@quiet=-q; [ -t 1 ] && quiet=; $(RUN) pip install $$quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	@echo "setup 3/4: Fathom and its tools ($(EXTRAS))"
	@$(RUN) pip install -q --disable-pip-version-check -e ".[$(EXTRAS)]"
	@echo "setup 4/4: native kernels"
	@$(RUN) fathom.ops.native
	@touch $@
	@echo "setup done: .venv/bin/fathom --help"
