"""What a training run takes: tensors that live through it, memory a device by part, days and money.

Two levels. `persistent_bytes` is exact for our trainer in one process: fp32 masters, Muon's momentum or AdamW's two moments, the
routers' biases and tables. What a step adds to them is in step.py.

`plan_training` is an estimate for a cluster, by the recipe of the report: weights in BF16 and FP32 gradients on every rank that holds
a parameter; masters and optimizer state split by whole matrices over the ranks that share it; activations kept at block borders only
and recomputed, one micro-batch a sequence. A step's forward pass is serving's prompt step; backward takes twice as much, recomputing
once more. Pipelines idle (pp − 1) of (m + pp − 1) micro-batches. Gradients are reduced behind the backward pass as far as it lasts.

Source: SPEC sections 5 and 11.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..config import ModelConfig, Param, parameters
from ..errors import UserError
from .chips import Chip
from .flops import training_flops
from .profile import Profile, profile
from .search import MAX_CP, layouts
from .serving import Layout, prompt_step, share_of
from .units import bytes_text

DEVICE_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
MUON_STEPS = 10  # Newton–Schulz iterations of one update
PADDING = 1.1  # whole matrices don't divide evenly over ranks (SPEC 5: padding under 10%)
PASSES = {"compute": 4, "memory": 4, "link": 3, "overhead": 4}  # forward, recomputed forward, backward: twice the work, once the traffic


def persistent_bytes(config: ModelConfig) -> dict[str, int]:
    """Bytes of every tensor that our trainer keeps between steps, by part, in one process; exact.

    weights: fp32 masters.  momentum: Muon's, fp32.  moments: AdamW's two, fp32.  biases: the routers', fp32.  tables: int64.
    """
    rows = list(parameters(config))
    of = {kind: sum(p.numel for p in rows if p.optimizer == kind) for kind in ("muon", "adamw")}
    idle = [p for p in rows if p.optimizer == "none"]
    return {"weights": 4 * (of["muon"] + of["adamw"]), "momentum": 4 * of["muon"], "moments": 8 * of["adamw"],
            "biases": sum(4 * p.numel for p in idle if p.is_parameter), "tables": sum(8 * p.numel for p in idle if not p.is_parameter)}


def gradient_bytes(config: ModelConfig, *, mtp: bool = True, indexer: bool = True) -> int:
    """Bytes of all gradients at the end of a backward pass, fp32. mtp, indexer: whether those losses take part."""
    return sum(4 * p.numel for p in parameters(config) if gets_gradient(p, mtp, indexer))


def gets_gradient(param: Param, mtp: bool = True, indexer: bool = True) -> bool:
    """Whether a loss reaches a parameter. An indexer's output is a choice, which passes none: only its own loss reaches it."""
    reached = (indexer or ".indexer." not in param.name) and (mtp or not param.name.startswith("mtp."))
    return param.optimizer != "none" and reached


@dataclass(frozen=True)
class Run:
    """A training run: tokens in all, tokens a step, and tokens a sequence."""

    tokens: float
    batch: float
    length: int


@dataclass(frozen=True)
class TrainingOption:
    """What one layout does with a run.

    Attributes:
        memory: bytes a device by part; `room` is what its tensors may take.
        step: seconds of a step by part: compute, memory, link, overhead, bubble, gradients, optimizer.
        days, cost: of the whole run, in US$.  use: 6 · active · tokens over what the devices' datasheets promise in that time (MFU).
    """

    chip: str
    layout: Layout
    memory: dict[str, float]
    room: float
    step: dict[str, float]
    days: float
    cost: float
    use: float

    @property
    def needed(self) -> float:
        """Bytes a device needs."""
        return sum(self.memory.values())

    @property
    def binds(self) -> str:
        """The part that takes most of a step."""
        return max(self.step, key=lambda part: self.step[part])

    def data(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**asdict(self), "devices": self.layout.devices, "needed": self.needed, "binds": self.binds}


@dataclass(frozen=True)
class TrainingPlan:
    """Options, the cheapest first, and the nearest miss: its layout and why it failed. `flops`: 6 · active · tokens."""

    run: Run
    precision: str
    flops: float
    options: tuple[TrainingOption, ...]
    misses: tuple[tuple[str, Layout, str], ...]


def plan_training(config: ModelConfig, run: Run, chips: Sequence[Chip], *, precision: str = "official", devices: int | None = None,
                  days: float | None = None) -> TrainingPlan:
    """All layouts that finish the run, cheapest first.

    Args:
        precision: what matrices are multiplied in.  devices: exactly so many, else `DEVICE_COUNTS`.  days: at most so many.

    Raises:
        UserError: impossible run. That nothing fits is not an error here; `misses` says what was nearest.
    """
    _check(config, run, devices, days)
    p, muon = profile(config, precision), muon_flops(config)
    flops = training_flops(config, run.tokens)
    counts = _Counts.of(config)
    options: list[TrainingOption] = []
    misses: dict[tuple[str, int], tuple[float, Layout, str]] = {}
    for chip in chips:
        for number in (devices,) if devices else DEVICE_COUNTS:
            for layout in layouts(p, chip, number):
                if layout.dp * run.length > run.batch or layout.cp > MAX_CP:
                    continue
                option = _predict(p, counts, chip, layout, run, flops, muon)
                late = days is not None and option.days > days
                missing = option.needed - option.room
                if missing <= 0 and not late:
                    options.append(option)
                    continue
                why = f"needs {bytes_text(missing)} a device more" if missing > 0 else f"takes {option.days:,.0f} days"
                miss = (missing if missing > 0 else -1 / option.days, layout, why)
                key = (chip.id, number)
                misses[key] = min(misses.get(key, miss), miss, key=lambda m: m[0])
    done = {(o.chip, o.layout.devices) for o in options}
    options.sort(key=lambda o: (o.cost, o.layout.devices))
    failed = tuple((chip, layout, why) for (chip, number), (_, layout, why) in misses.items() if (chip, number) not in done)
    return TrainingPlan(run, precision, flops, tuple(options), failed)


def _check(config: ModelConfig, run: Run, devices: int | None, days: float | None) -> None:
    if not 1 <= run.length <= config.max_position_embeddings:
        raise UserError("length", run.length, f"1 to {config.max_position_embeddings} tokens a sequence")
    if not (run.tokens > 0 and math.isfinite(run.tokens)):
        raise UserError("train-tokens", run.tokens, "a number above 0")
    if not run.length <= run.batch <= run.tokens:
        raise UserError("batch", run.batch, f"at least one sequence ({run.length} tokens) and at most all {run.tokens:g} tokens")
    if devices is not None and devices < 1:
        raise UserError("devices", devices, "1 or more")
    if days is not None and days <= 0:
        raise UserError("days", days, "a number above 0")


@dataclass(frozen=True)
class _Counts:
    """Trained parameters by where they live: cut by tensor parallelism, held whole, in experts, in embedding and head."""

    cut: int
    whole: int
    experts: int
    vocab: int

    @classmethod
    def of(cls, config: ModelConfig) -> _Counts:
        sums = dict.fromkeys(("cut", "whole", "experts", "vocab"), 0)
        for p in parameters(config.without_mtp()):
            if p.optimizer != "none":
                place = "vocab" if p.name in ("embed.weight", "head.weight") else "cut" if p.tp_axis is not None else "whole"
                sums["experts" if p.experts else place] += p.numel
        return cls(**sums)


def _predict(p: Profile, n: _Counts, chip: Chip, layout: Layout, run: Run, flops: float, muon: float) -> TrainingOption:
    """Memory and time of one layout."""
    share = share_of(p, layout)
    vocab = n.vocab / layout.tp / min(2, layout.pp)
    dense = (n.cut / layout.tp + n.whole) * share + vocab
    experts = n.experts / layout.ep * share
    sharers, expert_sharers = layout.dp * layout.cp, layout.stage // layout.ep
    optimizer = PADDING * ((8 * dense + 4 * vocab) / sharers + 8 * experts / expert_sharers)  # master and momentum, or AdamW's two
    streams = p.streams * p.hidden * p.item
    working = 4 * (streams + 2 * p.heads / layout.tp * p.head_dim * p.item + p.chosen * (p.hidden + 3 * p.expert_width) * p.item)
    tokens = run.length / layout.cp
    memory = {"weights": 2 * (dense + experts), "gradients": 4 * (dense + experts), "masters and optimizer": optimizer,
              "activations": tokens * (streams * -(-p.layers // layout.pp) * layout.pp + working)}
    once = prompt_step(p, chip, layout, run.length, run.length)
    micro = run.batch / (layout.dp * run.length)  # micro-batches of a group in a step
    step = {kind: passes * micro * getattr(once, kind) for kind, passes in PASSES.items()}
    step["bubble"] = sum(step.values()) / micro * (layout.pp - 1)
    wire = (chip.scale_up if layout.devices <= chip.domain else chip.scale_out) * chip.efficiency.links
    moved = 6 * (dense * (sharers - 1) / sharers + experts * (expert_sharers - 1) / expert_sharers) / wire  # gradients FP32, weights BF16
    step["gradients"] = max(0.0, moved - sum(step.values()) / 2)
    step["optimizer"] = muon / layout.devices / chip.rate("bf16")
    seconds = sum(step.values()) * run.tokens / run.batch
    peak = chip.flops[chip.computes_in(p.expert_format)] * layout.devices
    return TrainingOption(chip.id, layout, memory, chip.memory * chip.efficiency.usable, step, seconds / 86400,
                          seconds / 3600 * layout.devices * chip.price, flops / (peak * seconds))


def muon_flops(config: ModelConfig) -> float:
    """FLOPs of one Muon update: ten Newton–Schulz iterations on each independent matrix n × m, n ≤ m: 4n²m + 2n³ each."""
    total = 0.0
    for p in parameters(config.without_mtp()):
        if p.optimizer != "muon":
            continue
        rows, cols = p.shape[-2:]
        for part in p.row_parts or (rows,):
            n, m = sorted((part, cols))
            total += max(1, p.experts) * MUON_STEPS * (4 * n * n * m + 2 * n**3)
    return total
