# `make` alone prints this help. Everything installs into .venv and ~/.cache/inference-labs (LABS_CACHE).
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup model engines open-webui ray-serve scale-out scale-out-bench lab report test check drill lint gateway webui progress grade labs labs-check solutions bench bench-client bench-gateway bench-webui capacity compare doctor \
    verify-spark two-sparks compose lock down clean

export LABS_CACHE PYTHON
# Files are UTF-8, whatever the terminal is. shared/terminal.py makes output fit the terminal.
export PYTHONUTF8 := 1
# Container images often set this variable. Python then compiles every module again at each start, which took 16 of
# 28 seconds in each of the three processes of vLLM and SGLang. Unset, the compiled modules stay in .venv and the cache.
export PYTHONDONTWRITEBYTECODE :=
PY := .venv/bin/python

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:
	@sh environment/bootstrap.sh

model: setup # torch and the small model: all that `make check` needs
	@$(PY) -m environment.install torch models/smollm2-135m-instruct

engines: setup ## install the small model and all engines (images and weights where engines run in containers)
	@$(PY) -m environment.install

open-webui: setup ## install Open WebUI for lab 3.3.6, in an environment of its own (1 GB; optional)
	@$(PY) -m environment.install open-webui

ray-serve: setup # Ray Serve LLM, in an environment of its own (6.5 GB; optional)
	@$(PY) -m environment.install ray-serve

scale-out: ray-serve ## start Ray Serve LLM with two vLLM replicas; installs it first (6.5 GB; ARGS="--replicas 1")
	@$(PY) -m environment.scale_out.ray_serve.start $(ARGS)

lab: setup ## start here: open JupyterLab as soon as one engine is ready, and install the others meanwhile
	@$(PY) -m environment.start_jupyterlab

report: engines ## without a browser: run lab 3.3.1 and write results/report.html and results/report.md
	@$(PY) -m environment.run_notebook solutions/lab-3.3.1-engine-benchmark.ipynb

# Tests run the engines natively, also on a Spark. `make verify-spark` tests its containers.
test check drill: export LABS_PROFILE := cpu

# Tests that need no engine, or one on a single core, and compare no times run first, in one process more than there are
# cores, because many of them wait for something. The tests of a file run in one process: what they share is made once.
# The rest runs alone, one test after another: two engines on the same cores hold each other up for minutes.
# The notebooks of labs/ and solutions/ run at the quick size. The second set uses the engines and results of the first.
PYTEST := $(PY) -m pytest
TOGETHER := -q -n $(shell echo $$(($$(nproc) + 1))) --maxprocesses 4 --dist loadfile --no-loadscope-reorder
UNIT := not engine and not drill and not alone
ALONE := (engine or alone) and not drill
TESTS := $(if $(LAB),tests/course,tests)
NOTEBOOKS := $(if $(LAB),$(wildcard labs/lab-$(LAB)-*.ipynb solutions/lab-$(LAB)-*.ipynb),labs solutions)

test: engines open-webui lint ## test everything: lint, types, unit tests, real engines, notebooks (LAB=3.3.2: course and one lab)
	@$(if $(NOTEBOOKS),,echo "There is no lab $(LAB). Fix: name one that is in solutions/, as in make test LAB=3.3.2"; exit 2)
	@$(PY) -m environment.browser
	@$(PYTEST) $(TOGETHER) --durations=20 -m "$(UNIT)" $(TESTS)
	@results=$$(mktemp -d); trap 'rm -rf "$$results"' EXIT; \
	LABS_SIZE=quick LABS_RESULTS=$$results $(PYTEST) -m "$(ALONE)" --durations=50 \
	    -p tests.helpers.nbval_plugin --nbval-lax --nbval-current-env --nbval-cell-timeout 1200 $(TESTS) $(NOTEBOOKS)

check: model lint ## test what needs no engine: lint, types, unit tests (a few minutes)
	@$(PYTEST) $(TOGETHER) -m "$(UNIT) and not browser and not programs" tests
	@$(PYTEST) -q -m "$(ALONE) and not engine" tests

drill: engines ray-serve ## long tests: kernels, engines and writers are killed again and again; vLLM on three ranks
	@LABS_SIZE=quick $(PY) -m pytest -m drill tests

lint: setup
	@$(PY) -m ruff check --quiet . && $(PY) -m ruff format --quiet --check . && $(PY) -m mypy --no-error-summary

webui: export WEBUI_OLLAMA := $(WEBUI_OLLAMA)
webui: setup ## open lab 3.3.6's chat page in front of the labs' Ollama (WEBUI_OLLAMA=URL: another one; TREE=labs)
	@$(PY) -m environment.start_webui $(if $(TREE),--tree "$(TREE)") $(ARGS)

gateway: setup ## put the gateway in front of the running engines (ENGINE=llamacpp: start one, too; URL=...; TREE=labs)
	@$(PY) -m environment.start_gateway $(if $(ENGINE),--engine "$(ENGINE)") $(if $(URL),--url "$(URL)") \
	    $(if $(TREE),--tree "$(TREE)")

progress: setup ## show your progress: the milestones of all six labs
	@$(PY) -m shared.course.milestones

grade: setup ## (for instructors) grade students' results and notebooks: make grade FOLDER=submissions
	@$(PY) -m shared.course.grading.grade "$(FOLDER)" $(ARGS)

labs: setup ## (for instructors) write labs/ from solutions/
	@$(PY) -m shared.course.authoring

labs-check: setup ## (for instructors) check that labs/ matches solutions/
	@$(PY) -m shared.course.authoring --check

solutions: engines labs ## (for instructors) write labs/, run the solutions at full size, keep their outputs
	@for notebook in solutions/*.ipynb; do $(PY) -m environment.run_notebook --in-place $$notebook || exit 1; done

bench-client: setup ## measure the error and the cost of the labs' client, aiohttp, httpx and the openai SDK (4 minutes)
	@$(PY) -m tests.bench.client $(ARGS)

bench-gateway: setup ## measure our gateway beside a naive one, LiteLLM and vLLM's router (6 minutes; ARGS=--quick)
	@$(PY) -m tests.bench.gateway $(ARGS)

bench-webui: open-webui ## measure our chat page beside a naive one and Open WebUI in Chromium (5 minutes; ARGS=--quick)
	@$(PY) -m tests.bench.webui_render $(ARGS)

scale-out-bench: ray-serve ## measure replicas of Ray Serve LLM, and the gateway before two servers (45 minutes; ARGS=--quick)
	@$(PY) -m tests.bench.scale_out $(ARGS)

bench: engines bench-client ## run bench-client, then compare vLLM's own benchmark client with the labs' client
	@$(PY) -m tests.bench.cross

# Only what stands on the command line counts: a shell may have a variable OUTPUT or USERS of its own.
CAPACITY := USERS PROMPT OUTPUT TTFT TPOT THINK SHARE ENGINE PER_MACHINE
capacity: setup ## engines and machines for your users, from your results: make capacity USERS=200 THINK=30 (ARGS=--help)
	@$(PY) -m environment.capacity $(ARGS) $(foreach name,$(CAPACITY),$(if $(filter command,$(origin $(name))),"$(name)=$($(name))"))

compare: setup ## show two ledgers side by side: make compare A=results B=other/results (ARGS="--html FILE")
	@$(PY) -m shared.report.compare "$(A)" "$(B)" $(ARGS)

doctor: setup ## check this machine, with a fix for each failed check (ARGS=--json, ARGS=--symptoms)
	@$(PY) -m shared.hardware.doctor $(ARGS)

verify-spark: setup ## on a DGX Spark: check each engine's container and write a ledger (ARGS="vllm": only this one)
	@$(PY) -m environment.verify_spark $(ARGS)

two-sparks: setup ## write the scripts that serve one model on two DGX Sparks (ARGS=--check: only check both machines)
	@$(PY) -m environment.scale_out.two_sparks $(ARGS)

compose: setup ## write environment/containers/compose.yaml from the engines' specs
	@$(PY) -m environment.compose

lock: setup ## write every lock file anew (ARGS=--upgrade: with the newest versions)
	@$(PY) -m environment.locks $(ARGS)

down: setup ## end all engines that the labs started
	@$(PY) -m shared.launch down

# A disk's folder "models" may hold other models, too: only those that a step of the set-up has made are removed.
clean: ## remove .venv and what is in the labs' cache (engines, small model); keep results
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache *.egg-info
	@cache=$$(sh environment/cache_folder.sh) || exit 1; [ -d "$$cache" ] || { echo "no cache in $$cache"; exit 0; }; \
	cd "$$cache" && rm -rf engines prefill-engines detached-builds open-webui* ray-serve* models/ollama build-tools* bench \
	    tools torchinductor logs run && { [ ! -d models ] || { \
	    find models -maxdepth 1 -regextype posix-extended -regex '.*-[0-9a-f]{12}(\.partial)?' -exec rm -rf {} + && \
	    find models -maxdepth 1 -xtype l -delete && rmdir --ignore-fail-on-non-empty models; }; } && \
	    echo "removed what was in $$cache"
