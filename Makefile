# Each target does all of its own set-up.  Needed: python3 (3.11 or newer) with venv, and make.
# What is installed comes from the locks in requirements/, by hash.  Tests run on the built wheel.
#
#   make demo ARGS="--help"
#   make test ARGS="tests/core -k bus" JOBS=0
#   make test VENV=.venv-3.13 PYTHON=python3.13

PYTHON ?= python3
# The simulated Proxmox VE runs in an environment of its own (its licence and aiohttp stay out of agentd's).
PVE_PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# Tests that run at a time.  They wait for servers most of the time, so more than there are cores is well.
JOBS ?= 4

PVE := .venv-pve
CLOUD := .venv-cloud
LINT := .venv-lint
LOCK := .venv-lock
ANSIBLE := .venv-ansible
BIN := $(VENV)/bin

QUIET := -qq --disable-pip-version-check --no-input
# A lock is complete, extras included: nothing is resolved, so no later release changes what is installed.  Wheels alone,
# but for two packages that publish none: these are built by the setuptools of requirements/build.txt.
LOCKED := -m pip install $(QUIET) --no-deps --require-hashes --only-binary :all:
BUILT := --no-binary nkeys,forbiddenfruit --no-build-isolation
CHECK := -m pip check -q --disable-pip-version-check
# Folders too: a removed file changes its folder's time.
SOURCES := pyproject.toml $(wildcard README.md LICENSE) $(shell find agentd plugins -name __pycache__ -prune -o -print)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo check test lint rollout bench mutants attack chaos calls docs lock clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 16

demo: $(VENV)/wheel.stamp $(PVE)/pve.stamp ## deploy one VM on a simulated cluster (ARGS: agentd demo's)
	$(BIN)/agentd demo $(ARGS)

# Tests that start no server and no other process, by their text: a new file is among them by itself.  Not among them are
# those that try many random cases, and those of the page.
QUICK = $(shell grep -LE '[Nn]ats_?[Ss]erver|FakePve|quiet_net|\b(bus|lab|net|tools|sim|benches): |subprocess|SCRIPTS' \
	$(shell find tests/core tests/plugins -name 'test_*.py' -not -name '*_chance.py' -not -path '*/web/*'))
CHANGED = $(shell git diff --name-only --diff-filter=d HEAD; git ls-files --others --exclude-standard)
check: $(LINT)/lint.stamp $(VENV)/test.stamp $(VENV)/wheel.stamp ## check in less than a minute: changed files, layers, tests without servers
	$(if $(filter %.py,$(CHANGED)),$(LINT)/bin/ruff format --check $(filter %.py,$(CHANGED)))
	$(if $(filter %.py,$(CHANGED)),$(LINT)/bin/ruff check $(filter %.py,$(CHANGED)))
	$(if $(CHANGED),$(LINT)/bin/codespell $(CHANGED))
	PYTHONPATH=plugins $(LINT)/bin/lint-imports --no-cache --no-logo
	$(BIN)/pytest -q -n auto $(QUICK) $(ARGS)

# pytest's own command, never `python -m pytest`: that would import the source instead of the wheel.
test: $(VENV)/test.stamp $(VENV)/wheel.stamp $(PVE)/pve.stamp $(CLOUD)/cloud.stamp ## run the tests on the built wheel (ARGS: pytest's)
	$(BIN)/pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: $(LINT)/lint.stamp ## check style, types, layers, dependencies, words, dead code
	$(LINT)/bin/ruff format --check .
	$(LINT)/bin/ruff check .
	$(LINT)/bin/mypy
	PYTHONPATH=plugins $(LINT)/bin/lint-imports --no-cache --no-logo
	$(LINT)/bin/deptry agentd plugins
	$(LINT)/bin/codespell  # with tests/project/words.txt: plain English
	! grep -rnE '\b(for|lambda) each( in |:)|for \w+, each in |\beach(: int|: str|=)' --include='*.py' agentd plugins tests  # a variable is named after what it holds
	$(LINT)/bin/vulture

# In one process: the nodes are one lab, and the tests follow one another as an operator's days do.
rollout: $(VENV)/test.stamp $(VENV)/wheel.stamp $(PVE)/pve.stamp $(ANSIBLE)/ansible.stamp ## roll out to three real nodes and prove that it works (as root)
	$(ANSIBLE)/bin/shellcheck .ci/run $(shell find ansible -name '*.sh')
	$(ANSIBLE)/bin/yamllint --strict -c ansible/.yamllint ansible
	cd ansible && for inventory in inventories/*; do \
		PATH="$(abspath $(ANSIBLE))/bin:$$PATH" ansible-playbook -i $$inventory --syntax-check *.yml || exit 1; done
	cd ansible && PATH="$(abspath $(ANSIBLE))/bin:$$PATH" ansible-lint -q --offline --profile production
	$(BIN)/pytest -p no:xdist --exitfirst tests/rollout $(ARGS)

bench: $(VENV)/test.stamp $(VENV)/wheel.stamp $(PVE)/pve.stamp ## measure (ARGS: pytest's)
	$(BIN)/pytest tests/bench --timeout=0 $(ARGS)

mutants: $(VENV)/test.stamp $(VENV)/wheel.stamp $(PVE)/pve.stamp ## switch each safety answer off: is its test red? (ARGS: names)
	$(BIN)/python tests/mutants/run.py $(ARGS)

attack: $(VENV)/test.stamp $(VENV)/wheel.stamp $(PVE)/pve.stamp ## try every known attack on a running network (ARGS: names)
	$(BIN)/python tests/attack/run.py $(ARGS)

chaos: $(VENV)/test.stamp $(VENV)/wheel.stamp $(PVE)/pve.stamp ## let everything go wrong (SEED=, MINUTES=, ARGS: run.py's)
	$(BIN)/python tests/system/chaos/run.py --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED)) $(ARGS)

calls: $(VENV)/test.stamp $(VENV)/wheel.stamp $(PVE)/pve.stamp ## store which API methods each tool calls (calls.json)
	cd tests && ../$(BIN)/python -m plugins.proxmox.walk

docs: $(VENV)/test.stamp $(VENV)/wheel.stamp ## regenerate the generated pages: tools, policy, settings, commands, metrics
	cd tests && ../$(BIN)/python -m project.reference

lock: $(LOCK)/lock.stamp ## resolve the locks again (ARGS=--upgrade takes newer versions)
	$(COMPILE) --group build -o requirements/build.txt
	$(COMPILE) --extra server --extra mcp --extra cloud -c requirements/build.txt pyproject.toml -o requirements/agentd.txt
	$(COMPILE) --group test --group solver -c requirements/agentd.txt -c requirements/build.txt -o requirements/test.txt
	$(COMPILE) --extra mcp --group lint -c requirements/agentd.txt -c requirements/test.txt -c requirements/build.txt \
		pyproject.toml -o requirements/lint.txt
	$(COMPILE) --group rollout -o requirements/ansible.txt
	$(COMPILE) --group lock -o requirements/lock.txt
	$(COMPILE) tests/pve/requirements.in -o tests/pve/requirements.txt
	$(COMPILE) tests/cloud/requirements.in -o tests/cloud/requirements.txt
COMPILE = $(LOCK)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-strip-extras $(ARGS)

clean: ## remove every environment, cache and build
	rm -rf .venv .venv-* .dashboard .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
	find agentd plugins tests -name __pycache__ -prune -exec rm -rf {} +

# Environments.  A stamp is newer than what it was made from; an environment is never repaired, but recreated (a
# link to one is replaced: what it points to stays as it is).

$(VENV)/agentd.stamp: requirements/build.txt requirements/agentd.txt
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(LOCKED) -r requirements/build.txt
	$(BIN)/python $(LOCKED) $(BUILT) -r requirements/agentd.txt
	$(BIN)/python $(CHECK)
	touch $@

$(VENV)/wheel.stamp: $(VENV)/agentd.stamp $(SOURCES)
	rm -rf $(VENV)/wheel
	$(BIN)/python -m pip wheel $(QUIET) --no-deps --no-build-isolation --no-index --wheel-dir $(VENV)/wheel .
	$(BIN)/python -m pip install $(QUIET) --no-deps --no-index --force-reinstall $(VENV)/wheel/*.whl
	$(BIN)/python $(CHECK)
	touch $@

$(VENV)/test.stamp: $(VENV)/agentd.stamp requirements/test.txt
	$(BIN)/python $(LOCKED) $(BUILT) -r requirements/test.txt
	$(BIN)/python $(CHECK)
	touch $@

$(PVE)/pve.stamp: tests/pve/requirements.txt
	rm -rf $(PVE)
	$(PVE_PYTHON) -m venv $(PVE)
	$(PVE)/bin/python $(LOCKED) -r $<
	$(PVE)/bin/python $(CHECK)
	touch $@

$(CLOUD)/cloud.stamp: tests/cloud/requirements.txt
	rm -rf $(CLOUD)
	$(PYTHON) -m venv $(CLOUD)
	$(CLOUD)/bin/python $(LOCKED) -r $<
	$(CLOUD)/bin/python $(CHECK)
	touch $@

$(LINT)/lint.stamp: requirements/build.txt requirements/lint.txt
	rm -rf $(LINT)
	$(PYTHON) -m venv $(LINT)
	$(LINT)/bin/python $(LOCKED) -r requirements/build.txt
	$(LINT)/bin/python $(LOCKED) $(BUILT) -r requirements/lint.txt
	$(LINT)/bin/python $(CHECK)
	touch $@

$(LOCK)/lock.stamp: requirements/lock.txt
	rm -rf $(LOCK)
	$(PYTHON) -m venv $(LOCK)
	$(LOCK)/bin/python $(LOCKED) -r $<
	$(LOCK)/bin/python $(CHECK)
	touch $@

$(ANSIBLE)/ansible.stamp: requirements/ansible.txt
	rm -rf $(ANSIBLE)
	$(PYTHON) -m venv $(ANSIBLE)
	$(ANSIBLE)/bin/python $(LOCKED) -r $<
	$(ANSIBLE)/bin/python $(CHECK)
	touch $@
