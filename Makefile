# `make demo` and `make test` are all that a newcomer needs: each sets up what it uses.
.DEFAULT_GOAL := help
.PHONY: help demo test test-wheel check bench soak kills clean generate

VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## Show what can be made
	@echo "crew-plugin: teams of agents for a host coding agent"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

# A virtual environment that does not run (moved, or its Python is gone) is made anew.
$(VENV)/.made: .make/find-python
	@if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; then \
		python=$$(PYTHON="$(PYTHON)" sh .make/find-python) || exit 1; \
		echo "Making $(VENV) with $$python ..."; \
		rm -rf $(VENV); "$$python" -m venv $(VENV) || exit 1; \
	fi
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip -q
	@$(BIN)/python -m pip install -q --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.user: $(VENV)/.made pyproject.toml
	@echo "Installing crew-plugin with the Bub host into $(VENV) (once; a minute or two) ..."
	@$(BIN)/python -m pip install -q -e '.[bub]'
	@touch $@

$(VENV)/.dev: $(VENV)/.user pyproject.toml
	@echo "Installing what the tests need into $(VENV) (once) ..."
	@$(BIN)/python -m pip install -q --group dev
	@touch $@

demo: $(VENV)/.user ## A team of agents reviews a real code base inside a real Bub
	@$(BIN)/crew demo $(ARGS)

test: $(VENV)/.dev ## Run the test suite, one process for each core
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

test-wheel: $(VENV)/.dev ## Run the test suite against the built and installed wheel
	@$(BIN)/python tests/wheel.py $(ARGS)

check: $(VENV)/.dev ## Lint, format and type checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright

bench: $(VENV)/.dev ## Measure against peers and floors; prints the tables of docs/performance.md
	@$(BIN)/python -m bench $(ARGS)

soak: $(VENV)/.dev ## Waves of runs for two hours: memory, tasks and descriptors must stay flat
	@$(BIN)/python -m pytest tests/hosts/test_bub_soak.py -q -s --soak-seconds $(or $(SECONDS),7200)

kills: $(VENV)/.dev ## Kill processes of runs at random, N=1000 times, and look at the store each time
	@$(BIN)/python -m tests.faults.kill_loop --kills $(or $(N),1000) $(ARGS)

generate: $(VENV)/.dev ## Write the generated files anew (tool schemas, tables in docs)
	@$(BIN)/python tests/generate.py

clean: ## Remove everything that make made
	rm -rf $(VENV) .venv-bench build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
