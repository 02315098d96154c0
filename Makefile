# Two commands do everything on a fresh machine: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := $(VENV)-bench
KERNELS := $(wildcard src/kernels/* src/kernels/*/*)
NATIVE := $(filter %.h %.cpp %.inl,$(KERNELS)) $(wildcard tests/native/*.cpp)
SETUP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help setup demo tutorial test test-all lint format sanitize sanitize-threads mutants bench bench-peers clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(SETUP)  ## make the environment .venv and build the kernels into it

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(SETUP): pyproject.toml constraints.txt CMakeLists.txt $(KERNELS) | $(BIN)/python
	$(PIP) -e '.[dev]'
	@touch $@

demo: setup  ## train, evaluate and apply the jet tagger of examples/top_tagging
	$(BIN)/timelike train examples/top_tagging/top_tagging.yaml
	$(BIN)/timelike evaluate examples/top_tagging/runs/top_tagging
	$(BIN)/timelike apply examples/top_tagging/runs/top_tagging/model.safetensors \
	  --input examples/top_tagging/top_vs_qcd.root -o examples/top_tagging/runs/top_tagging/scores.root
	@echo "open examples/top_tagging/runs/top_tagging/report.html in a browser"
	@test -z "$$DISPLAY$$WAYLAND_DISPLAY" || xdg-open examples/top_tagging/runs/top_tagging/report.html || true

tutorial: setup  ## the same with the data set of TMVA's recurrent-network tutorial
	$(BIN)/python examples/tmva_rnn/generate.py
	$(BIN)/timelike train examples/tmva_rnn/tmva_rnn.yaml
	$(BIN)/timelike evaluate examples/tmva_rnn/runs/tmva_rnn

# Small layers only lose time at the barriers of PyTorch's threads: a process for each processor instead. What
# is made once for a file of tests stays in one of them.
test test-all: export OMP_NUM_THREADS = 1
PYTEST := $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile

test: setup lint  ## lint, types, and all tests but the slow ones
	$(PYTEST) -m 'not slow'

test-all: setup lint sanitize  ## everything: slow tests and sanitizers too
	$(PYTEST)

lint: setup  ## ruff, mypy --strict, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(NATIVE)

format: setup  ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(NATIVE)

SANITIZED := $(addprefix tests/test_kernels,.py _layouts.py _threads.py _errors.py) tests/test_runtime_vjp.py

sanitize: sanitize-threads  ## tests of the native code under the sanitizers of addresses, undefined behaviour and threads
	test -x $(VENV)-sanitize/bin/python || $(PYTHON) -m venv $(VENV)-sanitize
	$(VENV)-sanitize/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -C cmake.define.TIMELIKE_SANITIZE=ON -C cmake.define.TIMELIKE_OPTIMIZATION=-O1 \
	  -C build-dir=build/sanitize . pytest hypothesis
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONSAFEPATH=1 \
	  $(VENV)-sanitize/bin/python -m pytest -q --noconftest -p no:cacheprovider -m 'not slow' $(SANITIZED)

# The thread sanitizer cannot watch a whole Python: programs of their own, made of the same sources.
THREADS := build/threads
WATCHED := $(filter-out module session,$(basename $(notdir $(wildcard src/kernels/*.cpp))))
WATCH := $(CXX) -std=c++17 -O1 -g1 -ffp-contract=off -fno-math-errno -Wno-psabi -pthread -fsanitize=thread \
  -Isrc/kernels

$(THREADS)/%.o: src/kernels/%.cpp $(KERNELS)
	@mkdir -p $(@D)
	$(WATCH) -c $< -o $@

$(THREADS)/%: tests/native/%.cpp $(WATCHED:%=$(THREADS)/%.o)
	$(WATCH) $^ -o $@

sanitize-threads: $(THREADS)/threads $(THREADS)/kernels
	$(THREADS)/threads
	$(THREADS)/kernels

mutants: setup  ## plant wrong formulas in a copy of the sources, one at a time: the tests must catch each
	$(PIP) cmake ninja nanobind
	$(BIN)/python tests/mutants/run.py

bench: setup  ## how fast it is beside other libraries, measured here; BENCH='training --quick' chooses
	$(BIN)/python -m bench $(BENCH)

bench-peers: $(PEERS)/.installed  ## the libraries that `make bench` compares with, in an environment of their own

# Two steps: TensorFlow wants older releases of some libraries than the gate runs with.
$(PEERS)/.installed: constraints.txt bench/constraints-peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch numpy
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c bench/constraints-peers.txt \
	  jax tensorflow-cpu keras onnx onnxruntime
	@touch $@

clean:  ## remove environments, builds and runs
	rm -rf $(VENV) $(VENV)-sanitize $(PEERS) build dist examples/*/runs
