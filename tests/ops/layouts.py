"""Ranges of visible keys made up by a test, where no batch and no configuration would give just these."""
from __future__ import annotations

import numpy as np
import torch

from fathom.ops import Places, Runs, Spans


def given_spans(first: np.ndarray, last: np.ndarray) -> Spans:
    """Spans of one run of len(first) queries with these ranges, in small tiles."""
    runs = Runs([(len(first), 0, 0)], heads=1, window=1, device=torch.device("cpu"))
    spans = Spans(runs, window=1, queries=3, cells=1000)
    spans.__dict__.update(host_first=first, host_last=last)  # in place of the cached properties
    return spans


def given_places() -> Places:
    """Flat entry i is pool row i."""
    runs = Runs([(1, 0, 0)], heads=1, window=1, device=torch.device("cpu"))
    places = Places(Spans(runs, ratio=1), None, 1)
    places.__dict__.update(rows=None, base=0)
    return places
