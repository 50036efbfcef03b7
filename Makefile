# PYTHON=python3.12 selects the interpreter; without it the first of these that is 3.11 or newer.
PYTHONS := python3.11 python3.12 python3.13 python3
VENV ?= .venv
STAMP := $(VENV)/.stamp
BIN := $(VENV)/bin
SAFETY := .venv-safety
OSRL := _build/osrl
TOOLS := _build/tools
EXTRAS := bullet,book,sweep,baselines,tests

# A python3 kernel installed for the user must not win over the one in the virtual environment.
export JUPYTER_PREFER_ENV_PATH := 1
unexport JUPYTER_PATH

.PHONY: book notebooks html test test-all test-exercises test-slow test-notebooks test-osrl test-browser d3 test-colab check-py312 check-py313 safety test-safety lint links
.PHONY: lock audit wheel bench bench-gpu bench-osrl bench-scale datasets studies suites set-repository clean .venv

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

test-all: test-exercises test-notebooks test-slow # with -j2 two at once, the longest first

test-exercises: $(STAMP) # the chapters again: every stub must fail its checks, every solution pass them, outputs be the same
	$(BIN)/pytest -m slow tests/book/test_exercises.py

test-slow: $(STAMP)
	$(BIN)/pytest -m slow --ignore tests/book/test_exercises.py

test-notebooks: $(STAMP) # none is stale; nbval runs those without exercises again, and compares what holds on every machine
	$(BIN)/python book/execute.py --check
	OMP_NUM_THREADS=1 $(BIN)/pytest --nbval-lax --nbval-current-env $$(grep -L '"exercise"' notebooks/*.ipynb)

test-osrl: $(OSRL)/.stamp # the baselines' losses against the benchmark's package, osrl-lib
	PYTHONPATH=$(OSRL) $(BIN)/pytest tests/baselines/test_baselines_osrl.py

check-py312: # make test with Python 3.12 in an environment of its own
	$(MAKE) test PYTHON=python3.12 VENV=.venv-3.12

check-py313: # make test and the Colab test with Python 3.13 and Colab's versions
	$(MAKE) test test-colab PYTHON=python3.13 VENV=.venv-3.13

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

# D3's modules as of its release 7.9.0, with what they need.
D3 := d3-array@3.2.4 d3-axis@3.0.0 d3-color@3.1.0 d3-dispatch@3.0.1 d3-drag@3.0.0 d3-format@3.1.0 d3-interpolate@3.0.1 \
    d3-path@3.1.0 d3-scale@4.0.2 d3-selection@3.0.0 d3-shape@3.2.0 d3-time@3.1.0 d3-time-format@4.1.0 internmap@2.0.3
D3_NAMES := array:extent,groups,max,mean axis:axisBottom,axisLeft drag:drag scale:scaleLinear selection:pointer,select \
    shape:curveStepAfter,line,symbol,symbolCircle,symbolCross,symbolDiamond2,symbolSquare,symbolTimes
d3: # book/d3.js: the part of D3 that the interactive figures use, as one script
	mkdir -p _build/d3
	cd _build/d3 && npm install --silent --no-audit --no-fund --no-save $(D3) esbuild@0.28.2
	for module in $(D3_NAMES); do echo "export {$${module#*:}} from 'd3-$${module%:*}';"; done >_build/d3/entry.js
	(echo "/* Part of D3 7.9.0 (ISC licence), made by: make d3"; echo; cat _build/d3/node_modules/d3-array/LICENSE; echo "*/"; \
	    cd _build/d3 && npx esbuild entry.js --bundle --minify --format=iife --global-name=d3 \
	    --footer:js="globalThis.d3=d3;") >_build/d3.js
	mv _build/d3.js book/d3.js

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

# From the commit alone, with its time and modes that are the same everywhere.
wheel: # dist/: the last commit as a wheel, the same bytes each time
	rm -rf _build/wheel
	umask 022 && mkdir -p _build/wheel && git -c tar.umask=0022 archive HEAD | tar x -C _build/wheel
	umask 022 && SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) \
	    $(or $(PYTHON),$(wildcard $(BIN)/python),python3) -m pip wheel --quiet --no-deps --wheel-dir dist _build/wheel

# torch is not in it, see constraints.txt, nor is triton, which torch brings in the version that it needs.
COMPILE := $(TOOLS)/bin/uv pip compile --quiet --universal --python-version 3.11.5 --generate-hashes --no-emit-index-url \
    --no-annotate --no-header
lock: $(TOOLS)/.stamp # requirements.lock from pyproject.toml and constraints.txt; UPGRADE=1: the newest versions
	printf '%s; python_version < "3"\n' torch triton >_build/without.txt
	cp requirements.lock _build/lock.txt
	$(COMPILE) $(if $(UPGRADE),--upgrade) --all-extras --constraint constraints.txt --override _build/without.txt \
	    --output-file _build/lock.txt pyproject.toml
	(echo "# Made by: make lock"; cat _build/lock.txt; $(COMPILE) --no-deps requirements-no-deps.txt) >_build/new.lock
	mv _build/new.lock requirements.lock

audit: $(STAMP) $(TOOLS)/.stamp # licences.csv, and what is known against the locked versions
	$(TOOLS)/bin/pip-licenses --python $(BIN)/python --with-system --from=mixed --format=csv --order=name \
	    --output-file licences.csv --packages $$(sed -n 's/^\([a-z0-9-]*\)==.*/\1/p' requirements.lock constraints.txt)
	$(TOOLS)/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

$(TOOLS)/.stamp:
	python3 -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet uv==0.13.9 pip-audit==2.10.1 pip-licenses==5.5.5
	@touch $@

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

$(STAMP): pyproject.toml constraints.txt requirements.lock
	@for python in $(or $(PYTHON),$(PYTHONS)); do \
	    $$python -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null && found=$$python && break; \
	done; \
	if [ -z "$$found" ]; then echo "No Python 3.11 or newer among: $(or $(PYTHON),$(PYTHONS))"; exit 1; fi; \
	if ! $$found -c "import venv, ensurepip" 2>/dev/null; then \
	    echo "$$found cannot make virtual environments. On Debian and Ubuntu: sudo apt-get install python3-venv"; exit 1; \
	fi; \
	set -x; $$found -m venv $(CLEAR) $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements.lock
# Adds torch: a CPU-only wheel installed by hand or by pip's settings is the one that stays.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
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
