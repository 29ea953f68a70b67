"""No device name outside device.py: code says `x.device`, passes `device=`, and asks the device layer for the rest.

A name is looked for as an attribute, a variable, an import, a keyword, or a word in a string (docstrings may talk about devices).
"cpu" is not on the list: the host is everywhere, whatever computes beside it.
"""
import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "fathom"
WORDS = {"cuda", "npu", "xpu", "mps", "hip", "nccl", "hccl", "gloo"}
MEMBERS = WORDS | {"is_cuda", "is_npu", "is_xpu", "is_mps", "pin_memory", "torch_npu", "cudnn", "autocast", "GradScaler"}
IN_STRING = re.compile(rf"(?<![A-Za-z0-9_])({'|'.join(sorted(WORDS | {'torch_npu', 'pin_memory'}))})(?![A-Za-z0-9_])")


def device_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, name) of every device name in a file."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body
        and isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in MEMBERS:
            yield node.lineno, node.attr
        elif isinstance(node, ast.Name) and node.id in MEMBERS:
            yield node.lineno, node.id
        elif isinstance(node, ast.keyword) and node.arg in MEMBERS:
            yield node.value.lineno, node.arg
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield from ((node.lineno, word) for word in IN_STRING.findall(node.value))
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            whole = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            yield from ((node.lineno, part) for name in whole for part in name.split(".") if part in MEMBERS)


def violations(package: Path) -> list[str]:
    """Device names in a package folder as "file:line: name"; device.py at its top may use them."""
    return [
        f"{path.relative_to(package)}:{line}: {name}"
        for path in sorted(package.rglob("*.py"))
        if path != package / "device.py"
        for line, name in device_names(ast.parse(path.read_text(encoding="utf-8"), str(path)))
    ]


def test_no_device_name_outside_the_device_layer():
    assert violations(PACKAGE) == []


def test_the_device_layer_is_where_they_are(tmp_path):
    """The same lint finds plenty in device.py, and only the one at the top of the package is exempt."""
    (tmp_path / "engine").mkdir()
    shutil.copy(PACKAGE / "device.py", tmp_path / "engine" / "device.py")
    assert {"cuda", "npu", "nccl", "hccl"} <= {v.rpartition(" ")[2] for v in violations(tmp_path)}


@pytest.mark.parametrize("line", [
    "x.cuda()",
    "torch.cuda.empty_cache()",
    "x = torch.ones(3, device='cuda')",
    "x = torch.ones(3, device='npu:0')",
    "x = x.to(f'cuda:{rank}')",
    "if x.is_cuda: pass",
    "import torch.cuda",
    "from torch.cuda import synchronize",
    "from torch import cuda",
    "def f():\n    import torch_npu",
    "importlib.import_module('torch_npu')",
    "dist.init_process_group('nccl')",
    "dist.init_process_group('cpu:gloo,npu:hccl')",
    "x.pin_memory()",
    "torch.empty(3, pin_memory=True)",
    "with torch.autocast('cpu'): pass",
    "getattr(torch, 'cuda').synchronize()",
    "torch.backends.mps.is_available()",
    "scaler = torch.amp.GradScaler()",
    "help = 'a device such as cuda:0'",
    "match kind:\n    case 'npu': pass",
])
def test_a_planted_name_is_found(tmp_path, line):
    (tmp_path / "planted.py").write_text(f'"""A file about cuda."""\nimport torch\n{line}\n')
    assert violations(tmp_path)


@pytest.mark.parametrize("line", [
    "y = torch.zeros(3, device=x.device)",
    "if x.device.type == 'cpu': pass",
    "def f():\n    '''Works on cuda and npu alike.'''",
    "input = 'an npuzzle of examples'",
    "# cuda would need a copy here",
])
def test_what_is_not_a_device_name(tmp_path, line):
    (tmp_path / "planted.py").write_text(f"{line}\n")
    assert violations(tmp_path) == []
