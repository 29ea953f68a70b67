"""The ledger of a training step against the allocator: what the profiler recorded while the trainer's own functions ran."""
import dataclasses

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as record

from fathom.config import parameters, preset
from fathom.config.recipe import LossRecipe, OptimizerRecipe
from fathom.errors import UserError
from fathom.model import Transformer
from fathom.plan.step import Micro, saved_by_operator, step_memory
from fathom.plan.training import gradient_bytes, persistent_bytes
from fathom.train.loss import Sample, Sizes, losses
from fathom.train.optim import Optimizers

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
NANO = preset("nano")
WIDE = dataclasses.replace(NANO, hidden_size=384, num_hidden_layers=4, compress_ratios=(4, 128, 0, 4, 128), hash_routed=(False, False, True, False),
                           num_attention_heads=6, o_groups=3, n_routed_experts=8, moe_intermediate_size=96, vocab_size=1000)


def built(config, precision="fp32", device="cpu"):
    model = Transformer(config, dtype=torch.float32, compute_dtype=DTYPES[precision], device=device)
    return model, Optimizers(parameters(config), dict(model.named_parameters()), OptimizerRecipe(), torch.float32)


@pytest.mark.parametrize("name", ["nano", "bench-130m", "v4-flash", "v4-pro"])
def test_persistent_tensors_are_exactly_those_of_the_trainer(name):
    """On the meta device: every tensor is made, none takes memory."""
    model, optimizers = built(preset(name), device="meta")
    state, found = optimizers.state(), persistent_bytes(preset(name))
    of = lambda start: sum(t.nbytes for n, t in state.items() if n.startswith(start))
    assert sum(p.nbytes for p in model.parameters()) == found["weights"]
    assert of("momentum/") == found["momentum"] and of("mean/") + of("square/") == found["moments"]
    assert sum(b.nbytes for b in model.buffers() if b.dtype == torch.float32) == found["biases"]
    assert sum(b.nbytes for b in model.buffers() if b.dtype == torch.int64) == found["tables"]
    assert sum(t.nbytes for t in model.tensors().values()) + sum(t.nbytes for t in state.values()) == sum(found.values())


def allocated_peak(run) -> int:
    """Bytes above those at the start, at the fullest moment of `run()`, as the CPU allocator reported them to the profiler."""
    with record(activities=[ProfilerActivity.CPU], profile_memory=True) as recorder:
        run()
    events = sorted((e.start_ns(), i, e.nbytes()) for i, e in enumerate(recorder.profiler.kineto_results.events()) if e.name() == "[memory]")
    return int(np.cumsum([size for *_, size in events]).max())


@pytest.mark.parametrize("config, micro", [
    pytest.param(NANO, Micro(256, 1), id="nano"),
    pytest.param(NANO, Micro(16, 1), id="optimizer at the top"),
    pytest.param(NANO, Micro(512, 4), id="nano, several slices of logits", marks=pytest.mark.check),
    pytest.param(WIDE, Micro(300, 2, "bf16", sparse=False), id="wide, dense, bf16", marks=pytest.mark.check),
    pytest.param(NANO, Micro(256, 4, "bf16", indexer=False), id="nano, bf16, indexers at rest", marks=pytest.mark.check),
])
def test_a_steps_peak_is_within_five_percent(config, micro):
    model, optimizers = built(config, micro.precision)
    model.init_weights(0)
    rng = np.random.default_rng(0)
    rows = [[rng.integers(0, config.vocab_size, micro.length + 1)] for _ in range(micro.rows)]
    sample, sizes, recipe = Sample.of(rows, torch.device("cpu")), Sizes.of(rows), LossRecipe(indexer=float(micro.indexer))

    def step(number):
        losses(model, sample, sizes, recipe, 0.3 * micro.mtp, sparse=micro.sparse).total.backward()
        optimizers.step(1e-4, number)

    step(1)
    recorded = sum(persistent_bytes(config).values()) + allocated_peak(lambda: step(2))
    predicted = step_memory(config, micro, orthogonalize="fp32")
    assert predicted["peak"] == pytest.approx(recorded, rel=0.05), predicted


def test_gradients_of_a_backward_pass():
    for indexer in (True, False):
        model, _ = built(NANO)
        model.init_weights(0)
        rows = [[np.arange(65) % 50]]
        losses(model, Sample.of(rows, torch.device("cpu")), Sizes.of(rows), LossRecipe(indexer=float(indexer)), 0.3).total.backward()
        assert sum(p.grad.nbytes for p in model.parameters() if p.grad is not None) == gradient_bytes(NANO, indexer=indexer)


def test_what_the_ledger_depends_on():
    small, large = (step_memory(NANO, Micro(512, rows)) for rows in (2, 4))
    assert large["activations"] == pytest.approx(2 * small["activations"], rel=0.01)
    assert large["persistent"] == small["persistent"] and large["optimizer"] == small["optimizer"]
    assert step_memory(NANO, Micro(512, 2), micro_batches=2)["peak"] == small["peak"] + gradient_bytes(NANO)
    assert "index loss" not in saved_by_operator(NANO, Micro(512, 2, indexer=False))
    assert step_memory(NANO, Micro(512, 2, "bf16"))["casts"] > 0 == small["casts"]


@pytest.mark.parametrize("arguments", [(1, 1), (512, 0), (512, 1, "official")])
def test_impossible_micro_batches(arguments):
    with pytest.raises(UserError):
        Micro(*arguments)
