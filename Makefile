# `make demo` runs a real miniature study, `make test` the tests. Both set up what they need first, once.
PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin

.PHONY: help setup demo lint test test-all docs pictures clean

help:
	@echo "make demo      set up, then train, score and report a miniature scaling study (runs/digits-demo/analysis/report.html)"
	@echo "make test      set up, then run the tests, JOBS (2) files at once"
	@echo "make lint      ruff and mypy, which make test runs first"
	@echo "make test-all  the tests that take longer too"
	@echo "make setup     system packages (as root or with sudo), .venv, requirements, FFCV"
	@echo "make docs      build the documentation as a site in site/ (mkdocs), strictly"
	@echo "make pictures  draw the pictures of the documentation, after make demo: one more small study, then docs/make_pictures.py"
	@echo "make clean     remove the demo's data and runs"

setup: .venv/.ready

.venv/.ready: setup.cfg pyproject.toml .ci/setup.sh
	PYTHON="$(PYTHON)" bash .ci/setup.sh

demo: setup
	$(BIN)/ditscale data build digits data/digits
	$(BIN)/ditscale launch sweeps/digits_demo.yaml
	$(BIN)/ditscale report runs/digits-demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -m "not slow" -n $(JOBS) --dist loadfile

test-all: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n $(JOBS) --dist loadfile

docs: setup
	$(BIN)/python -c 'import mkdocs, mkdocstrings' 2>/dev/null || $(BIN)/python -m pip install --quiet '.[docs]'
	$(BIN)/python -m mkdocs build --strict

pictures: demo
	$(BIN)/ditscale launch docs/pictures/digits_blocks.yaml
	$(BIN)/python docs/make_pictures.py

clean:
	rm -rf data/digits runs/digits-demo
