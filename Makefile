# `make demo` runs a real miniature study, `make test` the tests. Both set up what they need first, once.
PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
# What make check runs, and what make test-oldest adds. A test is fast where its file takes less than half a minute of one core.
FAST := $(addprefix tests/,test_architecture.py test_config.py test_packaging.py test_randomness.py test_yamlfile.py models/test_sizes.py \
	scaling/test_forms.py studies/spec training/test_loop.py::test_golden_losses training/zero/test_deepspeed_keys.py)
CORE := $(FAST) $(addprefix tests/,figures/test_report.py data/test_beton.py diffusion models/test_convert.py models/test_dit.py \
	scaling/test_fitting.py training/test_loop.py)
OLDEST_PYTHON ?= 3.10

.PHONY: help setup demo lint check test test-all test-oldest constraints docs pictures clean

help:
	@echo "make demo      set up, then train, score and report a miniature scaling study (runs/digits-demo/analysis/report.html)"
	@echo "make check     ruff, mypy and the fast tests, in under 90 seconds: before each commit"
	@echo "make test      set up, then run the tests, JOBS (2) files at once"
	@echo "make lint      ruff and mypy, which make test runs first"
	@echo "make test-all  the tests that take longer too"
	@echo "make test-oldest  the core tests with the lowest versions that setup.cfg claims, on Python OLDEST_PYTHON (3.10)"
	@echo "make setup     system packages (as root or with sudo), .venv, requirements, FFCV"
	@echo "make constraints  write the installed versions to constraints.txt, which make setup installs"
	@echo "make docs      build the documentation as a site in site/ (mkdocs), strictly"
	@echo "make pictures  draw the pictures of the documentation, after make demo: two more small studies, then docs/make_pictures.py"
	@echo "make clean     remove the demo's data and runs"

setup: .venv/.ready

.venv/.ready: setup.cfg pyproject.toml constraints.txt .ci/setup.sh
	PYTHON="$(PYTHON)" bash .ci/setup.sh

demo: setup
	$(BIN)/ditscale data build digits data/digits
	$(BIN)/ditscale launch sweeps/digits_demo.yaml --phase rungs
	test -e runs/digits-demo/predictions.jsonl || $(BIN)/ditscale predict runs/digits-demo --target DiT-nano/2
	$(BIN)/ditscale launch sweeps/digits_demo.yaml
	$(BIN)/ditscale report runs/digits-demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(FAST) -m "not slow" -n $(JOBS) --dist loadfile

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -m "not slow" -n $(JOBS) --dist loadfile

test-all: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n $(JOBS) --dist loadfile

# uv, as pip cannot choose the lowest versions; OLDEST_PYTHON is a version or a path.
test-oldest:
	$(PYTHON) -m venv .venv-oldest/uv
	.venv-oldest/uv/bin/pip install --quiet uv
	.venv-oldest/uv/bin/uv venv --quiet --clear --python $(OLDEST_PYTHON) .venv-oldest/env
	.venv-oldest/uv/bin/uv pip install --quiet --python .venv-oldest/env --resolution lowest-direct --editable '.[test]'
	OMP_NUM_THREADS=1 .venv-oldest/env/bin/python -m pytest $(CORE) -m "not slow" -n $(JOBS) --dist loadfile

constraints: setup
	$(BIN)/python .ci/constraints.py > constraints.tmp && mv constraints.tmp constraints.txt

docs: setup
	$(BIN)/python -c 'import mkdocs, mkdocstrings' 2>/dev/null || $(BIN)/python -m pip install --quiet '.[docs]'
	$(BIN)/python -m mkdocs build --strict

pictures: demo
	$(BIN)/ditscale launch docs/pictures/digits_blocks.yaml
	$(BIN)/ditscale launch sweeps/digits_lr.yaml
	$(BIN)/ditscale launch sweeps/digits_lr.yaml model.parametrization=standard model.base_width=null
	$(BIN)/ditscale launch sweeps/digits_budgets.yaml
	$(BIN)/python docs/make_pictures.py

clean:
	rm -rf data/digits runs/digits-demo
