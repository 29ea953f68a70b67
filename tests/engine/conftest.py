"""Fixtures of the engine's tests: each law runs on the reference kernels and on the native ones."""
from __future__ import annotations

import pytest

from fathom.model import Transformer
from tests.engine.models import KERNELS, make_model


@pytest.fixture(scope="session", params=KERNELS)
def kernels(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def model(kernels: str) -> Transformer:
    return make_model(kernels)


@pytest.fixture(scope="session")
def agreeing(kernels: str) -> Transformer:
    """A model whose drafts are often right."""
    return make_model(kernels, agreeing=True)
