"""Muon and AdamW as one thing: groups from the table of parameters, clipping, a step, and the state to save.

The table says who optimises what (`Param.optimizer`), so a parameter can't be forgotten: one that the model has and the table
hasn't, or the reverse, is refused here.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...config import Param
from ...config.recipe import OptimizerRecipe
from .adamw import AdamW
from .muon import Muon


class Optimizers:
    """Both optimizers over a model's parameters.

    Args:
        table: rows of `fathom.config.parameters(config)`.
        tensors: the model's parameters by name (fp32); make this after the model is on its device.
        dtype: of Muon's Newton–Schulz steps.
    """

    def __init__(self, table: Sequence[Param], tensors: Mapping[str, Tensor], recipe: OptimizerRecipe, dtype: torch.dtype) -> None:
        trained = [row for row in table if row.optimizer != "none"]
        assert {row.name for row in trained} == set(tensors), "the model's parameters are not those of the table"
        self._tensors = dict(tensors)
        self._clip = recipe.clip
        self.muon = Muon([(row, tensors[row.name]) for row in trained if row.optimizer == "muon"], momentum=recipe.momentum,
                         weight_decay=recipe.weight_decay, update_rms=recipe.update_rms, dtype=dtype)
        self.adamw = AdamW([(row, tensors[row.name]) for row in trained if row.optimizer == "adamw"], betas=(recipe.beta1, recipe.beta2),
                           eps=recipe.eps, weight_decay=recipe.weight_decay)

    @torch.no_grad()
    def step(self, lr: float, number: int) -> float:
        """Clip the gradients to the recipe's total norm, update every parameter, drop the gradients.

        Args:
            number: number of this step, from 1.

        Returns the norm of all gradients before clipping; when it isn't finite, nothing is updated.
        """
        grads = [tensor.grad for tensor in self._tensors.values() if tensor.grad is not None]
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))))
        if norm == norm and norm != float("inf"):
            if norm > self._clip:
                torch._foreach_mul_(grads, self._clip / norm)
            self.muon.step(lr)
            self.adamw.step(lr, number)
        for tensor in self._tensors.values():
            tensor.grad = None
        return norm

    def state(self) -> dict[str, Tensor]:
        """Every tensor the optimizers remember, by name; the tensors themselves, so loading copies into them."""
        return {**{f"momentum/{name}": tensor for name, tensor in self.muon.state.items()},
                **{f"mean/{name}": tensor for name, tensor in self.adamw.mean.items()},
                **{f"square/{name}": tensor for name, tensor in self.adamw.square.items()}}
