"""What every row of a measurement says about where it was taken, the benchmark's model, and rows as a CSV file."""
from __future__ import annotations

import csv
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..config import ModelConfig
from ..device import choose_device, device_name
from ..model import Transformer, kernel_rows
from ..ops import DTYPES


def machine(model: Transformer) -> dict[str, Any]:
    """Columns: kernels and precision of the model, threads, device, versions, date."""
    kernels = {row.source for row in model.rows if row.kernel}
    return {"kernels": " ".join(sorted(kernels)) or "reference", "precision": model.precision, "threads": torch.get_num_threads(),
            "device": device_name(choose_device("cpu")), "torch": torch.__version__, "python": platform.python_version(),
            "date": datetime.now(UTC).date().isoformat()}


def fresh_model(config: ModelConfig, precision: str = "bf16") -> Transformer:
    """A model with random weights on the CPU, on the kernels that a user gets."""
    model = Transformer(config, dtype=DTYPES[precision], precision=precision, rows=kernel_rows(config, torch.device("cpu"), precision))
    model.init_weights(0)
    return model.requires_grad_(False)


def random_prompt(config: ModelConfig, length: int, seed: int) -> tuple[int, ...]:
    """Token ids."""
    return tuple(torch.randint(0, config.vocab_size, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def write_rows(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """A CSV file, and a line about it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(column for row in rows for column in row)))
        writer.writeheader()
        writer.writerows(rows)
    print(f"written to {out}")
