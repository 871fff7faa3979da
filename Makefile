# make quickstart   the whole chain on a miniature AudioSet, in minutes
# make labels       all of AudioSet re-labelled, as a data set to publish
# make test         the tests, except those for a release
# make test-fast    the fast tests: under 90 s on 2 idle cores
# make test-release all tests: also long searches, and further sizes of what others test
# make test-extra   what needs PyTorch, Beam or the adapters' libraries, and a sample of the rest
# make adapters     installs the test dependencies of the adapters for HEAR and perch-hoplite
# make lint         style and types
# make docs         the documentation, in build/docs
# Another Python: make test PYTHON=python3.12 VENV=.venv312

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= test
WORK ?= quickstart
LABELS ?= labels
# Let Python write its bytecode cache even if the environment forbids it, because tests start many
# processes. With the cache pip need not compile all packages, which would double the install time.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt
PYTEST = $(VENV)/bin/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

.PHONY: quickstart labels test test-fast test-release test-extra adapters lint docs clean

quickstart: $(VENV)/.core
	@echo "1 of 4: a miniature AudioSet" >&2
	test -e $(WORK)/miniature/miniature.json || \
	  $(VENV)/bin/python -m data_prep.miniature --output_dir=$(WORK)/miniature --num_clips=600
	@echo "2 of 4: the labels, and how true they are" >&2
	$(VENV)/bin/python -m data_prep.judge --ontology=$(WORK)/miniature/ontology.json \
	  --segments=$(WORK)/miniature/segments.csv --against=$(WORK)/miniature/truth.csv
	@echo "3 of 4: recordings to shards" >&2
	$(VENV)/bin/python -m data_prep.build --ontology=$(WORK)/miniature/ontology.json \
	  --segments=$(WORK)/miniature/segments.csv --audio=$(WORK)/miniature/audio \
	  --output_dir=$(WORK)/data
	@echo "4 of 4: two base trainings, and a transfer from each" >&2
	$(VENV)/bin/python -m relabel_jax.main --config=configs/quickstart.py \
	  --workdir=$(WORK)/runs --config.data_dir=$(WORK)/data

# Run the files in the order of pyproject.toml, which has the longest first, not by number of tests.
test: $(VENV)/.test
	$(PYTEST) -m "not release"

test-release: $(VENV)/.test
	$(PYTEST)

test-fast: $(VENV)/.test
	$(PYTEST) -m "not slow"

# The sample is of what depends on the versions of Python and JAX.
WITH_EXTRAS = $(shell grep -rl --include="*.py" "mark\.extra" tests)
SAMPLE := tests/test_chain.py tests/test_cli.py tests/train tests/runs tests/data
test-extra: $(VENV)/.test
	$(PYTEST) -m "(not slow or extra) and not release" $(WITH_EXTRAS) $(SAMPLE)

# --no-deps, because perch-hoplite's version bounds exclude the tested versions of other packages.
adapters: $(VENV)/.test
	$(PIP) --no-deps perch-hoplite
	$(PIP) hearvalidator librosa

lint: $(VENV)/.lint
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/python docs/check_prose.py

# A warning, such as a link to a heading that is not there, is an error.
docs: $(VENV)/.docs
	$(VENV)/bin/python -m sphinx --fail-on-warning --nitpicky --keep-going --fresh-env --quiet \
	  docs build/docs

# Files that are newer than what they were installed from.
$(VENV)/.core: extras := report
$(VENV)/.test: extras := $(EXTRAS)
$(VENV)/.lint: extras := lint
$(VENV)/.docs: extras := docs
$(VENV)/.core $(VENV)/.test $(VENV)/.lint $(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable ".[$(extras)]"
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) $(WORK) $(LABELS)
