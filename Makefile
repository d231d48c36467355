# The two commands of the README, and what a developer needs. Everything happens in .venv; nothing else is touched.
#
#   make run      install fpes into .venv and train the flush-to-zero network on real digits (about a minute)
#   make test     install what the tests need too, and run them all
#   make test-asan, make test-tsan   run small tests of the CPU backend under AddressSanitizer and UBSan, or under
#                 ThreadSanitizer: a build of its own each, some minutes
#   make bench    measure the kernels, beside PyTorch's and JAX's where these are installed (some minutes)
#   make cuda     install fpes into .venv with the CUDA kernels and CuPy; the compiler comes from PyPI if there is none
#   make gpu-check OUT=folder   on a machine with a GPU: build, test and measure; or gpu-check-build, -test, -bench
#   make lint     ruff, mypy, clang-format and gersemi, as pre-commit runs them
#   make format   apply the formatters
#   make wheel    build a wheel into dist/
#   make clean    remove everything that the targets above made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt $(shell find csrc cmake fpes tests/shim -type f -not -name '*.pyc' -not -name '*.so' 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help run test test-asan test-tsan bench cuda gpu-check gpu-check-build gpu-check-test gpu-check-bench lint format wheel clean check

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

# A stamp for each set of extras; sources newer than it mean that the package is built again.
# What `make run` shows needs no CUDA, which would take minutes to compile where nvcc is.
$(VENV)/.installed-cli: $(BIN)/python $(SOURCES)
	FPES_CUDA=$${FPES_CUDA:-OFF} $(BIN)/python -m pip install --quiet --disable-pip-version-check ".[cli]"
	@touch $@

# With the modules that run the CUDA kernels on the CPU; and with the CUDA builds where nvcc is, for tests to read them.
$(VENV)/.installed-test: $(BIN)/python $(SOURCES)
	FPES_SHIM=ON $(BIN)/python -m pip install --quiet --disable-pip-version-check ".[test]"
	@touch $@ $(VENV)/.installed-cli

$(VENV)/.installed-dev: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check ".[dev]"
	@touch $@

cuda: check $(BIN)/python
	FPES_CUDA=ON $(BIN)/python -m pip install --disable-pip-version-check ".[cli,cuda]"
	@touch $(VENV)/.installed-cli
	$(BIN)/fpes info

# With the packages of $(PYTHON), offline, and without .venv: see benchmarks/gpu_check.py.
gpu-check:
	@$(MAKE) --no-print-directory gpu-check-build gpu-check-test gpu-check-bench

gpu-check-build gpu-check-test gpu-check-bench: gpu-check-%:
	@test -n "$(OUT)" || { echo "Say where the results go: make $@ OUT=folder"; exit 2; }
	@$(PYTHON) benchmarks/gpu_check.py $* --out "$(OUT)"

run: check $(VENV)/.installed-cli
	$(BIN)/fpes train

test: check $(VENV)/.installed-test
	$(BIN)/pytest

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
	FPES_CUDA=OFF build/$*/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	    -Cbuild-dir=build/$*/cmake -Ccmake.define.FPES_SANITIZE=$(SANITIZE) .
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

wheel: check $(BIN)/python
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis runs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
