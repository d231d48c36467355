# The two commands of the README, and what a developer needs. Everything happens in .venv and build; nothing else is
# touched. fpes is installed as an editable package: Python sources are used as they lie, and C++ modules are built
# again by the next `make run`, file by file.
#
#   make run      install fpes into .venv and train the flush-to-zero network on real digits (two or three minutes in all)
#   make test     install what the tests need too, and run them
#   make test-asan, make test-tsan   run small tests of the CPU backend under AddressSanitizer and UBSan, or under
#                 ThreadSanitizer: a build of its own each, some minutes
#   make test-cuda   compile the CUDA kernels where nvcc is (some minutes), and run the tests that read their code
#   make bench    measure the kernels, beside PyTorch's and JAX's where these are installed (some minutes)
#   make cuda     install fpes into .venv with the CUDA kernels and CuPy; the compiler comes from PyPI if there is none
#   make gpu-check OUT=folder   on a machine with a GPU: build, test and measure; or gpu-check-build, -test, -bench, -profile, -train
#   make lint     ruff, mypy, clang-format and gersemi, as pre-commit runs them
#   make format   apply the formatters
#   make docs     build the documentation's site into site/; site/index.html opens it
#   make wheel    build a wheel into dist/
#   make clean    remove everything that the targets above made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt fpes/_version.py $(shell find csrc cmake tests/shim -type f 2>/dev/null)
# [build-system] of pyproject.toml, and what it runs. They are installed into .venv, for in an isolated build they would
# lie in a new folder each time, and every file would be compiled anew. SKBUILD_BUILD_DIR is where objects are kept.
BUILD_TOOLS := "scikit-build-core>=1.0" "pybind11>=2.13" "cmake>=3.22" ninja
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
ifeq ($(wildcard $(VENV)/.cuda),)
INSTALL := SKBUILD_BUILD_DIR='build/{wheel_tag}' PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) --no-build-isolation --editable
else # after `make cuda`: as it does, so that the CUDA modules stay
INSTALL := FPES_CUDA=ON $(PIP) --editable
endif
# A process for each CPU; tests of one file stay together, for they share what is costly.
PYTEST := $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help run test test-asan test-tsan test-cuda bench cuda gpu-check gpu-check-build gpu-check-test gpu-check-bench gpu-check-profile gpu-check-train lint format wheel clean check

help:
	@sed -n 's/^#   //p' Makefile

# Says what is missing before pip fails on it a hundred lines later.
check:
	@command -v $(PYTHON) >/dev/null || { echo "fpes needs Python 3.10 or newer: '$(PYTHON)' was not found. Try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "fpes needs Python 3.10 or newer; $$($(PYTHON) --version) was found. Try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv is missing. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@command -v "$${CXX:-c++}" >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || { echo "fpes needs a C++17 compiler. On Debian and Ubuntu: apt install g++"; exit 1; }
	@$(PYTHON) -c 'import sysconfig, os, sys; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || { echo "Python's headers are missing. On Debian and Ubuntu: apt install python3-dev"; exit 1; }

$(BIN)/python: | check
	$(PYTHON) -m venv $(VENV)

$(VENV)/.build-tools: $(BIN)/python
	$(PIP) $(BUILD_TOOLS)
	@touch $@

# A stamp for each set of extras; sources newer than it mean that the package is built again. Where nvcc is, the CUDA
# modules would take minutes, and neither `make run` nor most tests need them.
$(VENV)/.installed-cli: $(VENV)/.build-tools $(SOURCES)
	FPES_CUDA=$${FPES_CUDA:-OFF} $(INSTALL) ".[cli]"
	@touch $@

# With the modules that run the CUDA kernels on the CPU.
$(VENV)/.installed-test: $(VENV)/.build-tools $(SOURCES)
	FPES_SHIM=ON FPES_CUDA=$${FPES_CUDA:-OFF} $(INSTALL) ".[test]"
	@touch $@ $(VENV)/.installed-cli

$(VENV)/.installed-test-cuda: $(VENV)/.build-tools $(SOURCES)
	FPES_SHIM=ON $(INSTALL) ".[test]"
	@touch $@ $(VENV)/.installed-test $(VENV)/.installed-cli

$(VENV)/.installed-dev: $(VENV)/.installed-test
	FPES_SHIM=ON FPES_CUDA=$${FPES_CUDA:-OFF} $(INSTALL) ".[dev]"
	@touch $@

# In an isolated build, which is where the compiler from PyPI comes to, and goes.
cuda: check $(BIN)/python
	FPES_CUDA=ON $(BIN)/python -m pip install --disable-pip-version-check --editable ".[cli,cuda]"
	@touch $(VENV)/.installed-cli $(VENV)/.cuda
	$(BIN)/fpes info

# With the packages of $(PYTHON), offline, and without .venv: see benchmarks/gpu_check.py.
gpu-check:
	@$(MAKE) --no-print-directory gpu-check-build gpu-check-test gpu-check-bench gpu-check-profile gpu-check-train

gpu-check-build gpu-check-test gpu-check-bench gpu-check-profile gpu-check-train: gpu-check-%:
	@test -n "$(OUT)" || { echo "Say where the results go: make $@ OUT=folder"; exit 2; }
	@$(PYTHON) benchmarks/gpu_check.py $* --out "$(OUT)"

run: check $(VENV)/.installed-cli
	$(BIN)/fpes train

test: check $(VENV)/.installed-test
	$(PYTEST)

test-cuda: check $(VENV)/.installed-test-cuda
	$(PYTEST) tests/test_cuda_code.py tests/test_cuda_build.py tests/gpu

# The tests run from the folder of the build, where no fpes lies that would hide the installed one. Python must load a
# sanitizer before anything else; leaks are those of Python.
SANITIZED := $(addprefix ../../tests/test_,$(addsuffix .py,errors optimisers evaluation data_order primitives))
THREADED := $(addprefix ../../tests/test_,$(addsuffix .py,threads evaluation optimisers))
LIBRARY = $$("$${CXX:-g++}" -print-file-name=$(1))

test-asan: build/asan/.installed
	cd build/asan && ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	    LD_PRELOAD="$(call LIBRARY,libasan.so) $(call LIBRARY,libstdc++.so)" \
	    venv/bin/python -m pytest -q -p no:cacheprovider $(SANITIZED)

test-tsan: build/tsan/.installed
	cd build/tsan && TSAN_OPTIONS=halt_on_error=1:die_after_fork=0 LD_PRELOAD="$(call LIBRARY,libtsan.so)" \
	    venv/bin/python -m pytest -q -p no:cacheprovider $(THREADED)

build/asan/.installed: SANITIZE := address,undefined
build/tsan/.installed: SANITIZE := thread
build/asan/.installed build/tsan/.installed: build/%/.installed: $(VENV)/.installed-test
	$(PYTHON) -m venv build/$*/venv
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	    > "$$(build/$*/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tests.pth"
	FPES_CUDA=OFF SKBUILD_BUILD_DIR=build/$*/cmake CMAKE_ARGS=-DFPES_SANITIZE=$(SANITIZE) PATH="$(CURDIR)/$(BIN):$$PATH" \
	    build/$*/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps .
	@touch $@

bench: check $(VENV)/.installed-test
	$(BIN)/fpes bench $(BENCH)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(find csrc tests/shim -name '*.hpp' -o -name '*.cpp' -o -name '*.cu')
	$(BIN)/gersemi --check CMakeLists.txt cmake tests/shim

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(find csrc tests/shim -name '*.hpp' -o -name '*.cpp' -o -name '*.cu')
	$(BIN)/gersemi -i CMakeLists.txt cmake tests/shim

# The packages of the extra alone: the API's pages are made from the sources, and need no fpes that is built.
$(VENV)/.installed-docs: $(BIN)/python pyproject.toml
	$(PIP) $$(sed -n 's/^docs = \[\(.*\)\]$$/\1/p' pyproject.toml | tr -d '",')
	@touch $@

.PHONY: docs
docs: check $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "Open site/index.html"

wheel: check $(BIN)/python
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .mypy_cache .hypothesis runs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
