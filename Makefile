# Everything runs in a virtual environment under .venv; PYTHON chooses the interpreter it is made from.
PYTHON ?= python3
VENV ?= .venv
# Two test processes: the tests wait for servers and for each other's processes more than they compute.
PYTEST_ARGS ?= -n 2
BIN = $(VENV)/bin
CPP = build/cpp

.PHONY: demo test test-python stress soak fuzz test-cpp asan tsan interop bench lint clean

demo: $(VENV)/.demo
	$(BIN)/copick demo

test: test-cpp test-python

test-python: $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Longer runs of what tries many sequences of changes, and kills processes at each step. An hour or more.
stress: $(VENV)/.test
	CI= COPICK_STRESS=1 $(BIN)/python -m pytest -o timeout=0 $(STRESS)

STRESS = $(addprefix tests/test_,stack_stateful.py tree_stateful.py write_rules.py index_stateful.py cache_faultfs.py)

# Four processes read, write and evict in one cache folder and are killed: nothing is wrong, too large or left open at the end.
soak: export SOAK_SECONDS ?= 600
soak: $(VENV)/.test
	PYTHONPATH=tests $(BIN)/python -m support.soak

# What lies on disk, as libFuzzer has it, for the native core with sanitizers. What it learns stays under build/.
FUZZ_SECONDS ?= 600
CLANGXX ?= $(firstword $(foreach name,clang++ clang++-19 clang++-18 clang++-16 clang++-15 clang++-14,$(shell command -v $(name))))

fuzz: $(VENV)/.test
	@test -n "$(CLANGXX)" || { echo "make fuzz needs clang++ with libFuzzer"; exit 1; }
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B $(CPP)/fuzz -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCOPICK_FUZZ=ON \
	    -DCMAKE_CXX_COMPILER=$(CLANGXX) -DCOPICK_SANITIZE=address$(comma)undefined
	PATH="$(abspath $(BIN)):$$PATH" cmake --build $(CPP)/fuzz -j2
	mkdir -p $(CPP)/fuzz/learned
	$(CPP)/fuzz/tests/cpp/fuzz_folder $(CPP)/fuzz/learned tests/corpus -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048

# The native core alone, without Python. `asan` and `tsan` run the same tests under the sanitizers.
test-cpp: $(VENV)/.test
	$(call ctest,$(CPP)/plain,)

asan: $(VENV)/.test
	$(call ctest,$(CPP)/asan,address$(comma)undefined)

tsan: $(VENV)/.test
	$(call ctest,$(CPP)/tsan,thread)

comma := ,
define ctest
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B $(1) -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCOPICK_TESTS=ON -DCOPICK_SANITIZE=$(2)
	PATH="$(abspath $(BIN)):$$PATH" cmake --build $(1) -j2
	PATH="$(abspath $(BIN)):$$PATH" ctest --test-dir $(1) --output-on-failure
endef

# Both directions between this package and the copick that people have: each reads what the other wrote.
INCUMBENT = $(abspath build/interop)

interop: $(VENV)/.test $(INCUMBENT)/.done
	COPICK_INCUMBENT_PYTHON=$(INCUMBENT)/bin/python $(BIN)/python -m pytest tests/interop $(PYTEST_ARGS)

$(INCUMBENT)/.done: | $(VENV)/bin/uv
	$(BIN)/uv venv -q --clear --python $(BIN)/python $(INCUMBENT)
	$(BIN)/uv pip install -q --python $(INCUMBENT)/bin/python copick==1.31.0
	@touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

lint: $(VENV)/.test
	$(INSTALL) ".[dev]"
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/python -m mypy

# An installed copy, made again whenever a source file changed. For development see README ("editable").
SOURCES = $(shell find src -type f -not -path '*/__pycache__/*') pyproject.toml CMakeLists.txt

# uv resolves these dependencies in seconds where pip searches for minutes.
INSTALL = $(BIN)/uv pip install -q --python $(BIN)/python --reinstall-package copick

$(VENV)/bin/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check uv

$(VENV)/.demo: $(VENV)/bin/uv $(SOURCES)
	$(INSTALL) ".[all]"
	@touch $@

$(VENV)/.test: $(VENV)/bin/uv $(SOURCES)
	$(INSTALL) ".[all,test]" cmake ninja
	@touch $@

$(VENV)/.bench: $(VENV)/bin/uv $(SOURCES)
	$(INSTALL) ".[all,bench]"
	@touch $@

clean:
	rm -rf $(VENV) build
