"""Configurations: what a model is (`ModelConfig`), config.json in both spellings, presets, and the one table of parameters.

No torch here: the planner, the checkpoint reader and the server's front door all read configurations without it.
"""
from .model import CSA_RATIO, ModelConfig, Yarn
from .params import Param, parameters
from .presets import PRESETS, preset, resolve_config
from .published import config_from_dict, config_to_dict, read_config

__all__ = ["CSA_RATIO", "PRESETS", "ModelConfig", "Param", "Yarn", "config_from_dict", "config_to_dict", "parameters", "preset", "read_config",
           "resolve_config"]
