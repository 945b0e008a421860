# Two commands: `make run` and `make test`. Both install what they need into .venv on first use.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Streamlit's own choice when empty: 8501, or the next one that is free
PORT ?=

# Compiling all of torch's and plotly's files takes a minute and a half, those that are imported a few seconds, once:
# where an image asks for no bytecode (many do), each of our processes would take those seconds again.
export PYTHONDONTWRITEBYTECODE :=

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help run test lint clean new-venv

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=python3 (3.11 or newer), PORT=8501"

run: $(VENV)/run.stamp ## start the app and print its address
	$(PY) -m app $(if $(PORT),--server.port $(PORT))

test: $(VENV)/dev.stamp lint ## lint, then all tests, in the browser too
	QBERT_CHROMIUM="$$($(PY) -m tests.chromium)" $(PY) -m pytest -n 2 --dist loadfile

lint: $(VENV)/dev.stamp ## ruff, mypy and the rule which room may import which
	$(PY) -m ruff check
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

clean: ## remove .venv and every cache
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written last, so it says that everything before it went well; it is older than the
# requirements as soon as they change.
$(VENV)/run.stamp: requirements.txt $(if $(shell $(PY) -c 'import pip' 2>&1 || echo broken),new-venv)
	@rm -f $@
	$(PY) -m pip install --no-compile -r requirements.txt
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp requirements-dev.txt requirements-nodeps.txt
	@rm -f $@
	$(PY) -m pip install --no-compile -r requirements-dev.txt
	$(PY) -m pip install --no-compile --no-deps -r requirements-nodeps.txt
	@touch $@

# Asked for when there is no venv, one that was cut off half-way, or one whose Python is gone.
new-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"Python 3.11 or newer is needed, $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv --clear $(VENV)
