# make demo   recipes/demo.toml: the packaged model for ONNX Runtime and Core ML, verified, benched, reported; then the
#             packaged emoji model in half precision, which paints PROMPT="crying cat"
# make demo-all  the same with TensorRT, more precisions and diffusion beside it
# make test   the whole test suite; tests of what this system lacks (sshd, chromium, qemu) are left out
# make test-quick  a part of it that touches every package, in two minutes
# make kit-noise  every one of the 2^32 values of the kits' noise in C++, three minutes
# make system install what they need, where that is possible (Debian, as root)
# make lint   ruff, mypy --strict, import-linter, and the pages of `make docs`
# make docs   the documentation as pages, in build/docs
# make bench  cmexport against its rivals on this machine
# make web    fetch onnxruntime-web for pages in browsers (npm, 32 MB)
# make terrain  fetch a trained model of others for tests and benchmarks (PyPI, 39 MB)
# make clean  remove what the above made

PYTHON ?= python3
OUT ?= out
PROMPT ?= crying cat
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# Two workers with one thread each: more threads per worker only fight over the cores.
TEST_ENV := OMP_NUM_THREADS=1
# Neighbours stay together, so that what a module's tests share is made once: by the dozen, `--dist load` makes it twice.
WORKERS := -n 2 --dist worksteal
# An ARM Python with ONNX Runtime, run by qemu.
export CMEXPORT_AARCH64_ROOT ?= $(CURDIR)/build/aarch64
# Qualcomm's plug-in for ONNX Runtime, which emulates the NPU on x86-64.
export CMEXPORT_QNN_ENV ?= $(CURDIR)/build/qnn
# A Kotlin compiler, Android's classes and ONNX Runtime for Java.
export CMEXPORT_KOTLIN_ROOT ?= $(CURDIR)/build/kotlin
# Swift for the tests of kits for iOS.
export CMEXPORT_SWIFT_ROOT ?= $(CURDIR)/build/swift
# ONNX Runtime's headers for C and C++, which Python's package lacks.
export CMEXPORT_ONNXRUNTIME_HEADERS ?= $(CURDIR)/build/onnxruntime-headers
# TypeScript's compiler, which checks the web kit.
export CMEXPORT_TYPESCRIPT ?= $(CURDIR)/build/typescript
PYTEST_ARGS ?=

.PHONY: demo demo-all test test-quick kit-noise system web terrain lint docs bench clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

# Stamps: reinstalled only when the requirements change, not when the (editable) code does.
.venv/.created:
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.dev: .venv/.created pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	@touch $@

.venv/.demo: .venv/.created pyproject.toml constraints.txt
	$(PIP) --editable '.[coreml,diffusers,bench,report]'
	@touch $@

.venv/.demo-all: .venv/.created pyproject.toml constraints.txt
	$(PIP) --editable '.[coreml,tensorrt,bench,report]'
	@touch $@

.venv/.docs: .venv/.created pyproject.toml constraints.txt
	$(PIP) --editable '.[docs]'
	@touch $@

.venv/.bench: .venv/.created pyproject.toml constraints.txt
	$(PIP) --editable '.[diffusers,bench,openvino,simplify]'
	@touch $@

demo: .venv/.demo
	$(BIN)/cmexport run recipes/demo.toml -o $(OUT)
	$(BIN)/cmexport onnx --demo emoji --fp16 --steps 2 --guidance 5 --seeds 16 -o $(OUT)
	$(BIN)/cmexport sample $(OUT)/emoji-onnx-fp16 --prompt "$(PROMPT)" --count 4 -o $(OUT)/words.png

demo-all: .venv/.demo-all
	$(BIN)/cmexport run recipes/demo-all.toml -o $(OUT)

system:
	sh tests/system.sh
	sh tests/bench/make_aarch64_root.sh "$(CMEXPORT_AARCH64_ROOT)"
	PYTHON="$(PYTHON)" sh tests/targets/onnx/make_qnn_env.sh "$(CMEXPORT_QNN_ENV)"
	sh tests/kits/make_kotlin.sh "$(CMEXPORT_KOTLIN_ROOT)"
	sh tests/kits/ios/make_swift_root.sh "$(CMEXPORT_SWIFT_ROOT)"
	sh tests/kits/cpp/make_onnxruntime_headers.sh "$(CMEXPORT_ONNXRUNTIME_HEADERS)"
	sh tests/kits/make_typescript.sh "$(CMEXPORT_TYPESCRIPT)"

web: .venv/.created
	$(BIN)/python bench_device/web/fetch.py

terrain: .venv/.created
	$(BIN)/python benchmarks/fetch_terrain.py

test: .venv/.dev web terrain
	$(TEST_ENV) $(BIN)/python -m pytest $(WORKERS) $(PYTEST_ARGS)

test-quick: .venv/.dev
	$(TEST_ENV) $(BIN)/python -m pytest $(WORKERS) --quick $(PYTEST_ARGS)

KIT_CPP := cmexport/kits/templates/cpp
# Kotlin, Swift and JavaScript gave this hash too.
kit-noise:
	mkdir -p build
	g++ -std=c++17 -O2 -ffp-contract=off -I$(KIT_CPP)/include tests/kits/cpp/programs/exhaustive.cpp \
	    $(KIT_CPP)/src/noise.cpp -o build/all-words
	build/all-words 005e8bd3

lint: .venv/.dev docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict cmexport
	$(BIN)/lint-imports

docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: .venv/.bench
	$(BIN)/python benchmarks/onnx_cpu.py

clean:
	rm -rf .venv $(OUT) build dist bench_device/web/vendor .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
