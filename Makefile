# make demo      install what it uses, then videos → shards → training → roll-outs (6 to 7 minutes on 2 cores without the install)
# make test      install, then the tests (no network)
# make test-all  the slow tests too
# make docs      the documentation, in site/
# make notebooks runs the notebooks, some minutes

PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test test-all lint docs notebooks clean-demo
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

install: .venv/installed

.venv/installed-demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	touch $@

demo: .venv/installed-demo
	$(BIN)/python preprocess.py out=outputs/data/demo_128px source.num_clips=720 canvas=zoom canvas.size=128 augment.flip=true
	$(BIN)/python train.py experiment=demo
	$(BIN)/python generate.py checkpoint=outputs/train/demo data.root=outputs/data/demo_128px out=outputs/demo

clean-demo:
	rm -rf outputs/clips/demo outputs/data/demo_128px outputs/train/demo outputs/demo

test: .venv/installed lint
	$(BIN)/python -m pytest

test-all: .venv/installed lint
	$(BIN)/python -m pytest -m 'not gpu'

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebooks: .venv/installed
	$(BIN)/python -m pytest -m slow tests/docs/test_notebooks.py
