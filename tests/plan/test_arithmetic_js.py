"""The page's arithmetic is the planner's: the same numbers for random models, chips, layouts and loads.

Run by node where it is installed; the browser itself is asked in test_page.py (`make check`).
"""
import json
import random
import shutil
import subprocess
from dataclasses import asdict
from importlib import resources

import pytest

from fathom.config import preset
from fathom.plan.chips import load_chips
from fathom.plan.cost import break_even, costs
from fathom.plan.profile import profile
from fathom.plan.search import MAX_CP, MAX_PP, best_by_devices, layouts, plan_serving
from fathom.plan.serving import CHUNK, Load, predict
from fathom.prices import load_prices

LIMITS = {"chunk": CHUNK, "cp": MAX_CP, "pp": MAX_PP}


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


def differences(ours, theirs, path="") -> list[str]:
    """Where two JSON values differ by more than 1e-9 relative; keys that only Python has are not compared."""
    if isinstance(ours, dict):
        return [d for k in ours.keys() & theirs.keys() for d in differences(ours[k], theirs[k], f"{path}.{k}")]
    if isinstance(ours, list | tuple):
        return [d for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) for d in differences(a, b, f"{path}[{i}]")]
    if isinstance(ours, int | float):
        return [] if ours == pytest.approx(theirs, rel=1e-9, abs=1e-15) else [f"{path}: {ours} here, {theirs} in the page"]
    return [] if ours == theirs else [f"{path}: {ours} here, {theirs} in the page"]


EVALUATE = """
const answer = (c) => {
  const prediction = Plan.predict(c.profile, c.chip, c.layout, c.load, LIMITS.chunk);
  const costs = Plan.costs(prediction, c.chip, c.layout, c.load);
  const {decode, prefill} = prediction;
  return {prediction: {...prediction, decode_binds: decode.binds, prefill_binds: prefill.binds}, costs,
          break_even: Plan.breakEven(costs, c.price, c.load), layouts: Plan.layouts(c.profile, c.chip, Plan.devicesOf(c.layout), LIMITS)};
};
"""

SEARCH = "console.log(JSON.stringify(Plan.search(data.profile, data.chip, data.load, LIMITS, data.counts)));"


def run_node(script: str, data: object) -> object:
    node = shutil.which("node")
    if not node:
        pytest.skip("node is not installed")
    source = resources.files("fathom.plan").joinpath("arithmetic.js").read_text(encoding="utf-8")
    read = "const data = JSON.parse(require('fs').readFileSync(0));"
    program = "\n".join((source, f"const LIMITS = {json.dumps(LIMITS)};", EVALUATE, read, script))
    done = subprocess.run([node, "-e", program], input=json.dumps(data), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_predictions_agree():
    made = cases(100)
    answers = run_node("console.log(JSON.stringify(data.map(answer)));", made)
    assert not [d for case, answer in zip(made, answers, strict=True) for d in differences(case, answer)]
    assert len({case["prediction"]["decode_binds"] for case in made}) >= 3  # the cases reach compute, memory and link


def test_searches_agree():
    chips = load_chips()
    models = [("v4-pro", "h200", "official", Load(65536, 64, 1024)), ("v4-flash", "ascend-910c", "bf16", Load(8192, 500, 100, 0.5)),
              ("bench-130m", "epyc", "fp32", Load(2048, 1, 1024))]
    for name, chip_id, precision, load in models:
        plan = plan_serving(preset(name), load, [chips[chip_id]], precision=precision)
        data = {"profile": profile(preset(name), precision).data(), "chip": chips[chip_id].data(), "load": asdict(load),
                "counts": sorted({o.layout.devices for o in plan.options} | {r.layout.devices for r in plan.rejected})}
        found = run_node(SEARCH, data)
        ours = best_by_devices(plan.options)
        assert [o.layout.devices for o in ours] == [o["devices"] for o in found["options"]]
        assert [o.costs.request for o in ours] == pytest.approx([o["costs"]["request"] for o in found["options"]], rel=1e-9)
        misses = [(r["devices"], pytest.approx(r["missing"], rel=1e-9)) for r in found["rejected"]]
        assert [(r.layout.devices, r.missing) for r in plan.rejected] == misses


def test_the_comparison_can_fail():
    case = cases(1)[0]
    broken = run_node("const c = data; c.chip.bandwidth *= 1.001; console.log(JSON.stringify(answer(c)));", case)
    assert differences(case, broken)
