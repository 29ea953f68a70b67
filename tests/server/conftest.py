"""One small model and one running service for all tests of the HTTP side."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.live import Live, save_model, serve


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder."""
    return save_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="session")
def live(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service under the name `small`."""
    with serve(small_model, tmp_path_factory.mktemp("service"), "--alias", "other-*") as service:
        yield service
