"""The model on the simulated npu, in fp32 with the reference kernels: training steps, prefill and decoding give the CPU's bits."""
from __future__ import annotations

import torch

from fathom.config import parameters
from fathom.config.recipe import OptimizerRecipe
from fathom.model import Batch, Run, State, Transformer
from fathom.train.loss import load, update_biases
from fathom.train.optim import Optimizers
from tests.npu.checks_simulation import same_on_both
from tests.oracle import joint_loss, randomise, tiny_config

CONFIG = tiny_config(num_hidden_layers=3, compress_ratios=(0, 4, 16, 4), hash_routed=(True, False, False), num_nextn_predict_layers=1)


BLOCKS = (5, 2, 8, 0, 11, 3, 7, 1, 10)  # of 16 tokens: the least common multiple of the ratios


def model_and_tokens(device: str, length: int) -> tuple[Transformer, torch.Tensor]:
    """The same weights and tokens whatever the device."""
    tokens = torch.randint(0, CONFIG.vocab_size, (length,), generator=torch.Generator().manual_seed(3))
    return randomise(Transformer(CONFIG), 5).to(device), tokens.to(device)


def check_two_training_steps():
    """The recipe's own loss, balance and optimizers: Muon, AdamW, MTP, router biases."""
    def work(device):
        model, tokens = model_and_tokens(device, 150)
        recipe, table = OptimizerRecipe(), parameters(CONFIG)
        optimizers = Optimizers(table, dict(model.named_parameters()), recipe, torch.float32)
        values = []
        for number in (1, 2):
            batch = Batch.pack([tokens[:97], tokens[97:]])
            loss, routing = joint_loss(model, tokens, batch)
            loss.backward()
            norm = optimizers.step(1e-3, number)
            used = [r for r in routing if not r.hash_routed]
            update_biases({r.name: model.tensors()[r.name + ".gate.bias"] for r in used}, {r.name: load(r) for r in used}, 1e-3)
            values.append([loss.detach(), norm])
        return [values, model.tensors()]
    same_on_both(work)


@torch.no_grad()
def check_prefill_and_decode():
    def work(device):
        model, tokens = model_and_tokens(device, 140)
        state = State(CONFIG, num_slots=2, num_blocks=12, precision="fp32", device=device)
        first = model(Batch(tokens[:130], (Run(0, 130, 1, BLOCKS),)), state).hidden
        drawn, last = [], first[-1:]
        for position in range(130, 138):
            token = model.logits(last).argmax(-1)
            drawn.append(token)
            last = model(Batch(token, (Run(position, 1, 1, BLOCKS),)), state).hidden
        return [first, torch.cat(drawn), last]
    same_on_both(work)
