# Each target does its own set-up: .venv with the pinned versions, quick the second time.
PYTHON ?= python3
PIP_FLAGS ?=
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test lint bench soak clean setup

setup: $(BIN)/.done

$(BIN)/.done: setup.cfg constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python %d.%d found, 3.11 or newer wanted; run make PYTHON=python3.12" % sys.version_info[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP_FLAGS) --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,lint]'
	touch $@

demo: setup
	dlkdd use demo
	dvc repro
	dlkdd table demo

test: setup
	pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: setup
	ruff check .
	ruff format --check .
	mypy

# Speeds of this machine, as tables and in benchmarks/results/; needs 4 GB of disk, and an hour without other work.
bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	for name in store reading inference training; do \
	  python benchmarks/$$name.py --out benchmarks/results/$$name.json || exit; done

# Kills the stage `logits` and whole runs again and again, and compares what they end in; 40 minutes, Linux only.
soak: setup
	python tests/soak.py logits --kills 200
	python tests/soak.py repro --kills 100

clean:
	rm -rf .venv build *.egg-info
