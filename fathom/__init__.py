"""Fathom: the DeepSeek-V4 system, whole: architecture, training, serving, evaluation and planning in one codebase."""

__version__ = "0.1.0"
