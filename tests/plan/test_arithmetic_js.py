"""The page's arithmetic is the planner's: same numbers for random models, chips, layouts and loads. By node; the browser: test_page.py."""
import json
import subprocess
from dataclasses import asdict

import pytest

from fathom.config import preset
from fathom.plan.chips import load_chips
from fathom.plan.profile import profile
from fathom.plan.search import Wishes, best_by_devices, plan_serving
from fathom.plan.serving import Load
from tests.plan.agreement import cases, differences, program

pytestmark = pytest.mark.needs("node")
READ = "const data = JSON.parse(require('fs').readFileSync(0));"


def run_node(script: str, data: object) -> object:
    done = subprocess.run(["node", "-e", program(READ + script)], input=json.dumps(data), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_predictions_agree():
    made = cases(50)
    answers = run_node("console.log(JSON.stringify(data.map(answer)));", made)
    assert not [d for case, answer in zip(made, answers, strict=True) for d in differences(case, answer)]
    assert len({case["prediction"]["decode"]["binds"] for case in made}) >= 3  # the cases reach compute, memory and link


def test_searches_agree():
    chips = load_chips()
    models = [("v4-pro", "h200", "official", Load(65536, 64, 1024)), ("v4-flash", "ascend-910c", "bf16", Load(8192, 500, 100, 0.5)),
              ("bench-130m", "epyc", "fp32", Load(2048, 3, 1024))]
    reasons = set()
    wishes = [Wishes(), Wishes(), Wishes(), Wishes(speed=60, wait=4.0), Wishes(wait=1.0)]
    for (name, chip_id, precision, load), wish in zip([*models, models[0], models[0]], wishes, strict=True):
        plan = plan_serving(preset(name), load, [chips[chip_id]], precision=precision, wishes=wish)
        data = {"profile": profile(preset(name), precision).data(), "chip": chips[chip_id].data(), "load": asdict(load),
                "wishes": {"speed": wish.speed, "wait": min(wish.wait, 1e300)},
                "counts": sorted({o.layout.devices for o in plan.options} | {r.layout.devices for r in plan.rejected})}
        found = run_node("console.log(JSON.stringify(Plan.search(data.profile, data.chip, data.load, LIMITS, data.counts, data.wishes)));", data)
        ours = best_by_devices(plan.options)
        assert [o.layout.devices for o in ours] == [o["devices"] for o in found["options"]]
        assert [o.costs.request for o in ours] == pytest.approx([o["costs"]["request"] for o in found["options"]], rel=1e-9)
        misses = [(r["devices"], r["reason"], pytest.approx(r["missing"], rel=1e-9)) for r in found["rejected"]]
        assert [(r.layout.devices, r.reason, r.missing) for r in plan.rejected] == misses
        reasons |= {r.reason for r in plan.rejected}
    assert reasons == {"memory", "speed", "wait"}


def test_the_comparison_can_fail():
    case = cases(1)[0]
    broken = run_node("const c = data; c.chip.bandwidth *= 1.001; console.log(JSON.stringify(answer(c)));", case)
    assert differences(case, broken)
