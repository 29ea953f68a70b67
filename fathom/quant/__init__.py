"""Bit layouts of V4's number formats, FP8 and FP4, as slow exact codecs: the standard that kernels and checkpoints are held to."""
from ..config.formats import PANEL, SCALE_COLUMNS, STEP, STREAM_PARTS
from .fp4 import decode_fp4, encode_fp4, fp4_to_fp8, pack_e2m1, to_e2m1, unpack_e2m1
from .fp8 import decode_activations, decode_fp8, decode_runs, encode_activations, encode_fp8, encode_runs, to_e4m3
from .rows import decode_entries, decode_index_keys, encode_entries, encode_index_keys, entry_bytes, hadamard, index_key_bytes
from .scale import is_power_of_two, power_of_two_scale, scale_values

__all__ = [
    "PANEL", "SCALE_COLUMNS", "STEP", "STREAM_PARTS",
    "decode_activations", "decode_entries", "decode_fp4", "decode_fp8", "decode_index_keys", "decode_runs", "encode_activations",
    "encode_entries", "encode_fp4", "encode_fp8", "encode_index_keys", "encode_runs", "entry_bytes", "fp4_to_fp8", "hadamard",
    "index_key_bytes", "is_power_of_two", "pack_e2m1", "power_of_two_scale", "scale_values", "to_e2m1", "to_e4m3", "unpack_e2m1",
]
