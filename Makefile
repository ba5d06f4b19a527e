# Three commands do everything on a fresh machine with Python ≥ 3.10 and a C++ compiler:
#   make demo   train a dictionary on the shipped model and text, and write a report of its features
#   make test   build, lint, and run every test
#   make bench  measure training steps next to other libraries' (over an hour; FULL=1: every shape, hours)
# and one makes the pictures in docs/ again from the pages that the code writes now (ONLY=report: that one alone):
#   make pictures
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
# pip compiles to byte code on one core. What is no Python (templates, tests of other versions) is passed over.
COMPILED := $(PY) -m compileall -qq -j 0 $(VENV)/lib || true
SOURCES := $(shell find python csrc kernels -type f -not -name '*.pyc' -not -name '*.so') CMakeLists.txt pyproject.toml

.PHONY: demo test lint sanitize bench pictures build clean
demo: build
	$(VENV)/bin/monosem demo --out runs/demo

# As many processes as there are cores, at most four; their threads do not spin while they wait for each other.
test: build lint $(VENV)/.test-packages
	@sh tools/get_browser.sh
	MONOSEM_REQUIRE_LENS=1 MONOSEM_TL39=$(abspath $(VENV)/tl39) OMP_WAIT_POLICY=passive \
	  $(PY) -m pytest -n auto --maxprocesses 4 tests

# Rules of style, formatting and types: what pre-commit runs, on all files. Which types are checked: pyproject.toml.
lint: $(VENV)/.lint-packages $(VENV)/.built
	$(VENV)/bin/ruff check --quiet .
	$(VENV)/bin/ruff format --check --quiet .
	$(VENV)/bin/basedpyright --pythonpath $(PY)

# The CPU kernels under the address and undefined-behaviour sanitizers of GCC, in a folder of its own: what is installed
# stays as it is. TESTS= narrows it; MONOSEM_ISA= and MONOSEM_PRODUCT= choose other kernels.
SANITIZED := build/sanitize
TESTS ?= $(addprefix tests/ops/test_,encode.py cpu_integers.py every_scale.py long_sums.py rows.py adam_options.py bindings.py) \
  tests/nn
sanitize: build $(VENV)/.test-packages
	PATH="$(abspath $(VENV)/bin):$$PATH" cmake -S . -B $(SANITIZED) -G Ninja -DMONOSEM_CUDA=OFF -DMONOSEM_SANITIZE=ON \
	  -DPYTHON_EXECUTABLE=$(abspath $(PY)) -Dpybind11_DIR=$$($(PY) -m pybind11 --cmakedir)
	PATH="$(abspath $(VENV)/bin):$$PATH" cmake --build $(SANITIZED)
	rm -rf $(SANITIZED)/package && mkdir $(SANITIZED)/package
	cp -RL python/monosem $(SANITIZED)/package/ && rm -f $(SANITIZED)/package/monosem/_C*.so
	cp $(SANITIZED)/_C*.so $(SANITIZED)/package/monosem/
	PYTHONPATH=$(abspath $(SANITIZED))/package LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 $(PY) -m pytest -s -p no:cacheprovider $(TESTS)

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
	$(PIP) numpy safetensors tokenizers tqdm jinja2 'filelock>=3.24' pyyaml scikit-build-core pybind11 cmake ninja
	@$(COMPILED)
	touch $@

$(VENV)/.built: $(VENV)/.packages $(SOURCES)
	PATH="$(abspath $(VENV)/bin):$$PATH" $(PIP) --compile --no-build-isolation --no-deps --force-reinstall .
	@cat $(VENV)/lib/python*/site-packages/monosem/native_build.txt 2>/dev/null || true  # only where there is no compiler
	touch $@

# Both generations of TransformerLens: 4.x in the environment, 3.9 in a folder of its own.
$(VENV)/.test-packages: $(VENV)/.packages
	$(PIP) pytest pytest-xdist matplotlib triton==3.7.1 scikit-learn umap-learn networkx httpx universal-pathlib transformer-lens==4.3.0
	$(PIP) --compile --no-deps --target $(VENV)/tl39 transformer-lens==3.9.0 better-abc
	@$(COMPILED)
	touch $@

$(VENV)/.lint-packages: $(VENV)/.packages
	$(PIP) ruff basedpyright
	touch $@

# The other libraries get environments of their own, in .venv-bench: bench/environments.py.
$(VENV)/.bench-packages: $(VENV)/.packages
	$(PIP) matplotlib
	touch $@

clean:
	rm -rf $(VENV) .venv-bench build
