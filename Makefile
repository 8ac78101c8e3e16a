# Everything a developer runs. Needs Python 3.11 to 3.13 and make; all else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin

# where an environment forbids bytecode, each process of a test would compile torch anew: twice the time to start
export PYTHONDONTWRITEBYTECODE :=

.PHONY: quickstart test check slow bench gpu-audit docs clean

quickstart: .venv/.base
	$(BIN)/fwrl train configs/quickstart.yaml
	$(BIN)/fwrl evaluate runs/quickstart --episodes 100
	@echo
	@echo "The curves:        $(BIN)/tensorboard --logdir runs"
	@echo "Without memory:    $(BIN)/fwrl train configs/quickstart.yaml core.kind=none"
	@echo "Everything else:   $(BIN)/fwrl --help, README.md"

# all but the long tests; each process has one half, so most fixtures of modules are made once
test: .venv/.dev
	$(BIN)/pytest -m "not slow" -n 2 --dist worksteal --durations 15

# format, lint, types, import directions
check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

slow: .venv/.dev
	$(BIN)/pytest -m slow

# parity of the kernels first, then ratios to peers that run in the same process
bench: .venv/.dev
	$(BIN)/fwrl bench speed

# the GPU path on a machine without a GPU, but with 5 GB for a CUDA build of PyTorch; the audit's own test first
gpu-audit: .venv-gpu/.audit
	.venv-gpu/bin/python -m benchmarks.gpu_audit --self-test
	.venv-gpu/bin/python -m benchmarks.gpu_audit

# the site in site/, of the Markdown that is there; a link that leads nowhere fails
docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet -f docs/site/mkdocs.yml
	@echo "site/index.html; with its search: $(BIN)/python -m http.server --directory site --bind localhost"

clean:
	rm -rf .venv .venv-gpu site .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# this version comes with CUDA wherever it is installed from
.venv-gpu/.audit: pyproject.toml
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/pip install --quiet torch==2.12.0
	.venv-gpu/bin/pip install --quiet --no-compile --editable .
	@touch $@

# bytecode comes with the first import of a module: most of what is installed is never imported
.venv/.base: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --editable '.[video]'
	@touch $@

.venv/.dev: .venv/.base
	$(BIN)/pip install --quiet --no-compile --editable '.[dev]'
	@touch $@

.venv/.docs: .venv/.base
	$(BIN)/pip install --quiet --no-compile --editable '.[docs]'
	@touch $@
