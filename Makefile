# `make` alone lists the commands. Everything is installed into .venv, at the versions of constraints.txt.

# The first of these that is there and new enough; `make serve PYTHON=/path/to/python3.12` chooses another one.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$python && break; done)
# Where torch comes from. Empty: the index that pip uses anyway, whose Linux wheel carries CUDA (several GB). Without a GPU
# https://download.pytorch.org/whl/cpu has a small one.
TORCH_INDEX_URL ?=
# Flags of `make serve`, such as ARGS="--address 0.0.0.0:8080". UMEKOMI_* variables are passed on anyway.
ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt
COMPOSE ?= docker compose
# How long `make up` waits for a model.
READY_WITHIN_S ?= 300

.DEFAULT_GOAL := help
.PHONY: help serve test check format bench up down constraints readme clean

help:
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20

serve: .venv/installed ## run everything on this machine (http://127.0.0.1:8080); Ctrl-C stops it
	@exec $(BIN)/umekomi serve $(ARGS)

test: check .venv-clients/installed .venv-frameworks/installed tests/clients/node/node_modules/installed ## everything that CI runs: the checks, then every test
	$(BIN)/pytest

check: .venv/installed-dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed-dev ## measure: bulk against the library, latency, memory, a million rows, faults (20 minutes)
	$(BIN)/python -m bench.bulk
	$(BIN)/python -m bench.sync
	$(BIN)/python -m bench.memory
	$(BIN)/python -m bench.million
	$(BIN)/python -m bench.start
	$(BIN)/python -m bench.chaos --minutes 2

up: ## Valkey, web and a worker in containers, in the background (http://127.0.0.1:8080)
	$(COMPOSE) up --build --detach
	@echo "Loading the model. Ctrl-C ends this waiting and nothing else."
	@end=$$(( $$(date +%s) + $(READY_WITHIN_S) )); \
	until $(COMPOSE) exec -T worker python -m cli.health worker-ready > /dev/null 2>&1; do \
		test $$(date +%s) -lt $$end || { echo "No model after $(READY_WITHIN_S) s. Why: $(COMPOSE) logs worker"; exit 1; }; \
		sleep 1; \
	done
	@address=$$($(COMPOSE) port web 8080); \
	case $$address in *.*:*) ;; *) address=127.0.0.1:$${address##*:} ;; esac; \
	url=http://$$address; printf '%s\n' "umekomi is ready: $$url" \
		"curl $$url/v1/embeddings -H 'Content-Type: application/json' -d '{\"model\": \"all-MiniLM-L6-v2\", \"input\": \"Hello\"}'" \
		"What it says: $(COMPOSE) logs -f. To stop it: make down"

down: ## stop the containers; jobs and results stay in their volume
	$(COMPOSE) down

constraints: .venv/installed-dev ## pin what .venv holds now, in constraints.txt
	deploy/pin.sh $(BIN)/python > constraints.txt.new
	mv constraints.txt.new constraints.txt

readme: .venv/installed-dev ## write docs/settings.md and the table of docs/metrics.md anew
	$(BIN)/python -m tests.support.readme
	$(BIN)/python -m tests.support.metrics_page

clean: ## remove .venv and every cache; data stays
	rm -rf .venv .venv-clients .venv-frameworks tests/clients/node/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Torch on its own and first: whichever build of the pinned version is there, the rest is content with it.
.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "umekomi needs Python 3.11, 3.12 or 3.13. On Debian or Ubuntu: sudo apt install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make a virtual environment. On Debian or Ubuntu: sudo apt install $(notdir $(PYTHON))-venv"; exit 1; }
	@test -x $(BIN)/python || { rm -rf .venv; $(PYTHON) -m venv .venv; }
	$(if $(TORCH_INDEX_URL),$(PIP) --no-deps --index-url $(TORCH_INDEX_URL) torch,$(PIP) torch)
	$(PIP) --editable '.[worker,embedded]'
	@touch $@

# Clients that the tests try the API with, apart from .venv: they want other versions of what is pinned there.
.venv-clients/installed: tests/clients/requirements.txt .venv/installed
	@test -x .venv-clients/bin/python || { rm -rf .venv-clients; $(BIN)/python -m venv .venv-clients; }
	.venv-clients/bin/python -m pip --disable-pip-version-check install --quiet --requirement tests/clients/requirements.txt
	@touch $@

.venv-frameworks/installed: tests/clients/requirements-frameworks.txt .venv/installed
	@test -x .venv-frameworks/bin/python || { rm -rf .venv-frameworks; $(BIN)/python -m venv .venv-frameworks; }
	.venv-frameworks/bin/python -m pip --disable-pip-version-check install --quiet --only-binary :all: \
		--requirement tests/clients/requirements-frameworks.txt
	@touch $@

# Without Node its client is not tried.
tests/clients/node/node_modules/installed: tests/clients/node/package.json tests/clients/node/package-lock.json
	@mkdir -p $(@D)
	if command -v npm > /dev/null; then cd tests/clients/node && npm ci --silent --no-audit --no-fund; fi
	@mkdir -p $(@D) && touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable '.[worker,embedded,s3,otel,dev]'
	@touch $@
