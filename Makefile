# Each target does all of its own set-up.  Needed: python3 (3.11 or newer) with venv, and make.
# What is installed comes from the locks in requirements/, by hash.  Tests run on the built wheel.
#
#   make demo ARGS="--help"
#   make test ARGS="tests/core -k bus"
#   make test VENV=.venv-3.13 PYTHON=python3.13

PYTHON ?= python3
# The simulated Proxmox VE runs in an environment of its own (its licence and aiohttp stay out of agentd's).
PVE_PYTHON ?= python3
VENV ?= .venv
ARGS ?=

PVE := .venv-pve
LINT := .venv-lint
LOCK := .venv-lock
MUTANTS := .venv-mutants
BIN := $(VENV)/bin

QUIET := -qq --disable-pip-version-check --no-input
LOCKED := -m pip install $(QUIET) --require-hashes
# Folders too: a removed file changes its folder's time.
SOURCES := pyproject.toml $(wildcard README.md LICENSE) $(shell find agentd plugins -name __pycache__ -prune -o -print)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test lint bench mutants lock clean

help: ## say what there is
	@grep -hE '^[a-z]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 16

demo: $(VENV)/wheel.stamp $(PVE)/pve.stamp ## deploy one VM on a simulated cluster (ARGS: agentd demo's)
	$(BIN)/agentd demo $(ARGS)

# pytest's own command, never `python -m pytest`: that would import the source instead of the wheel.
test: $(VENV)/test.stamp $(VENV)/wheel.stamp $(PVE)/pve.stamp ## run the tests on the built wheel (ARGS: pytest's)
	$(BIN)/pytest $(ARGS)

lint: $(LINT)/lint.stamp ## check style, types, layers, dependencies, words, dead code
	$(LINT)/bin/ruff format --check .
	$(LINT)/bin/ruff check .
	$(LINT)/bin/mypy
	PYTHONPATH=plugins $(LINT)/bin/lint-imports --no-cache --no-logo
	$(LINT)/bin/deptry agentd plugins
	$(LINT)/bin/codespell
	$(LINT)/bin/vulture

bench: $(VENV)/test.stamp $(VENV)/wheel.stamp $(PVE)/pve.stamp ## measure (ARGS: pytest's)
	$(BIN)/pytest tests/bench --timeout=0 $(ARGS)

# The pure files, each against the tests of its name (workflow.py: test_workflow.py, anywhere below tests/).
# mutmut wants packages at the root, so it works in a copy that is laid out flat.
PURE := agentd/policy.py agentd/audit.py \
	agentd_orchestrator/workflow.py agentd_specialist/vm.py agentd_monitor/alerts.py
PURE_TESTS := $(sort $(foreach name,$(basename $(notdir $(PURE))),$(shell find tests -name test_$(name).py)))

mutants: $(MUTANTS)/mutants.stamp ## change the pure files a little: does a test notice? (ARGS: mutmut run's)
	rm -rf $(MUTANTS)/tree && mkdir $(MUTANTS)/tree
	cp -R agentd plugins/agentd_* tests pyproject.toml $(MUTANTS)/tree
	{ echo '[mutmut]'; echo 'source_paths='; ls -d agentd plugins/agentd_* | sed 's|^plugins/||; s|^|    |'; \
	  echo 'only_mutate='; printf '    %s\n' $(PURE); \
	  echo 'pytest_add_cli_args_test_selection='; printf '    %s\n' $(PURE_TESTS); } >$(MUTANTS)/tree/setup.cfg
	cd $(MUTANTS)/tree && ../bin/mutmut run $(ARGS)
	cd $(MUTANTS)/tree && ../bin/mutmut results

lock: $(LOCK)/lock.stamp ## resolve the locks anew (ARGS=--upgrade takes newer versions)
	$(COMPILE) --extra server --extra mcp --group build pyproject.toml -o requirements/agentd.txt
	$(COMPILE) --group test -c requirements/agentd.txt -o requirements/test.txt
	$(COMPILE) --extra mcp --group lint -c requirements/agentd.txt -c requirements/test.txt pyproject.toml \
		-o requirements/lint.txt
	$(COMPILE) --group mutants -c requirements/agentd.txt -c requirements/test.txt -o requirements/mutants.txt
COMPILE = $(LOCK)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate $(ARGS)

clean: ## remove every environment, cache and build
	rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
	find agentd plugins tests -name __pycache__ -prune -exec rm -rf {} +

# Environments.  A stamp is newer than what it was made from; an environment is never repaired, but made anew.

$(VENV)/agentd.stamp: requirements/agentd.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python $(LOCKED) -r requirements/agentd.txt
	touch $@

$(VENV)/wheel.stamp: $(VENV)/agentd.stamp $(SOURCES)
	rm -rf $(VENV)/wheel
	$(BIN)/python -m pip wheel $(QUIET) --no-deps --no-build-isolation --no-index --wheel-dir $(VENV)/wheel .
	$(BIN)/python -m pip install $(QUIET) --no-deps --no-index --force-reinstall $(VENV)/wheel/*.whl
	touch $@

$(VENV)/test.stamp: $(VENV)/agentd.stamp requirements/test.txt
	$(BIN)/python $(LOCKED) -r requirements/test.txt
	touch $@

$(PVE)/pve.stamp: tests/pve/requirements.txt
	$(PVE_PYTHON) -m venv --clear $(PVE)
	$(PVE)/bin/python $(LOCKED) -r $<
	touch $@

$(LINT)/lint.stamp: requirements/lint.txt
	$(PYTHON) -m venv --clear $(LINT)
	$(LINT)/bin/python $(LOCKED) -r $<
	touch $@

$(MUTANTS)/mutants.stamp: requirements/agentd.txt requirements/test.txt requirements/mutants.txt
	$(PYTHON) -m venv --clear $(MUTANTS)
	$(MUTANTS)/bin/python $(LOCKED) $(addprefix -r ,$^)
	touch $@

$(LOCK)/lock.stamp:
	$(PYTHON) -m venv --clear $(LOCK)
	$(LOCK)/bin/python -m pip install $(QUIET) uv
	touch $@
