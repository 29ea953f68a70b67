"""A training run in memory: model, optimizers, and where in the data it stands; one call is one step.

A step is a function of this state and nothing else:

    rows at `position` → micro-batches → losses, gradients summed → clip → Muon, AdamW → router biases → position, step + 1

`save` writes all of it, `load` reads it back to the bit. Weights go into the published layout in fp32 (the masters), so a
checkpoint of a run is a model like any other; what only training needs lies beside them in training.safetensors and training.json.
"""
from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import device as devices
from ..checkpoint import TensorFile, open_checkpoint, write_model, write_tensor_file
from ..config import ModelConfig, parameters
from ..config.recipe import Recipe
from ..errors import UserError
from ..model import Transformer
from ..text import Tokenizer
from ..text.special import FIM_BEGIN, FIM_END, FIM_HOLE
from .data.pack import FimIds, Packer, Position
from .data.store import TokenStore
from .durable import write_file
from .loss import Sample, Sizes, imbalance, losses, update_biases
from .optim import Optimizers
from .precision import DTYPES, repeatable
from .schedule import learning_rate, mtp_weight, stage_at

REMEDY = "remove the folder to resume from the checkpoint before, if there is one"


class Trainer:
    """The state of a run; starts from the recipe's seed, unless `start_from` gives it other weights.

    Args:
        recipe: resolved: no "auto" in it.
        data: folder of the token store, with the run's tokenizer.
    """

    def __init__(self, recipe: Recipe, config: ModelConfig, data: Path, device: torch.device) -> None:
        self.recipe, self.config, self.device = recipe, config, device
        self.tokenizer = Tokenizer.load(data)
        self.model = Transformer(config, dtype=torch.float32, compute_dtype=DTYPES[recipe.precision], device=device)
        self.model.init_weights(recipe.seed)
        self.optimizers = Optimizers(parameters(config), dict(self.model.named_parameters()), recipe.optimizer,
                                     DTYPES[recipe.optimizer.orthogonalize])
        fim = fim_ids(self.tokenizer, recipe.fim_rate)
        self._packers = {split: Packer(TokenStore(data, split), seed=recipe.seed, shuffle_documents=recipe.shuffled_documents,
                                       fim_rate=recipe.fim_rate, fim=fim) for split in {stage.split for stage in recipe.stage}}
        buffers = dict(self.model.named_buffers())
        self._biases = {name.removesuffix(".gate.bias"): buffers[name] for name in buffers if name.endswith(".gate.bias")}
        self.step, self.tokens, self.seconds, self.position = 0, 0, 0.0, Position()

    def train_step(self) -> dict[str, Any]:
        """One step; returns its line for metrics.jsonl.

        Raises:
            UserError: loss or gradients are no longer finite; weights are as before the step.
        """
        start = time.perf_counter()
        recipe, stage = self.recipe, stage_at(self.recipe, self.step)
        lr, weight = learning_rate(recipe, self.step), mtp_weight(recipe, self.step)
        at = self.position if self.position.split == stage.split else Position(split=stage.split)
        rows, position = self._packers[stage.split].take(at, stage.rows, stage.length)
        sizes = Sizes.of(rows)
        sums: dict[str, float] = {"main": 0.0, "mtp": 0.0, "balance": 0.0, "indexer": 0.0}
        loads: dict[str, Tensor] = {}
        with repeatable():
            for part in range(stage.micro_batches):
                part_rows = rows[part * len(rows) // stage.micro_batches:(part + 1) * len(rows) // stage.micro_batches]
                found = losses(self.model, Sample.of(part_rows, self.device), sizes, recipe.loss, weight,
                               sparse=stage.attention == "sparse")
                found.total.backward()
                for name in sums:
                    sums[name] += float(getattr(found, name))
                for name, counts in found.loads.items():
                    loads[name] = loads[name] + counts if name in loads else counts
            norm = self.optimizers.step(lr, self.step + 1)
            if not (math.isfinite(norm) and math.isfinite(sum(sums.values()))):
                raise UserError("loss", sums["main"], f"no longer finite at step {self.step + 1} (gradient norm {norm})",
                                "take a lower optimizer.lr or a longer schedule.warmup; the last checkpoint is from before")
            update_biases(self._biases, loads, recipe.loss.bias_step)
        devices.synchronize(self.device)
        seconds = time.perf_counter() - start
        self.step, self.position = self.step + 1, position
        self.tokens, self.seconds = self.tokens + sizes.tokens, self.seconds + seconds
        return {"step": self.step, "tokens": self.tokens, "loss": sums["main"], "mtp_loss": sums["mtp"], "balance_loss": sums["balance"],
                "index_loss": sums["indexer"],
                "imbalance": imbalance(loads), "lr": lr, "gradient_norm": norm, "epoch": self.position.epoch, "seconds": self.seconds,
                "tokens_per_second": sizes.tokens / seconds}

    def save(self, folder: Path) -> None:
        """Write a checkpoint into `folder` (empty): a model that anything can load, and the training state beside it."""
        write_model(folder, self.config, self.model.tensors(), dtype=torch.float32)
        self.tokenizer.save(folder)
        remembered = self.optimizers.state()
        specs = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in remembered.items()]
        write_tensor_file(folder / "training.safetensors", specs, remembered.values())
        state = {"step": self.step, "tokens": self.tokens, "seconds": self.seconds, "position": asdict(self.position),
                 "threads": torch.get_num_threads(), "torch": torch.__version__}
        write_file(folder / "training.json", json.dumps(state, indent=1) + "\n")

    def start_from(self, folder: Path) -> None:
        """Take the weights of a checkpoint, and nothing else of it: a run of its own begins.

        Raises:
            UserError: the checkpoint is damaged or belongs to another model.
        """
        open_checkpoint(folder).load_into(self.model.tensors())

    def load(self, folder: Path) -> str:
        """Take up the run where the checkpoint left it; returns a warning when the rest may differ in the last bits, else "".

        Raises:
            UserError: the checkpoint is damaged or belongs to another model.
        """
        open_checkpoint(folder).load_into(self.model.tensors())
        saved, own = TensorFile(folder / "training.safetensors"), self.optimizers.state()
        try:
            state = json.loads((folder / "training.json").read_text())
        except (OSError, ValueError) as error:
            raise UserError("checkpoint", folder / "training.json", f"a file that can be read, but: {error}", REMEDY) from error
        if {name: entry.shape for name, entry in saved.entries.items()} != {name: tuple(t.shape) for name, t in own.items()}:
            raise UserError("checkpoint", folder, "a training state of this model", REMEDY)
        for name, tensor in own.items():
            tensor.copy_(saved.tensor(name))
            saved.release(name)
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
        self.position = Position(**state["position"])
        now = {"threads": torch.get_num_threads(), "torch": torch.__version__}
        changed = [f"{name} {state[name]} → {value}" for name, value in now.items() if state[name] != value]
        return f"the run goes on with other arithmetic ({', '.join(changed)}): its last bits may differ" if changed else ""


def fim_ids(tokenizer: Tokenizer, rate: float) -> FimIds:
    """The tokens of fill-in-the-middle; a tokenizer without them is refused only when they are wanted."""
    begin, hole, end = (tokenizer.control_id(name) if rate else -1 for name in (FIM_BEGIN, FIM_HOLE, FIM_END))
    return FimIds(begin, hole, end, tokenizer.bos_id, tokenizer.eos_id)
