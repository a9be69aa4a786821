# `make` alone prints this help. Everything installs into .venv and ~/.cache/inference-labs (LABS_CACHE).
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup model engines lab report test check drill lint progress grade labs labs-check solutions bench bench-client compare doctor \
    verify-spark compose lock down clean

export LABS_CACHE PYTHON
# Where this is set (container images often do), Python compiles each module again at each start: that took 16 of
# 28 seconds in each of the three processes of vLLM and SGLang. Once kept in .venv and the cache, it serves all.
export PYTHONDONTWRITEBYTECODE :=
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
PY := .venv/bin/python

help: ## this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:
	@environment/bootstrap.sh

model: setup # what `make check` needs and no engine
	@$(PY) -m environment.install torch models/smollm2-135m-instruct

engines: setup ## install the small model and every engine (again: does nothing, fast)
	@$(PY) -m environment.install

lab: setup ## the course: JupyterLab opens as soon as one engine is ready, the others follow
	@$(PY) -m environment.start_jupyterlab

report: engines ## the main job without a browser: run lab 3.3.1, write results/report.html and .md
	@$(PY) -m environment.run_notebook solutions/lab-3.3.1-engine-benchmark.ipynb

# The engines of the tests run natively, on a Spark as well: `make verify-spark` is what tries its containers.
test check drill: export LABS_PROFILE := cpu

# Tests that start no engine and compare no times run first, on all cores; the others have the machine to themselves.
# Both trees of notebooks run, at the quick size; the second goes on with the engines and the results of the first.
PYTEST := $(PY) -m pytest
UNIT := not engine and not browser and not drill
TESTS := $(if $(LAB),tests/course,tests)
NOTEBOOKS := $(if $(LAB),$(wildcard labs/lab-$(LAB)-*.ipynb solutions/lab-$(LAB)-*.ipynb),labs solutions)

test: engines lint ## everything: lint, types, unit tests, real engines, notebooks (LAB=3.3.2: only what is of this lab)
	@$(if $(NOTEBOOKS),,echo "There is no lab $(LAB) yet."; exit 2)
	@$(PY) -m environment.browser
	@$(PYTEST) -q -n logical --maxprocesses 4 -m "$(UNIT) and not alone" $(TESTS)
	@results=$$(mktemp -d); trap 'rm -rf "$$results"' EXIT; \
	LABS_SIZE=quick LABS_RESULTS=$$results $(PYTEST) -m "not drill and (not ($(UNIT)) or alone)" --durations=50 \
	    -p tests.helpers.nbval_plugin --nbval-lax --nbval-current-env --nbval-cell-timeout 1200 $(TESTS) $(NOTEBOOKS)

check: model lint ## lint, types, unit tests: a few minutes, starts no engine
	@$(PYTEST) -q -n logical --maxprocesses 4 -m "$(UNIT) and not alone" tests
	@$(PYTEST) -q -m "$(UNIT) and alone" tests

drill: engines ## long fault runs: kernels, engines and writers killed at random moments, again and again; vLLM on three ranks
	@LABS_SIZE=quick $(PY) -m pytest -m drill tests

lint: setup
	@$(PY) -m ruff check --quiet . && $(PY) -m ruff format --quiet --check . && $(PY) -m mypy --no-error-summary

progress: setup ## how far you are: the milestones of all six labs
	@$(PY) -m shared.course.milestones

grade: setup ## (for instructors) students' results and notebooks: make grade FOLDER=submissions
	@$(PY) -m shared.course.grading.grade "$(FOLDER)" $(ARGS)

labs: setup ## (for instructors) write labs/ anew from solutions/
	@$(PY) -m shared.course.authoring

labs-check: setup ## (for instructors) is labs/ as solutions/ say?
	@$(PY) -m shared.course.authoring --check

solutions: engines labs ## (for instructors) run the solutions at full size and keep their outputs
	@for notebook in solutions/*.ipynb; do $(PY) -m environment.run_notebook --in-place $$notebook || exit 1; done

bench-client: setup ## how far our client errs and what it costs, beside aiohttp, httpx and the openai SDK (4 minutes)
	@$(PY) -m tests.bench.client $(ARGS)

bench: engines bench-client ## that, and vLLM's own benchmark client against the same server
	@$(PY) -m tests.bench.cross

compare: setup ## two ledgers side by side, a laptop's and a Spark's, say: make compare A=results B=other/results (ARGS="--html FILE")
	@$(PY) -m shared.report.compare "$(A)" "$(B)" $(ARGS)

doctor: setup ## check this machine; each failed check says how to fix it (ARGS=--json, ARGS=--symptoms)
	@$(PY) -m shared.hardware.doctor $(ARGS)

verify-spark: setup ## on a DGX Spark: start every engine's container, check it, write a ledger (ARGS="vllm": only these)
	@$(PY) -m environment.verify_spark $(ARGS)

compose: setup ## write environment/containers/compose.yaml anew from the engines' specs
	@$(PY) -m environment.compose

lock: setup ## renew every lock file (ARGS=--upgrade: newest versions)
	@$(PY) -m environment.locks $(ARGS)

down: setup ## end every engine that the labs started
	@$(PY) -m shared.launch down

clean: ## remove .venv, engines and converted weights (results stay)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache *.egg-info
	cd $${LABS_CACHE:-$$HOME/.cache/inference-labs} 2>/dev/null && rm -rf engines models build-tools tools logs run || true
