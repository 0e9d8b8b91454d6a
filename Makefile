# Two commands do everything on a fresh machine with Python 3.11 or newer: `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS := -n auto --maxprocesses 8 --dist loadfile  # a process for each core, each with one thread
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check bench docs clean

demo: $(VENV)/.installed  ## Capture the bundled prompts on the built-in model, answer questions, serve the pages.
	$(BIN)/actlake demo $(ARGS)

test: $(VENV)/.dev browser  ## Everything that CI runs.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(WORKERS) $(ARGS)

check: $(VENV)/.dev  ## Lint, types, import contracts and the fast tests: about a minute.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow and not browser" $(WORKERS) $(ARGS)

bench: $(VENV)/.dev browser  ## Measure, on the built-in model; docs/benchmarks.md has what was seen (an hour, 40 GB of disk).
	$(BIN)/python benchmarks/main_job.py
	$(BIN)/python benchmarks/capture.py
	$(BIN)/python benchmarks/gradients.py
	$(BIN)/python benchmarks/store.py $(ARGS)
	$(BIN)/actlake demo --no-serve
	$(BIN)/python benchmarks/factors.py actlake-demo --memory actlake-benchmark/factors
	$(BIN)/python benchmarks/app.py

docs: $(VENV)/.dev browser  ## Take the screenshots of the README again, from the demo's store.
	$(BIN)/python docs/screenshots.py $(ARGS)

.PHONY: browser
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
		|| { echo "installing chromium for the browser tests"; \
		     $$(test "$$(id -u)" = 0 || echo sudo) sh -c 'apt-get update -qq && apt-get install -y -qq chromium' >/dev/null; } \
		|| $(BIN)/playwright install chromium

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("actlake needs Python 3.11 or newer; name one with PYTHON=…" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing actlake into $(VENV) (some minutes, once)"
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing actlake and its tools into $(VENV) (some minutes, once)"
	$(PIP_INSTALL) -e '.[dev]'
	@mkdir -p .typing && ln -sfn .. .typing/actlake
	@touch $@ $(VENV)/.installed

clean:  ## Remove what the commands above made, but for stores.
	rm -rf $(VENV) .typing build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
