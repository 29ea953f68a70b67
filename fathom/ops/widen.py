"""Computing precision: at least fp32, whatever the storage type."""
import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """x in fp32, or unchanged when it already is fp32 or fp64."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
