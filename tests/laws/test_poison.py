"""The poison works: on the simulated npu, Fathom's own code can't use torch.cuda, and a check that fails is reported as failed.

The checks that run under it are in tests/npu. Here code is planted in a package named fathom, in a process of its own.
"""
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLANT = '''
import sys, types
def planted(source, name="fathom.planted"):
    module = types.ModuleType(name)
    exec(source, vars(module))
    return module
'''


def run_checks(tmp_path: Path, source: str) -> dict[str, str | None]:
    """Outcome by name of the checks in `source`, run as a file of tests/npu would be."""
    (tmp_path / "checks_planted.py").write_text(PLANT + source)
    code = "import sys, runpy; sys.path.insert(0, sys.argv.pop()); sys.argv[1:] = ['checks_planted']; " \
           "runpy.run_module('tests.npu.run', run_name='__main__', alter_sys=True)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])["checks"]


def test_uses_of_cuda_raise_in_our_code_and_nowhere_else(tmp_path):
    checks = run_checks(tmp_path, '''
import torch
def check_direct():
    planted("import torch\\ndef f(): return torch.cuda.is_available()").f()
def check_nested():
    planted("import torch\\ndef f(): return [torch.cuda.memory_allocated() for _ in range(2)]").f()
def check_submodule():
    planted("import torch\\ndef f(): torch.cuda.amp", "fathom.train.loop").f()
def check_alias():
    planted("from torch import cuda\\ndef f(): cuda.empty_cache()", "fathom").f()
def check_others_may():
    assert planted("import torch\\ndef f(): return torch.cuda.is_available()", "fathomless").f() in (True, False)
def check_the_device_layer_may():
    assert planted("import torch\\ndef f(): return torch.cuda.device_count()", "fathom.device").f() >= 0
def check_torch_still_works():
    torch.manual_seed(0)
    w = torch.nn.Parameter(torch.ones(3, device="npu"))
    torch.utils.checkpoint.checkpoint(lambda t: t.sin(), w, use_reentrant=False).sum().backward()
    torch.optim.AdamW([w], fused=False).step()
    assert w.device.type == "npu"
''')
    for name in ("check_direct", "check_nested", "check_submodule", "check_alias"):
        assert checks[name] and "go through fathom/device.py" in checks[name], (name, checks[name])
    for name in ("check_others_may", "check_the_device_layer_may", "check_torch_still_works"):
        assert checks[name] is None, checks[name]


def test_a_failing_check_is_reported_and_the_next_one_runs(tmp_path):
    checks = run_checks(tmp_path, '''
import torch
def check_cpu_tensor_slips_in():
    torch.ones(3, device="npu") + torch.ones(3)
def check_fine():
    pass
''')
    assert "same device" in checks["check_cpu_tensor_slips_in"] and checks["check_fine"] is None
