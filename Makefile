# Three commands do everything on a fresh machine with Python ≥ 3.10 and a C++ compiler:
#   make demo   train a dictionary on the shipped model and text, and write a page of what it found
#   make test   build, and run every test
#   make bench  measure training steps beside other libraries' (FULL=1: every shape, hours rather than minutes)
# and one makes the pictures in docs/ again from the pages that the code writes now (ONLY=report: that one alone):
#   make pictures
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SOURCES := $(shell find python csrc kernels -type f -not -name '*.pyc' -not -name '*.so') CMakeLists.txt pyproject.toml

.PHONY: demo test bench pictures build clean
demo: build
	$(VENV)/bin/monosem demo --out runs/demo

test: build $(VENV)/.test-packages
	@sh tools/get_browser.sh
	MONOSEM_REQUIRE_LENS=1 MONOSEM_TL39=$(abspath $(VENV)/tl39) $(PY) -m pytest tests

bench: build $(VENV)/.bench-packages
	$(PY) bench/run.py $(if $(FULL),--full)

pictures: build $(VENV)/.test-packages
	@sh tools/get_browser.sh
	$(PY) tools/pictures.py $(ONLY)

build: $(VENV)/.built

# torch first and alone: a bare requirement resolved later could bring another build of it.
$(VENV)/.packages: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "monosem needs Python 3.10 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) numpy safetensors tokenizers tqdm jinja2 scikit-build-core pybind11 cmake ninja
	touch $@

$(VENV)/.built: $(VENV)/.packages $(SOURCES)
	PATH="$(abspath $(VENV)/bin):$$PATH" $(PIP) --no-build-isolation --no-deps --force-reinstall .
	@cat $(VENV)/lib/python*/site-packages/monosem/native_build.txt 2>/dev/null || true  # only where there is no compiler
	touch $@

# Both generations of TransformerLens: 4.x in the environment, 3.9 in a folder of its own.
$(VENV)/.test-packages: $(VENV)/.packages
	$(PIP) pytest matplotlib triton==3.7.1 scikit-learn umap-learn networkx httpx transformer-lens==4.3.0
	$(PIP) --no-deps --target $(VENV)/tl39 transformer-lens==3.9.0 better-abc
	touch $@

# The other libraries get environments of their own, in .venv-bench: bench/environments.py.
$(VENV)/.bench-packages: $(VENV)/.packages
	$(PIP) matplotlib
	touch $@

clean:
	rm -rf $(VENV) .venv-bench build
