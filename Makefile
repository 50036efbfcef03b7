# PYTHON=python3.12 selects the interpreter; without it the first of these that is 3.11 or newer.
PYTHONS := python3.11 python3.12 python3.13 python3
VENV ?= .venv
STAMP := $(VENV)/.stamp
BIN := $(VENV)/bin
SAFETY := .venv-safety
OSRL := _build/osrl

# A python3 kernel installed for the user must not win over the one in the virtual environment.
export JUPYTER_PREFER_ENV_PATH := 1
unexport JUPYTER_PATH

.PHONY: book notebooks html test test-all test-slow test-notebooks test-osrl test-browser test-colab check-py312 safety test-safety lint links
.PHONY: bench bench-gpu bench-osrl bench-scale datasets studies suites set-repository clean .venv

book: # execute the stale notebooks (FORCE=1: all) and build the book
	@$(MAKE) --no-print-directory notebooks
	@$(MAKE) --no-print-directory html

notebooks: $(STAMP) # execute the stale notebooks (FORCE=1: all)
	$(BIN)/python book/execute.py $(if $(FORCE),--force)

html: $(STAMP) # build the book from the notebooks as they are
	$(BIN)/jupyter-book build --all --warningiserror --keep-going --quiet .
	$(BIN)/python book/check_html.py _build/html
	@echo "The book: file://$(CURDIR)/_build/html/index.html"

test: $(STAMP) # the fast tests
	$(BIN)/pytest -m "not slow and not browser and not colab"

test-all: test-slow test-notebooks # with -j2 both at once

test-slow: $(STAMP)
	$(BIN)/pytest -m slow

test-notebooks: $(STAMP) # none is stale; run each again, and compare the outputs that hold on every machine
	$(BIN)/python book/execute.py --check
	OMP_NUM_THREADS=1 $(BIN)/pytest --nbval-lax --nbval-current-env notebooks

test-osrl: $(OSRL)/.stamp # the baselines' losses against the benchmark's package, osrl-lib
	PYTHONPATH=$(OSRL) $(BIN)/pytest tests/baselines/test_baselines_osrl.py

check-py312: # make test with Python 3.12 in an environment of its own
	$(MAKE) test PYTHON=python3.12 VENV=.venv-3.12

safety: $(SAFETY)/.stamp # the environment of Safety-Gymnasium and MetaDrive, .venv-safety; needs Python 3.11

test-safety: safety # the tests of their tasks (TASKS="CarGoal1 or easydense": of some)
	$(SAFETY)/bin/python -m pytest $(if $(TASKS),-k "$(TASKS)") tests/safety

test-colab: $(STAMP) # the wheel in an environment like Colab's, and three notebooks there; PYTHON=python3.12: on that
	$(BIN)/pytest -m colab

AXE := 4.14.1
test-browser: html _build/axe/package/axe.min.js # every page of the built book in headless Chromium, by axe-core's rules too
	@(command -v chromium && command -v chromedriver) >/dev/null || (apt-get update && apt-get install --yes chromium chromium-driver) || \
	    (echo "This needs Chromium and its driver. On Debian: sudo apt-get install chromium chromium-driver"; exit 1)
	$(BIN)/pytest -m browser

_build/axe/package/axe.min.js:
	mkdir -p _build/axe
	cd _build/axe && npm pack --silent axe-core@$(AXE) && tar xzf axe-core-$(AXE).tgz

links: $(STAMP) # ask the pages that the book links to on other hosts for an answer; reports, and fails for none
	-$(BIN)/jupyter-book build --all --builder linkcheck --quiet --path-output _build/links . >_build/links.log 2>&1
	@cat _build/links/_build/html/output.txt
	@echo "Links without an answer, or moved, on other hosts: $$(wc -l <_build/links/_build/html/output.txt)"

lint: $(STAMP) # ruff, mypy, and the layers of the module
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) # speed of the training core: _build/bench.json
	$(BIN)/python benchmarks/core.py

# Without $(STAMP): it takes the torch that it finds, so that a borrowed machine with a card needs no installation.
bench-gpu: # what must hold on a CUDA device, and how fast it is there, in some 5 minutes: book/results/gpu.json
	PYTHONPATH=. $(or $(wildcard $(BIN)/python),python3) benchmarks/gpu.py

bench-osrl: $(OSRL)/.stamp # updates per second of the baselines beside osrl-lib's: _build/osrl_speed.csv
	PYTHONPATH=$(OSRL):book $(BIN)/python benchmarks/against_osrl.py

bench-scale: $(STAMP) # memory and time on large data: _build/scale.json
	$(BIN)/python benchmarks/scale.py

datasets: $(STAMP) # remake the packaged datasets
	for task in BallRun BallCircle CarCircle; do $(BIN)/python book/collect.py $$task || exit 1; done

studies: $(STAMP) # run the points of the book's studies that are missing in runs/studies, and write their tables
	$(BIN)/python book/studies.py all
	$(BIN)/python book/shift.py

suites: $(STAMP) safety # try all 38 tasks: book/results/suites.csv
	$(BIN)/python book/suites.py
	$(SAFETY)/bin/python book/suites.py

set-repository: $(STAMP) # URL=...: write the repository's address into every file that names it
	$(BIN)/python book/repository.py $(URL)

clean: # remove what was built; the virtual environments stay
	rm -rf _build build *.egg-info

.venv: $(STAMP) # the virtual environment alone

# Another interpreter asked for than the environment has: make it anew.
version = $(shell $(1) -c "import sys; print(*sys.version_info[:2])" 2>/dev/null)
ifdef PYTHON
ifneq ($(wildcard $(BIN)/python),)
ifneq ($(call version,$(PYTHON)),$(call version,$(BIN)/python))
CLEAR := --clear
.PHONY: $(STAMP)
endif
endif
endif

$(STAMP): pyproject.toml constraints.txt requirements-no-deps.txt
	@for python in $(or $(PYTHON),$(PYTHONS)); do \
	    $$python -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null && found=$$python && break; \
	done; \
	if [ -z "$$found" ]; then echo "No Python 3.11 or newer among: $(or $(PYTHON),$(PYTHONS))"; exit 1; fi; \
	if ! $$found -c "import venv, ensurepip" 2>/dev/null; then \
	    echo "$$found cannot make virtual environments. On Debian and Ubuntu: sudo apt-get install python3-venv"; exit 1; \
	fi; \
	set -x; $$found -m venv $(CLEAR) $(VENV)
# torch alone comes first, so that a CPU-only wheel installed by hand or by pip's settings is the one that stays.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bullet,book,sweep,baselines,tests]"
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-no-deps.txt
	$(BIN)/python -m ipykernel install --prefix $(VENV) --name python3 --display-name "Python 3" >/dev/null
	@touch $@

$(OSRL)/.stamp: $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps --target $(OSRL) --upgrade osrl-lib==0.1.0
	@touch $@

$(SAFETY)/.stamp: pyproject.toml requirements-no-deps.txt requirements-safety.txt requirements-safety-no-deps.txt
	@if ! python3.11 -c "import venv, ensurepip" 2>/dev/null; then \
	    echo "Safety-Gymnasium needs MuJoCo 2.3.3, which needs Python 3.11: no python3.11 that can make environments."; exit 1; \
	fi
	python3.11 -m venv $(SAFETY)
	$(SAFETY)/bin/python -m pip install --quiet --constraint requirements-safety.txt torch
	$(SAFETY)/bin/python -m pip install --quiet --requirement requirements-safety.txt
	$(SAFETY)/bin/python -m pip install --quiet --no-deps --requirement requirements-safety-no-deps.txt --editable .
	@touch $@
