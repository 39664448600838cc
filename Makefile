# Everything sets up what it needs: python3 (3.11 or later, with venv and pip) and make are enough.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# One environment is written at a time.
.NOTPARALLEL:

PYTHON ?= python3
PYTEST_ARGS ?=
CHAOS_ARGS ?=
DEMO_ARGS ?=
UP_ARGS ?=
EXAMPLES_ARGS ?=
SAM_INVOKE_ARGS ?=

VENV := .venv
PIP_INSTALL := -m pip --quiet --disable-pip-version-check install
# A lock names all that it needs; pip's own resolver stumbles over extras in it (boto3, boto3[crt]).
LOCKED := --no-deps --require-hashes
LOCAL := $(VENV)/.local
DEV := $(VENV)/.dev
PROJECT := $(VENV)/.project
# The examples see the public SDK and nothing of this repository.
EXAMPLES_VENV := .cache/examples
EXAMPLES := $(EXAMPLES_VENV)/.installed
SAM_VENV := .tools/sam
SAM := $(SAM_VENV)/.installed
SAM_CLI := $(CURDIR)/$(SAM_VENV)/bin/sam
# Two scanners run on Node.js. Where they can't be had, `make check` says so and goes on, and `make scan` stops.
NPM := $(shell command -v npm 2>/dev/null)
ASL_VALIDATOR := .tools/asl-validator/.installed
CDK_NAG := .tools/cdk-nag/.installed

export SAM_CLI_TELEMETRY := 0
export PIP_ROOT_USER_ACTION := ignore

.PHONY: help demo up examples test test-slow check scan format docs bench chaos sam-build sam-invoke clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(LOCAL) $(PROJECT) ## Train, judge and tear down on handwritten digits, on this machine alone
	@$(VENV)/bin/dropmill demo $(DEMO_ARGS)

up: $(LOCAL) $(PROJECT) ## Serve the embedded cloud until Ctrl-C
	@$(VENV)/bin/dropmill up $(UP_ARGS)

examples: $(LOCAL) $(PROJECT) $(EXAMPLES) ## Run the examples on all of DROPMILL_MNIST, and hold them to their targets
	@$(VENV)/bin/dropmill exec --cloud own -- $(EXAMPLES_VENV)/bin/python examples/all.py \
	  --pictures .cache/pictures $(EXAMPLES_ARGS)

# The files of the fewest tests take longest, whole workflows: in the folders' own order they don't come last, one by one.
test: $(DEV) $(PROJECT) $(SAM) ## All tests but the slow ones
	$(VENV)/bin/pytest -n auto --maxprocesses 3 --dist loadfile --no-loadscope-reorder -m "not slow" $(PYTEST_ARGS)

test-slow: $(DEV) $(PROJECT) $(SAM) ## The slow tests
	$(VENV)/bin/pytest -m slow $(PYTEST_ARGS)

check: $(DEV) $(PROJECT) $(SAM) ## Lint, formatting, types, and the template as written and as CloudFormation gets it
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(SAM_CLI) validate --lint
	$(VENV)/bin/cfn-lint template.yaml
	@mkdir -p .cache
	$(VENV)/bin/python -m localaws.template translate template.yaml > .cache/translated.json
	$(VENV)/bin/cfn-lint .cache/translated.json
	@test -z "$(NPM)" || $(MAKE) --no-print-directory $(ASL_VALIDATOR) || true
	$(VENV)/bin/python tools/scan/check.py workflows

scan: $(DEV) $(PROJECT) $(CDK_NAG) ## Hold the translated template against the rules of cdk-nag; needs Node.js
	$(VENV)/bin/python tools/scan/check.py template

format: $(DEV) ## Format the code and mend what the linter can mend
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

docs: $(DEV) $(PROJECT) ## Write anew what tests check: docs/formats.md, the keys in docs/recipes.md and their schema
	DROPMILL_WRITE_DOCS=1 $(VENV)/bin/pytest -q tests/unit/test_formats_table.py tests/unit/test_recipe_schema.py

chaos: $(DEV) $(PROJECT) ## Run workflows by the hundred while calls, events and jobs fail, and show what is left: nothing
	$(VENV)/bin/python tests/chaos $(CHAOS_ARGS)

bench: $(DEV) $(PROJECT) ## Measure the codec, the conversion and, on DROPMILL_MNIST, the algorithms
	$(VENV)/bin/python -m benchmarks

sam-build: $(LOCAL) $(PROJECT) $(SAM) ## Build what `sam deploy` uploads, and say how large it is; needs python3.13 on PATH
	@$(VENV)/bin/python -m tools.sam build

sam-invoke: $(LOCAL) $(PROJECT) $(SAM) ## Run every function in the Lambda runtime's container; needs Docker
	@$(VENV)/bin/python -m tools.sam invoke $(SAM_INVOKE_ARGS)

clean: ## Remove all that was installed, built or cached here
	rm -rf $(VENV) .tools .aws-sam .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is older than 3.11: run make PYTHON=<a newer one>" >&2; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# dev.txt holds all of local.txt at the same versions.
$(DEV): requirements/dev.txt | $(VENV)/bin/python
	@echo "installing $<"
	@$(VENV)/bin/python $(PIP_INSTALL) $(LOCKED) -r $<
	@touch $@ $(LOCAL)

$(LOCAL): requirements/local.txt | $(VENV)/bin/python
	@echo "installing $<"
	@$(VENV)/bin/python $(PIP_INSTALL) $(LOCKED) -r $<
	@touch $@

# The build backend is one of the locked requirements, so that nothing unlocked is fetched.
$(PROJECT): pyproject.toml
	@$(VENV)/bin/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(EXAMPLES): examples/requirements.txt
	@echo "installing $<"
	@test -x $(EXAMPLES_VENV)/bin/python || $(PYTHON) -m venv $(EXAMPLES_VENV)
	@$(EXAMPLES_VENV)/bin/python $(PIP_INSTALL) $(LOCKED) -r $<
	@touch $@

$(ASL_VALIDATOR) $(CDK_NAG): .tools/%/.installed: tools/scan/%/package-lock.json
	@test -n "$(NPM)" || { echo "$* runs on Node.js: install Node.js 20 with npm" >&2; exit 1; }
	@echo "installing $*"
	@mkdir -p $(@D)
	@cp tools/scan/$*/package*.json $(@D)/
	@npm ci --prefix $(@D) --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
	@touch $@

# SAM CLI pins much of what it uses, so it gets an environment of its own.
$(SAM): requirements/sam.txt
	@echo "installing $<"
	@test -x $(SAM_VENV)/bin/python || $(PYTHON) -m venv $(SAM_VENV)
	@$(SAM_VENV)/bin/python $(PIP_INSTALL) $(LOCKED) -r $<
	@touch $@
