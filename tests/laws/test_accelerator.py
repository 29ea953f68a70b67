"""The laws on this machine's accelerator, with the CPU beside it; skipped where there is none.

In fp32, where the two differ by the order of their sums alone. `fathom bench --device auto` measures the same machine's speed.
"""
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fathom.cli import main
from fathom.config import parameters, resolve_config
from fathom.config.recipe import OptimizerRecipe
from fathom.device import choose_device, device_name, device_type
from fathom.engine import Engine, Request, Sampling
from fathom.model import Batch, Run, State, Transformer
from fathom.train.optim import Optimizers
from tests.laws.closeness import distances
from tests.oracle import joint_loss, randomise, tiny_config

pytestmark = pytest.mark.skipif(device_type() == "cpu", reason="needs an accelerator")
CPU = torch.device("cpu")
CONFIG = tiny_config(num_hidden_layers=4, compress_ratios=(0, 4, 16, 4, 4), hash_routed=(True, False, False, False), num_nextn_predict_layers=1)
LENGTH = 600
CLOSE = {"atol": 1e-4, "rtol": 0}


def tokens(length: int = LENGTH) -> Tensor:
    return torch.randint(0, CONFIG.vocab_size, (length,), generator=torch.Generator().manual_seed(2))


def model_on(device: torch.device) -> Transformer:
    return randomise(Transformer(CONFIG), 11).to(device)


def both(work: Callable[[torch.device], list[Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """What `work` gives on the accelerator and on the CPU, both on the CPU."""
    there = [t.detach().cpu() for t in work(choose_device())]
    return there, [t.detach() for t in work(CPU)]


def same(work: Callable[[torch.device], list[Tensor]]) -> None:
    for there, here in zip(*both(work), strict=True):
        torch.testing.assert_close(there, here, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("documents", [(LENGTH,), (1, 130, 469)])
def test_logits(documents: tuple[int, ...]) -> None:
    """One document and several packed ones."""
    def work(device: torch.device) -> list[Tensor]:
        model = model_on(device)
        return [model.logits(model(Batch.pack(list(tokens().to(device).split(list(documents))))).hidden)]

    same(work)


@torch.no_grad()
@pytest.mark.parametrize("piece", [600, 128, 77, 1])
def test_in_pieces_as_whole(piece: int) -> None:
    """Chunks with what is kept in between, beside one forward without any, both on the accelerator."""
    device = choose_device()
    model, prompt = model_on(device), tokens().to(device)[: 600 if piece > 1 else 90]
    whole = model(Batch.pack([prompt])).hidden
    blocks = torch.arange(-(-len(prompt) // CONFIG.block_size)).flip(0).numpy()
    state, parts, at = State(CONFIG, num_slots=1, num_blocks=len(blocks), precision="fp32", device=device), [], 0
    for part in prompt.split(piece):
        parts.append(model(Batch(part, (Run(at, len(part), 0, blocks),)), state).hidden)
        at += len(part)
    torch.testing.assert_close(torch.cat(parts), whole, **CLOSE)


def test_two_training_steps() -> None:
    """Loss, second prediction, gradients and the recipe's optimizers: Muon's orthogonal updates amplify, so weights get more room."""
    def work(device: torch.device) -> list[Tensor]:
        model, text = model_on(device), tokens(200).to(device)
        optimizers = Optimizers(parameters(CONFIG), dict(model.named_parameters()), OptimizerRecipe(), torch.float32)
        losses = []
        for number in (1, 2):
            batch = Batch.pack([text[:97], text[97:]])
            loss, _ = joint_loss(model, text, batch)
            loss.backward()
            losses += [loss, *(p.grad for p in model.parameters() if p.grad is not None and number == 1)]
            losses = [t.detach().clone() for t in losses]
            optimizers.step(1e-3, number)
        return losses

    for there, here in zip(*both(work), strict=True):
        assert (there - here).norm() <= 1e-3 * here.norm() + 1e-6


def test_the_engine_answers_alike() -> None:
    """Several requests at once, cached prefixes, drafts: greedy tokens and their probabilities."""
    def work(device: torch.device) -> list[Tensor]:
        engine = Engine(model_on(device), memory=16 << 20, mark_memory=4 << 20, chunk=64, sequences=3, speculate="always")
        found = []
        for _ in range(2):
            tickets = [engine.submit(Request(tuple(tokens(150 + i).tolist()), 20, Sampling(0))) for i in range(4)]
            answers = [list(ticket) for ticket in tickets]
            found += [torch.tensor([o.token_id for o in answer]) for answer in answers]
            found += [torch.tensor([o.logprob for o in answer]) for answer in answers]
        assert engine.stats().hit_tokens and engine.stats().drafted
        return found

    same(work)


@torch.no_grad()
@pytest.mark.parametrize("precision", ["bf16", "official"])
def test_other_precisions_stay_near(precision: str) -> None:
    """Rounded differently here and there, yet no farther from fp32 than the CPU, but for a quarter."""
    config = resolve_config("nano")
    prompt = torch.randint(0, config.vocab_size, (300,), generator=torch.Generator().manual_seed(3))
    plain = randomise(Transformer(config), 5)

    def work(device: torch.device) -> list[Tensor]:
        model = Transformer(config, dtype=torch.bfloat16, precision=precision, device=device)
        targets = model.tensors()
        for name, values in plain.tensors().items():
            targets[name].copy_(values)
        return [model.logits(model(Batch.pack([prompt.to(device)])).hidden).float()]

    (there,), (here,) = both(work)
    exact = plain.logits(plain(Batch.pack([prompt])).hidden)
    assert (there - exact).norm() <= 1.25 * (here - exact).norm()


@pytest.mark.check
def test_bf16_as_close_as_transformers() -> None:
    found = distances(resolve_config("bench-130m"), 2048, device=choose_device())
    print(found)
    assert 0 < found["reference"] <= found["transformers"]


def test_the_doctor_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == 0 and device_name(choose_device()) in capsys.readouterr().out.replace("\n", " ")
