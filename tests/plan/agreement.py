"""Random deployments, what Python makes of them, and how to ask JavaScript the same; shared by the node and the browser test."""
import json
import random
from dataclasses import asdict
from importlib import resources

import pytest

from fathom.config import preset
from fathom.plan.chips import load_chips
from fathom.plan.cost import break_even, costs
from fathom.plan.page import LIMITS
from fathom.plan.profile import profile
from fathom.plan.search import layouts
from fathom.plan.serving import Load, predict
from fathom.prices import load_prices

EVALUATE = """
const answer = (c) => {
  const prediction = Plan.predict(c.profile, c.chip, c.layout, c.load, LIMITS.chunk);
  const costs = Plan.costs(prediction, c.chip, c.layout, c.load);
  return {prediction, costs, break_even: Plan.breakEven(costs, c.price, c.load),
          layouts: Plan.layouts(c.profile, c.chip, Plan.devicesOf(c.layout), LIMITS)};
};
"""


def cases(count: int, seed: int = 0) -> list[dict]:
    """Inputs of single predictions with what Python makes of them."""
    rng, chips, price = random.Random(seed), list(load_chips().values()), load_prices().rows[0]
    out = []
    while len(out) < count:
        config = preset(rng.choice(["v4-pro", "v4-flash", "bench-130m"]))
        p = profile(config, rng.choice(["fp32", "bf16", "fp16", "fp8", "official"]))
        chip = rng.choice(chips)
        grids = list(layouts(p, chip, rng.choice([1, 2, 6, 8, 16, 64, 96, 384])))
        layout = rng.choice(grids)
        context = int(2 ** rng.uniform(4, 20))
        load = Load(context, int(2 ** rng.uniform(0, 12)), rng.randint(1, context - 1), rng.choice([0.0, 0.3, 1.0]))
        prediction = predict(p, chip, layout, load)
        cost = costs(prediction, chip, layout, load)
        out.append({"profile": p.data(), "chip": chip.data(), "layout": asdict(layout), "load": asdict(load),
                    "prediction": prediction.data(), "costs": asdict(cost),
                    "price": {k: getattr(price, k) / 1e9 for k in ("cached", "input", "output")},
                    "break_even": break_even(cost, price, load).data(),
                    "layouts": [asdict(g) for g in grids]})
    return out


def program(script: str) -> str:
    """The page's arithmetic, `answer` for one case, and a script that uses them."""
    source = resources.files("fathom.plan").joinpath("arithmetic.js").read_text(encoding="utf-8")
    return "\n".join((source, f"const LIMITS = {json.dumps(LIMITS)};", EVALUATE, script))


def differences(ours, theirs, path="") -> list[str]:
    """Where two JSON values differ by more than 1e-9 relative. Keys that only Python has are not compared."""
    if isinstance(ours, dict):
        missing = [f"{path}.{k}: only in the page" for k in theirs.keys() - ours.keys()]
        return missing + [d for k in ours.keys() & theirs.keys() for d in differences(ours[k], theirs[k], f"{path}.{k}")]
    if isinstance(ours, list | tuple):
        return [d for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) for d in differences(a, b, f"{path}[{i}]")]
    if isinstance(ours, int | float):
        return [] if ours == pytest.approx(theirs, rel=1e-9, abs=1e-15) else [f"{path}: {ours} here, {theirs} in the page"]
    return [] if ours == theirs else [f"{path}: {ours} here, {theirs} in the page"]
