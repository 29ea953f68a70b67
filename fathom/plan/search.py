"""Which layout carries a load cheapest, and why the others don't.

Every sensible grid is tried: tensor parallelism in powers of two inside one fast domain (it must divide the output groups and the
index heads), context parallelism in powers of two, pipeline stages, the rest data parallel; the experts of a stage over all its
devices, or over those of one domain. What fits and is fast enough is sorted by what a request costs; what isn't is kept with the
reason and by how much it missed.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..config import ModelConfig
from ..errors import UserError
from .chips import Chip
from .cost import Costs, costs
from .profile import Profile, profile
from .serving import Layout, Load, Prediction, memory, predict
from .units import bytes_text, time_text

DEVICE_COUNTS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
MAX_CP, MAX_PP = 16, 16


@dataclass(frozen=True)
class Option:
    """A layout that carries the load."""

    chip: str
    layout: Layout
    prediction: Prediction
    costs: Costs

    def data(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"chip": self.chip, "devices": self.layout.devices, "layout": asdict(self.layout), **self.prediction.data(),
                "costs": asdict(self.costs)}


@dataclass(frozen=True)
class Rejected:
    """A layout that doesn't: `reason` is "memory", "speed" or "wait", `missing` the bytes, tokens/s or seconds it missed by."""

    chip: str
    layout: Layout
    reason: str
    missing: float

    @property
    def text(self) -> str:
        """The reason in words."""
        return {"memory": f"needs {bytes_text(self.missing)} a device more", "speed": f"{self.missing:.3g} tokens/s a user too slow",
                "wait": f"the first token comes {time_text(self.missing)} too late"}[self.reason]

    def data(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"chip": self.chip, "devices": self.layout.devices, "layout": asdict(self.layout), "reason": self.reason,
                "missing": self.missing, "text": self.text}


@dataclass(frozen=True)
class Wishes:
    """Limits on what a user of the service sees: tokens/s at least, seconds to the first token at most."""

    speed: float = 0.0
    wait: float = math.inf

    def __post_init__(self) -> None:
        if not self.speed >= 0 or math.isinf(self.speed):
            raise UserError("speed", self.speed, "tokens/s, 0 or more")
        if not self.wait > 0:
            raise UserError("wait", self.wait, "seconds, more than 0")


@dataclass(frozen=True)
class ServingPlan:
    """Options, the cheapest request first; of what failed, the nearest miss of each chip and device count. `tried` counts layouts."""

    load: Load
    precision: str
    options: tuple[Option, ...]
    rejected: tuple[Rejected, ...]
    tried: int


def check_load(config: ModelConfig, load: Load) -> None:
    """Raises UserError for a load that no deployment can have."""
    if not 2 <= load.context <= config.max_position_embeddings:
        raise UserError("context", load.context, f"2 to {config.max_position_embeddings} tokens")
    if not 1 <= load.answer < load.context:
        raise UserError("answer", load.answer, f"at least 1 and fewer than the context's {load.context} tokens")
    if load.users < 1:
        raise UserError("users", load.users, "1 or more sequences at once")
    if not 0 <= load.hit <= 1:
        raise UserError("hit", load.hit, "a share from 0 to 1")


def plan_serving(config: ModelConfig, load: Load, chips: Sequence[Chip], *, precision: str = "official", devices: int | None = None,
                 wishes: Wishes | None = None) -> ServingPlan:
    """All layouts of the given chips that carry the load, cheapest first.

    Args:
        devices: exactly so many; None tries `DEVICE_COUNTS`.

    Raises:
        UserError: an impossible load, precision or number of devices. That nothing fits is not an error here: see `nothing_fits`.
    """
    check_load(config, load)
    if devices is not None and devices < 1:
        raise UserError("devices", devices, "1 or more")
    p, wishes = profile(config, precision), wishes or Wishes()
    options: list[Option] = []
    nearest: dict[tuple[str, int], Rejected] = {}
    tried = 0
    for chip in chips:
        for count in (devices,) if devices else DEVICE_COUNTS:
            for layout in layouts(p, chip, count, load.users):
                tried += 1
                found = judge(p, chip, layout, load, wishes)
                if isinstance(found, Option):
                    options.append(found)
                else:
                    key = (chip.id, count)
                    nearest[key] = min(nearest.get(key, found), found, key=_nearness)
    carried = {(o.chip, o.layout.devices) for o in options}
    options.sort(key=lambda o: (o.costs.request, o.layout.devices))
    return ServingPlan(load, precision, tuple(options), tuple(r for key, r in nearest.items() if key not in carried), tried)


def _nearness(rejected: Rejected) -> tuple[int, float]:
    """Sorts near misses first: what fits but is slow comes before what doesn't fit."""
    return int(rejected.reason == "memory"), rejected.missing


def judge(p: Profile, chip: Chip, layout: Layout, load: Load, wishes: Wishes) -> Option | Rejected:
    """A layout as an option, or the first reason why it is none."""
    short = sum(memory(p, chip, layout, load).values()) - chip.memory * chip.efficiency.usable
    if short > 0:
        return Rejected(chip.id, layout, "memory", short)
    prediction = predict(p, chip, layout, load)
    if 1 / prediction.token_time < wishes.speed:
        return Rejected(chip.id, layout, "speed", wishes.speed - 1 / prediction.token_time)
    if prediction.first_token > wishes.wait:
        return Rejected(chip.id, layout, "wait", prediction.first_token - wishes.wait)
    return Option(chip.id, layout, prediction, costs(prediction, chip, layout, load))


def layouts(p: Profile, chip: Chip, devices: int, users: float = math.inf) -> Iterator[Layout]:
    """Every sensible grid of exactly `devices` devices, each once; no more data-parallel groups than users."""
    for tp in _powers(min(devices, chip.domain)):
        if p.groups % tp or p.index_heads % tp or devices % tp:
            continue
        for pp in range(1, min(devices // tp, p.layers, MAX_PP) + 1):
            if devices % (tp * pp):
                continue
            stage = devices // pp
            for cp in _powers(min(stage // tp, MAX_CP)):
                if stage % (tp * cp) or stage // (tp * cp) > users:
                    continue
                for ep in sorted({math.gcd(stage, p.experts), math.gcd(math.gcd(stage, chip.domain), p.experts)}, reverse=True):
                    yield Layout(tp, ep, pp, cp, stage // (tp * cp))


def _powers(most: int) -> Iterator[int]:
    size = 1
    while size <= most:
        yield size
        size *= 2


def best_by_devices(options: Iterable[Option]) -> list[Option]:
    """Of options in order of cost, the first of each chip and device count; keeps the order."""
    seen: set[tuple[str, int]] = set()
    return [o for o in options if (key := (o.chip, o.layout.devices)) not in seen and not seen.add(key)]  # type: ignore[func-returns-value]


def nothing_fits(config: ModelConfig, name: str, plan: ServingPlan, chips: Sequence[Chip], devices: int | None) -> UserError:
    """The one line for a plan without options: what is missing, by how much, and what would carry the load."""
    assert not plan.options
    if not plan.rejected:
        return UserError("devices", devices, f"no grid of so many: stages at most {MAX_PP}, tensor parallelism inside one fast domain",
                         "take a number with small divisors, such as 8, 16 or 24")
    near = min(plan.rejected, key=_nearness)
    chip = next(c for c in chips if c.id == near.chip)
    field = f"{name} at {plan.precision} on {near.layout.devices} × {near.chip}"
    if near.reason != "memory":
        return UserError(field, None, f"{near.text} (best layout: {near.layout})", "take more or faster devices, or ask for less")
    room = chip.memory * chip.efficiency.usable
    in_all = near.missing * near.layout.devices
    text = (f"does not fit: {near.text} than the {bytes_text(room)} of its {bytes_text(chip.memory)} that tensors may take, "
            f"{bytes_text(in_all)} in all (best layout: {near.layout})")
    more = plan_serving(config, plan.load, [chip], precision=plan.precision).options if devices else ()
    enough = min((o.layout.devices for o in more), default=None)
    remedy = f"take {enough} devices, or a narrower precision" if enough else "take a narrower precision or larger devices"
    return UserError(field, None, text, remedy)
