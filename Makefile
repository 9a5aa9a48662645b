# Two commands do everything: `make demo` and `make test`. The rest is for daily work.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo test lint format clean

demo: .venv/.demo
	$(BIN)/attractor-ae demo --out demo

test: lint
	$(BIN)/pytest

lint: .venv/.test
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright

format: .venv/.test
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf .venv demo

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	@touch $@

.venv/.test: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[demo,test,lint]'
	@touch $@
