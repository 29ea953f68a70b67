"""Whole-model logits in bf16 are as close to fp32 as transformers' are, or closer. At 16 384 tokens: python -m tests.laws.closeness 16384."""
from __future__ import annotations

import pytest

from fathom.config import resolve_config
from tests.laws.closeness import distances

pytest.importorskip("transformers")


@pytest.mark.check
def test_as_close_as_transformers() -> None:
    found = distances(resolve_config("bench-130m"), 2048)
    print(found)
    assert 0 < found["native"] <= found["transformers"] and 0 < found["reference"] <= found["transformers"]
