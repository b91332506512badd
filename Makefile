# Needs Python 3.10 or later (3.11 for the demo and studies) with venv; everything else goes into .venv.
PYTHON ?= python3
DEMO_ARGS ?=
TEST_ARGS ?=
GPU_ARGS ?=
GPU_ENV_ARGS ?=
BIN := .venv/bin
INSTALLED := .venv/.nnunet_robust_installed

# A machine with a GPU may have Python and torch, but no .venv.
GPU_PYTHON := $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

.PHONY: install demo test lint gpu-env gpu-check clean

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/nnunet-robust demo $(DEMO_ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(TEST_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

gpu-env: $(INSTALLED)
	$(BIN)/python benchmarks/gpu_env.py $(GPU_ENV_ARGS)

gpu-check:
	$(GPU_PYTHON) benchmarks/gpu_check.py $(GPU_ARGS)

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find nnunet_robust tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -e '.[dev]'
	touch $@
