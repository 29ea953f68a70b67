"""One small model with every mechanism, as a bf16 checkpoint, as a simulation, and as ours on each set of kernels."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fathom.checkpoint import open_checkpoint, save_checkpoint
from fathom.config import Yarn
from fathom.model import Transformer
from fathom.ops import Row
from fathom.ops.native.kernels import OPERATORS, Official
from tests.official.whole import Simulation
from tests.ops.native_isas import ALL, native
from tests.oracle import randomise, tiny_config

# Sides that no block divides, more CSA entries than the indexer may choose, YaRN well within the prompt.
CONFIG = tiny_config(vocab_size=128, hidden_size=192, num_hidden_layers=4, num_attention_heads=4, head_dim=96, qk_rope_head_dim=16, q_lora_rank=96,
                     o_groups=2, o_lora_rank=48, n_routed_experts=6, num_experts_per_tok=3, moe_intermediate_size=160, index_n_heads=4,
                     index_head_dim=64, index_topk=8, compress_ratios=(0, 4, 16, 4, 0), hash_routed=(True, False, False, False), sliding_window=16,
                     num_nextn_predict_layers=1, rope_scaling=Yarn(16.0, 64), swiglu_limit=1.5)
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, 101)  # the last one is only the MTP block's next token


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bf16 checkpoint of CONFIG."""
    path = tmp_path_factory.mktemp("official") / "bf16"
    save_checkpoint(path, CONFIG, randomise(Transformer(CONFIG), 3).tensors())
    return path


@pytest.fixture(scope="session")
def simulation(folder: Path) -> Simulation:
    """Of the same weights; all steps of TOKENS have been taken."""
    checkpoint = open_checkpoint(folder)
    made = Simulation(CONFIG, {name: checkpoint.tensor(name).to(torch.float64 if p.storage != "int64" else torch.int64).numpy()
                               for name, p in checkpoint.params.items()})
    made.first, made.second = made.logits(TOKENS[:-1]), made.second_logits(TOKENS[1:])
    return made


@pytest.fixture(scope="session", params=["reference", *ALL])
def model(request: pytest.FixtureRequest, folder: Path) -> Transformer:
    """Ours, quantised as it is loaded."""
    return load(folder, request.param)


def load(folder: Path, kernels: str) -> Transformer:
    """A checkpoint in precision `official`, on the reference kernels or one instruction set."""
    checkpoint, rows = open_checkpoint(folder), ()
    if kernels != "reference":
        fast = Official(native(kernels).ext, checkpoint.config.qk_rope_head_dim)
        rows = tuple(Row(op, "cpu", "official", False, "native", getattr(fast, op), "", fast.packer) for op in OPERATORS)
    formats = checkpoint.formats(official=True)
    model = Transformer(checkpoint.config, dtype=torch.bfloat16, precision="official", rows=rows, formats=formats)
    checkpoint.load_into(model.tensors(), formats=formats)
    return model.requires_grad_(False)
