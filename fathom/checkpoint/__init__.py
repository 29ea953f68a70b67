"""Checkpoints: read (published and transformers' names, any official format), write (atomic), convert. Works on names and tensors."""
from .convert import convert
from .read import Checkpoint, open_checkpoint
from .replace import replace_folder
from .stored import Stored
from .tensorfile import TensorFile, write_tensor_file
from .write import PRECISIONS, Written, save_checkpoint, write_model

__all__ = ["PRECISIONS", "Checkpoint", "Stored", "TensorFile", "Written", "convert", "open_checkpoint", "replace_folder", "save_checkpoint",
           "write_model", "write_tensor_file"]
