# Two commands do everything on a fresh machine: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KERNELS := $(wildcard src/kernels/*) $(wildcard src/kernels/cells/*)
SETUP := $(VENV)/.installed

.PHONY: help setup demo tutorial test test-all lint format sanitize bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(SETUP)  ## make the environment .venv and build the kernels into it

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(SETUP): pyproject.toml constraints.txt CMakeLists.txt $(KERNELS) | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
