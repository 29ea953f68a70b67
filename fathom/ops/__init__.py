"""Operators: one typed, documented function per formula (reference/), and the table that decides which kernel serves it.

One device, no process groups, no knowledge of the model: tensors in, tensors out.
"""
from .reference.loss import IGNORE, cross_entropy
from .spans import Entries, History, Places, Runs, Spans
from .table import DTYPES, OPERATORS, PRECISIONS, Kernels, Row, official_rows, reference_rows, select
from .widen import widen

__all__ = ["DTYPES", "IGNORE", "OPERATORS", "PRECISIONS", "Entries", "History", "Kernels", "Places", "Row", "Runs", "Spans", "cross_entropy",
           "official_rows", "reference_rows", "select", "widen"]
