# Every target installs first if needed. PYTHON is the interpreter that makes .venv; BIN is where its programs lie.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEV    := $(VENV)/.installed-dev

.PHONY: install install-dev demo test test-fast style quality docs audit bench clean

# What using hfgpt takes, and what working on it takes besides.
install: $(STAMP)
install-dev: $(DEV)

# torch comes first and pinned: a range would fetch another build.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[track,web,serve,peft]"
	touch $(STAMP)

$(DEV): $(STAMP)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,track,cluster,web,serve,peft]"
	touch $(DEV)

# Text to a chat model on this machine, in minutes: every stage, its scores before and after, and what each can do.
demo: install
	$(BIN)/hfgpt run recipes/tiny.yaml --overwrite

# Two tests at a time, each with its share of the cores.
test: install-dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-fast: install-dev
	$(BIN)/python -m pytest -m "not slow"

style: install-dev
	$(BIN)/ruff format hfgpt tests benchmarks docs/*.py
	$(BIN)/ruff check --fix hfgpt tests benchmarks docs/*.py

quality: install-dev
	$(BIN)/ruff format --check hfgpt tests benchmarks docs/*.py
	$(BIN)/ruff check hfgpt tests benchmarks docs/*.py
	$(BIN)/mypy

# The site of docs/ into site/, with the reference of every key made anew; a link that leads nowhere fails it.
docs: install-dev
	$(BIN)/python docs/make_reference.py
	$(BIN)/mkdocs build --strict

# Known vulnerabilities of the pinned packages, by PyPI's records; in an environment of its own.
audit:
	test -x $(VENV)-audit/bin/pip-audit || ($(PYTHON) -m venv $(VENV)-audit && $(VENV)-audit/bin/pip install --quiet pip-audit)
	$(VENV)-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

# Writes benchmarks/*.md: ratios measured in one run on this machine. TEXT is a folder of plain text files.
bench: install-dev
	$(BIN)/python benchmarks/cpu_products.py
	$(BIN)/python benchmarks/data_loading.py
	$(BIN)/python benchmarks/decoding.py --compile
	$(BIN)/python benchmarks/fused_loss.py
	@test -n "$(TEXT)" || echo "make bench TEXT=folder measures tokenization and preparation too"
	@test -z "$(TEXT)" || $(BIN)/python benchmarks/tokenization.py --text $(TEXT)/*.txt
	@test -z "$(TEXT)" || $(BIN)/python benchmarks/data_preparation.py $(TEXT)

# Leaves runs/ alone: trained models are not rubbish.
clean:
	rm -rf $(VENV) $(VENV)-audit .cache .pytest_cache .ruff_cache .mypy_cache .hypothesis dist site
