# Needs Python 3.11 or newer and pip; everything else goes into .venv. Start with: make demo
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := -m pip install --quiet --quiet --disable-pip-version-check
PIP := $(BIN)/python $(INSTALL)
PEERS := .bench/peers

.PHONY: demo test lint format bench bench-peers performance setup docs lock clean

demo: $(VENV)/.run
	@MODEL='$(MODEL)' API_BASE='$(API_BASE)' BRIDGE='$(BIN)/dspy-bridge' examples/shell/demo.sh

test: lint $(VENV)/.tools
	$(BIN)/pytest -n 3 --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks

bench-peers: $(VENV)/.dev $(PEERS)/.installed
	$(BIN)/python -m tests.benchmarks.peers

performance: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks.performance --take

setup: $(VENV)/.dev $(VENV)/.tools

docs: $(VENV)/.dev
	$(BIN)/python -m bridge.cli.docs

lock:
	.ci/lock

clean:
	rm -rf $(VENV) $(PEERS) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The stamps below are written last, so that an interrupted install is taken up again.
$(VENV)/bin/python:
	@.ci/venv '$(PYTHON)' '$(VENV)'

$(VENV)/.run: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo 'Installing the worker and what it needs into $(VENV), about a minute ...'
	@sed '/^# Development only/,$$d' requirements.lock > $(VENV)/run.lock
	@$(PIP) --only-binary :all: --require-hashes -r $(VENV)/run.lock
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo 'Installing the development tools into $(VENV), about a minute ...'
	@$(PIP) --only-binary :all: --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.tools: .ci/tools | $(VENV)/bin/python
	@.ci/tools
	@touch $@

$(PEERS)/.installed: tests/benchmarks/peers/requirements.txt
	@echo 'Installing what the worker is compared with into $(PEERS) ...'
	@.ci/venv '$(PYTHON)' '$(PEERS)'
	@$(PEERS)/bin/python $(INSTALL) --only-binary :all: --require-hashes -r $<
	@touch $@
