# Two commands matter: `make run` and `make test`. `make help` lists the rest.
VENV := .venv
BIN := $(VENV)/bin
# What a Python has to have, beside its version. One that is on the PATH may not work: the shim of a version that pyenv
# has not selected, Debian's without python3-venv, one that was built without the libraries of ssl or sqlite3.
WORKS := import ensurepip, sqlite3, ssl, sys, venv; sys.exit(sys.version_info < (3, 11))
# The newest on the PATH that works; `make run PYTHON=/path/to/python3` names another.
PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 python3.11 python3 python; do \
	$$python -c '$(WORKS)' 2>/dev/null && { command -v $$python; break; }; done)
# An environment whose Python is gone is made anew.
ifneq ($(shell test -x $(BIN)/python && echo works),works)
$(shell rm -f $(VENV)/.installed $(VENV)/.installed-test)
endif
# Run apt-get only where that needs no password.
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo yes)

.DEFAULT_GOAL := help
.PHONY: help run install test test-fast install-test system-packages check tests faults cuts autobahn bench bench-peers openapi clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

run: install ## Start the service; the first time, also set it up
	@echo "Running on $$($(BIN)/python --version), which is in $(VENV)."
	@exec $(BIN)/python manage.py serve --set-up

# Neither waits for the other: mypy keeps one core busy for long, and the tests wait more often than they work.
test: install-test ## Install what the tests need, check, and run all tests
	@$(MAKE) --no-print-directory --jobs=2 check tests

install: $(VENV)/.installed

$(VENV)/bin/python:
	@python="$(PYTHON)"; \
	test -n "$$python" || { echo "Hubwire needs Python 3.11 or newer with its venv module, and none on the PATH works. On Debian and Ubuntu: sudo apt-get install python3-venv. One that is elsewhere: make run PYTHON=/path/to/python3" >&2; exit 1; }; \
	"$$python" -c '$(WORKS)' 2>/dev/null || { echo "PYTHON=$$python is not a Python of version 3.11 or newer with its venv module. Name another, or leave PYTHON out for the newest on the PATH." >&2; exit 1; }; \
	echo "Using $$("$$python" --version) ($$python)"; \
	"$$python" -m venv --clear $(VENV)

$(VENV)/.installed: requirements.txt constraints.txt | $(VENV)/bin/python
	@echo "Installing what Hubwire runs on (once) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	@touch $@

# By uv, which takes a fifth of pip's time for so many packages. It does not read pip's configuration: where that names
# another index, pip does it.
$(VENV)/.installed-test: requirements.txt requirements-dev.txt constraints.txt | $(VENV)/bin/python
	@echo "Installing what the tests need (once) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv -c constraints.txt
	@what="--quiet -r requirements-dev.txt -c constraints.txt"; \
	$(BIN)/uv pip install --no-config --compile-bytecode --python $(BIN)/python $$what || \
		$(BIN)/python -m pip install --disable-pip-version-check $$what
	@touch $@ $(VENV)/.installed

tests/node/node_modules/.installed: tests/node/package.json tests/node/package-lock.json
	@command -v npm >/dev/null || { echo "The tests drive the official JavaScript SDKs and need Node 20 or newer with npm. On Debian and Ubuntu: sudo apt-get install nodejs npm" >&2; exit 1; }
	@npm ci --prefix tests/node --no-audit --no-fund --silent
	@touch $@

# Chromium for the browser tests, a JDK for the Java client; both from the system's packages.
system-packages:
	@missing=""; \
	command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || missing="chromium"; \
	command -v java >/dev/null || missing="$$missing default-jdk-headless"; \
	PATH="$$PATH:/usr/sbin:/usr/local/sbin" command -v nginx >/dev/null || missing="$$missing nginx-light"; \
	if [ -n "$$missing" ] && [ "$(AS_ROOT)" = yes ]; then \
		echo "Installing$$(printf ' %s' $$missing) …"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; \
	elif [ -n "$$missing" ]; then \
		echo "The tests also need:$$(printf ' %s' $$missing). On Debian and Ubuntu: sudo apt-get install$$(printf ' %s' $$missing)" >&2; exit 1; \
	fi

install-test: system-packages $(VENV)/.installed-test tests/node/node_modules/.installed ## Install what the tests need

check: $(VENV)/.installed-test ## Format, lint, types, import directions, migrations
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python manage.py makemigrations --check --dry-run
	@$(BIN)/python manage.py check --fail-level WARNING

# Else each of the five would compile all tests, at the same time. Whatever is wrong with them the run itself will say.
$(VENV)/.compiled: $(VENV)/.installed-test
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --collect-only -qq >/dev/null 2>&1 || true
	@touch $@

# A module's tests stay in one process, so that each starts its servers once. More than half of their time is waiting:
# five processes keep two cores busy. What one of them has compiled the others read, and the programs that they start.
tests: install-test $(VENV)/.compiled ## Run the tests alone
	@MAKEFLAGS= PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 5 --dist loadscope --no-loadscope-reorder $(TESTS)

# What needs no server, no database and no Redis.
FAST := tests/rules tests/protocols tests/registry tests/cluster tests/node/test_ownership.py tests/node/test_takeovers.py
test-fast: $(VENV)/.installed-test ## Run the tests of the core alone, in less than a minute
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(FAST)

# LANE names one of the failures or more, OTHER the other version of the lanes that have two: a checkout or a git revision.
LANE ?= all
faults: $(VENV)/.installed-test ## Let processes and Redis fail under reliable clients, and count what arrives (LANE=kill; OTHER=v1.0 for lanes with two versions)
	@$(BIN)/python -m tests.faults $(LANE) $(if $(OTHER),--other=$(OTHER))

cuts: $(VENV)/.installed-test ## The same for clients' connections: 200 clients are cut off for minutes
	@$(BIN)/python -m tests.faults cuts

# Autobahn's fuzzing client runs on Python 2.7 alone, and so does what it needs; virtualenv 20.15 is the last that makes
# environments for that.
PYTHON27 ?= $(shell for python in python2.7 $$HOME/.pyenv/versions/2.7.*/bin/python2.7; do \
	$$python -m pip --version >/dev/null 2>&1 && { command -v $$python; break; }; done)
AUTOBAHN := tests/autobahn/.venv

$(AUTOBAHN)/.installed: tests/autobahn/requirements.txt
	@test -n "$(PYTHON27)" || { echo "Autobahn's fuzzing client needs Python 2.7 with pip, and there is none on the PATH or among those of pyenv. Install it (pyenv install 2.7.18), or name yours: make autobahn PYTHON27=/path/to/python2.7" >&2; exit 1; }
	@"$(PYTHON27)" -m pip --version >/dev/null 2>&1 || { echo "$(PYTHON27) does not run, or has no pip. It can be had by: $(PYTHON27) -m ensurepip" >&2; exit 1; }
	@echo "Installing Autobahn's fuzzing client (once) …"
	@rm -rf $(AUTOBAHN) && mkdir -p $(AUTOBAHN)/tool
	@"$(PYTHON27)" -m pip install --quiet --disable-pip-version-check --target $(AUTOBAHN)/tool virtualenv==20.15.1
	@PYTHONPATH=$(AUTOBAHN)/tool "$(PYTHON27)" -m virtualenv --quiet $(AUTOBAHN)
	@$(AUTOBAHN)/bin/pip install --quiet --disable-pip-version-check -r tests/autobahn/requirements.txt
	@touch $@

autobahn: $(VENV)/.installed-test $(AUTOBAHN)/.installed ## Try the WebSocket with Autobahn's 301 cases (needs Python 2.7; minutes)
	@$(BIN)/python -m tests.autobahn $(AUTOBAHN)/bin/wstest

# The servers that Hubwire is measured beside. What cannot be installed is left out of the run, which says so.
bench/peers/node_modules/.installed: bench/peers/package.json bench/peers/package-lock.json
	@if command -v npm >/dev/null; then \
		echo "Installing Socket.IO and uWebSockets to be measured beside (once) …"; \
		{ npm ci --prefix bench/peers --no-audit --no-fund --silent && touch $@; } || echo "Socket.IO and uWebSockets could not be installed." >&2; \
	else \
		echo "Socket.IO and uWebSockets need Node 20 or newer with npm. On Debian and Ubuntu: sudo apt-get install nodejs npm" >&2; \
	fi

bench-peers: bench/peers/node_modules/.installed ## Install the servers that the bench compares with
	@missing=""; look="$$PATH:/usr/local/sbin:/usr/sbin:/sbin"; \
	PATH="$$look" command -v nginx >/dev/null || missing="nginx-light"; \
	ls /usr/lib*/nginx/modules/ngx_nchan_module.so >/dev/null 2>&1 || missing="$$missing libnginx-mod-nchan"; \
	PATH="$$look" command -v nats-server >/dev/null || missing="$$missing nats-server"; \
	PATH="$$look" command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	if [ -n "$$missing" ] && [ "$(AS_ROOT)" = yes ]; then \
		echo "Installing$$(printf ' %s' $$missing) …"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; \
	elif [ -n "$$missing" ]; then \
		echo "To be measured beside, these are missing:$$(printf ' %s' $$missing). On Debian and Ubuntu: sudo apt-get install$$(printf ' %s' $$missing)" >&2; \
	fi

bench: $(VENV)/.installed-test bench-peers ## Measure everything, beside other servers (25 minutes)
	@$(BIN)/python -m bench

openapi: $(VENV)/.installed ## Write docs/openapi anew, after a change of an HTTP API
	@$(BIN)/python manage.py openapi

clean: ## Remove what was installed and built (not var/, where your data is)
	rm -rf $(VENV) $(AUTOBAHN) tests/node/node_modules bench/peers/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis test-results
