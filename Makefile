# make quickstart   the whole chain on a miniature AudioSet, in minutes
# make test         the tests
# make lint         style and types
# Another Python: make test PYTHON=python3.12 VENV=.venv312

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= test
WORK ?= quickstart
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: quickstart test lint clean

quickstart: $(VENV)/.core
	@echo "1 of 3: a miniature AudioSet" >&2
	test -e $(WORK)/miniature/miniature.json || \
	  $(VENV)/bin/python -m data_prep.miniature --output_dir=$(WORK)/miniature --num_clips=600
	@echo "2 of 3: recordings to shards" >&2
	$(VENV)/bin/python -m data_prep.build --ontology=$(WORK)/miniature/ontology.json \
	  --segments=$(WORK)/miniature/segments.csv --audio=$(WORK)/miniature/audio \
	  --output_dir=$(WORK)/data
	@echo "3 of 3: base training with each labeling, and the transfers from each" >&2
	$(VENV)/bin/python -m relabel_jax.main --config=configs/quickstart.py \
	  --workdir=$(WORK)/runs --config.data_dir=$(WORK)/data

test: $(VENV)/.test
	$(VENV)/bin/python -m pytest --numprocesses=2 --dist=loadfile

lint: $(VENV)/.lint
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

# A file that is newer than what it was installed from.
$(VENV)/.core: pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable ".[report]"
	touch $@

$(VENV)/.test: $(VENV)/.core
	$(PIP) --editable ".[$(EXTRAS)]"
	touch $@

$(VENV)/.lint: $(VENV)/.core
	$(PIP) --editable ".[lint]"
	touch $@

clean:
	rm -rf $(VENV) $(WORK)
