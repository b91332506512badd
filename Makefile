# Needs Python 3.10 or later (3.11 for the demo and studies) with venv; everything else goes into .venv.
PYTHON ?= python3
DEMO_ARGS ?=
TEST_ARGS ?=
BIN := .venv/bin
INSTALLED := .venv/.nnunet_robust_installed

.PHONY: install demo test lint clean

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/nnunet-robust demo $(DEMO_ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(TEST_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find nnunet_robust tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -e '.[dev]'
	touch $@
