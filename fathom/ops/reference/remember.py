"""The rings of the inference state: read back what came before a run, then remember the run's last rows.

A ring keeps L rows a sequence, indexed by position modulo L, so nothing is ever cleared or shifted.

Source: SPEC section 6, fixed-size state.
"""
import torch
from torch import Tensor

from ..spans import History


def remember(ring: Tensor, values: Tensor, history: History) -> Tensor:
    """Rows of history and tokens, run after run; afterwards the ring holds each run's last L tokens too.

    Args:
        ring: [slots, L, ...], changed in place.  values: [T, ...] of the tokens.  history: how many rows before each run are wanted.

    Returns:
        [Σ (history + length), ...] in the values' dtype.
    """
    slot, position = history.read
    rows = torch.cat((ring[slot, position % ring.shape[1]].to(values.dtype), values)) if len(slot) else values
    _store(ring, values, history)
    return rows if history.order is None else rows.index_select(0, history.order)


def _store(ring: Tensor, values: Tensor, history: History) -> None:
    slot, position, keep = history.runs.token_slots, history.runs.positions, history.kept(ring.shape[1])
    if keep is not None:
        slot, position, values = slot[keep], position[keep], values[keep]
    ring[slot, position % ring.shape[1]] = values.to(ring.dtype)
