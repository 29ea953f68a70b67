"""The model: all of DeepSeek-V4's forward pass on flat tokens, with or without a paged state."""
from .batch import Batch, Run
from .kernels import CHOICES as KERNELS
from .kernels import kernel_rows
from .moe import Routing
from .state import Scratch, State
from .transformer import Output, Transformer

__all__ = ["KERNELS", "Batch", "Output", "Routing", "Run", "Scratch", "State", "Transformer", "kernel_rows"]
