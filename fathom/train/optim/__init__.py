"""The two optimizers and who gets which: Muon for matrices, AdamW for what is not one, by the table of parameters.

    orthogonalize.py   Newton–Schulz: a matrix → the nearest one with all singular values near 1, in batches
    muon.py            Muon on the independent parts of fused and stacked matrices
    adamw.py           AdamW
    optimizers.py      both together: groups from the table, clipping, state to save
"""
from .optimizers import Optimizers

__all__ = ["Optimizers"]
