"""How far bf16 takes a whole model from fp32: ours beside transformers', the same weights and tokens in both.

    python -m tests.laws.closeness 2048 16384 [--device auto]

The distance is the root mean square of the logits' difference from the reference kernels' in fp32, as a share of these logits' own,
over all positions. Every side reads the prompt in pieces with what it keeps in between; transformers reads its weights from a file,
so that it keeps in fp32 what it wants there.
"""
from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable

import torch
from torch import Tensor

from fathom.config import ModelConfig, resolve_config
from fathom.device import choose_device
from fathom.model import Batch, Run, State, Transformer, kernel_rows
from tests.oracle import build_oracle, randomise

PIECE = 2048


def our_logits(model: Transformer, tokens: Tensor) -> Callable[[Tensor], Tensor]:
    """Continues one sequence piece by piece: tokens [N] → logits [N, vocab_size]."""
    blocks = torch.arange(-(-len(tokens) // model.config.block_size)).numpy()
    state, at = State(model.config, num_slots=1, num_blocks=len(blocks), precision=model.precision, device=tokens.device), 0

    def proceed(piece: Tensor) -> Tensor:
        nonlocal at
        run, at = Run(at, len(piece), 0, blocks), at + len(piece)
        return model.logits(model(Batch(piece, (run,)), state).hidden)

    return proceed


def their_logits(oracle: torch.nn.Module) -> Callable[[Tensor], Tensor]:
    """The same of transformers."""
    cache = None

    def proceed(piece: Tensor) -> Tensor:
        nonlocal cache
        out = oracle(piece[None], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        return out.logits[0]

    return proceed


def in_bf16(plain: Transformer, choice: str, device: torch.device) -> Transformer:
    """The same weights in bf16 on the kernels of this choice."""
    rows = kernel_rows(plain.config, device, "bf16", choice)
    model = Transformer(plain.config, dtype=torch.bfloat16, precision="bf16", rows=rows, device=device)
    targets = model.tensors()
    for name, values in plain.tensors().items():
        targets[name].copy_(values)
    return model.requires_grad_(False)


def theirs_in_bf16(plain: Transformer) -> torch.nn.Module:
    """transformers' model, its weights read in bf16."""
    with tempfile.TemporaryDirectory() as folder:
        oracle = build_oracle(plain)
        oracle.save_pretrained(folder)
        return type(oracle).from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="eager").eval()


@torch.no_grad()
def distances(config: ModelConfig, length: int, say: Callable[[str, float], None] = lambda side, distance: None,
              device: torch.device | None = None) -> dict[str, float]:
    """Each side's distance from fp32 on one random prompt of `length` tokens; all on `device`, the CPU unless given."""
    device = device or torch.device("cpu")
    plain = randomise(Transformer(config), 7)
    tokens = torch.randint(0, config.vocab_size, (length,), generator=torch.Generator().manual_seed(length)).to(device)
    sides = {"native": lambda: our_logits(in_bf16(plain, "auto", device), tokens)} if device.type == "cpu" else {}
    sides |= {"reference": lambda: our_logits(in_bf16(plain, "reference", device), tokens),
              "transformers": lambda: their_logits(theirs_in_bf16(plain).to(device))}
    begun = {side: begin() for side, begin in sides.items()}
    reference = our_logits(plain.to(device), tokens)
    off, size = dict.fromkeys(begun, 0.0), 0.0
    for piece in tokens.split(PIECE):
        exact = reference(piece).double().cpu()
        size += float(exact.square().sum())
        for side, proceed in begun.items():
            off[side] += float((proceed(piece).double().cpu() - exact).square().sum())
    found = {side: (part / size) ** 0.5 for side, part in off.items()}
    for side, distance in found.items():
        say(side, distance)
    return found


if __name__ == "__main__":
    choice = sys.argv[sys.argv.index("--device") + 1] if "--device" in sys.argv else "cpu"
    for length in map(int, filter(str.isdigit, sys.argv[1:])):
        print(f"{length} tokens")
        distances(resolve_config("bench-130m"), length, lambda side, distance: print(f"{side:14}{distance:.4f}", flush=True), choose_device(choice))
