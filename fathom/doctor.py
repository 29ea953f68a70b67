"""What this installation can do: `fathom doctor`'s findings as data, and their display.

Everything is looked up, nothing is assumed: versions from package metadata, the device through device.py, kernels from the same table
that the model uses.
"""
from __future__ import annotations

import platform
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from . import __version__
from .device import choose_device, device_name, memory_info, supports_bf16
from .ops import DTYPES, native, select

PACKAGES = {"core": ("torch", "numpy", "safetensors", "tokenizers", "typer", "rich"), "plot": ("matplotlib",), "eval": ("httpx",)}


def examine(device: str) -> dict[str, Any]:
    """Findings: versions, device, precisions, and one row per operator with the kernel that serves it and why.

    Raises:
        UserError: an unknown or absent device.
    """
    where = choose_device(device)
    free, total = memory_info(where)
    bf16 = supports_bf16(where)
    rows = native.rows(head_dim=128, rope_dims=32, index_head_dim=64, streams=4)  # of any usual size: these serve all the same operators
    passed_over = {row.operator: row.reason for row in rows if row.kernel is None and where.type == row.device}
    kernels = [{"operator": row.operator, "kernel": row.source, "backward": row.backward,
                "reason": f"native: {passed_over[row.operator]}" if row.operator in passed_over else row.reason}
               for row in select(where.type, "bf16", training=False, rows=rows)[1]]
    return {
        "fathom": __version__, "python": platform.python_version(), "system": platform.platform(), "threads": torch.get_num_threads(),
        "packages": {extra: {name: _version(name) for name in names} for extra, names in PACKAGES.items()},
        "device": {"name": str(where), "model": device_name(where), "memory_free": free, "memory_total": total},
        "precisions": {name: "native" if DTYPES[name] != torch.bfloat16 or bf16 else "works, without hardware support" for name in DTYPES},
        "kernels": kernels,
    }


def build_kernels(say: Callable[[str], None]) -> None:
    """Compiles the native kernels unless they are there; `say` is told how it goes.

    Raises:
        UserError: no compiler, or it fails.
    """
    say(f"native kernels: {native.build(native.default_folder(), say=say)}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def show(found: dict[str, Any], console: Console) -> None:
    """The findings for reading."""
    device = found["device"]
    console.print(f"fathom {found['fathom']}, Python {found['python']}, {found['system']}", highlight=False)
    console.print(f"device: {device['name']} ({device['model']}), {device['memory_free'] / 1e9:.1f} of {device['memory_total'] / 1e9:.1f} GB free, "
                  f"{found['threads']} threads", highlight=False)
    console.print("precisions: " + ", ".join(f"{name} ({how})" for name, how in found["precisions"].items()), highlight=False)
    for extra, packages in found["packages"].items():
        console.print(f"{extra}: " + ", ".join(f"{name} {version or 'missing'}" for name, version in packages.items()), highlight=False)
    table = Table("operator", "kernel", "backward", "why", title="kernels (bf16, inference)", title_justify="left")
    for row in found["kernels"]:
        table.add_row(row["operator"], row["kernel"], "yes" if row["backward"] else "no", row["reason"])
    console.print(table)
