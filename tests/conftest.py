"""Shared fixtures: one tiny model file and seeded pictures per session."""

import logging
import os
import shutil
import tempfile
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import settings

from tests import tiny

# Commands that are started here are buffered, as at a user's: what is left in a buffer may fail as Python ends.
os.environ.pop("PYTHONUNBUFFERED", None)

# Seconds are those of a shared machine: no example is wrong for being slow.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")


# Nothing of the user's is read or written, and what a test finds does not depend on those before it.
_CACHES = tempfile.mkdtemp(prefix="onnx-evidence-caches-")
os.environ["XDG_CACHE_HOME"] = f"{_CACHES}/shared"


@pytest.fixture(autouse=True)
def caches(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where caches of this test are; not there yet."""
    own = Path(_CACHES) / uuid4().hex
    monkeypatch.setenv("XDG_CACHE_HOME", str(own))
    return own / "onnx-evidence"


def pytest_unconfigure() -> None:
    """Nothing is left behind."""
    shutil.rmtree(_CACHES, ignore_errors=True)


@pytest.fixture(autouse=True)
def _own_logging() -> None:
    """Commands settle what is logged for their whole process: every test starts as a new one does."""
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    root.handlers[:] = [handler for handler in root.handlers if type(handler) is not logging.StreamHandler]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20180105)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny classifier with preprocessing and labels recorded."""
    return tiny.save(tiny.classifier(), tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="session")
def lite0() -> Path:
    """EfficientNet-Lite0, built by ``make model`` before the tests run."""
    path = Path(__file__).parent.parent / "models" / "efficientnet-lite0.onnx"
    assert path.exists(), "run 'make test', which builds the model first"
    return path


@pytest.fixture(scope="session")
def hopper() -> Path:
    """The demo's photograph, from matplotlib's sample data."""
    from matplotlib import cbook

    return Path(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))
