"""The execution dimension: a model's code runs in the sandbox, and the score is the pass rate.

Five kinds, all made from seeds: algorithms (write a function), debugging (repair one), data (tables and documents), sql (a query on
SQLite) and review (findings that can be checked). `fathom.eval.userfiles` reads HumanEval- and MBPP-format files that the user has.
"""
from fathom.eval.execution import functions, review, sql

KINDS = (*functions.KINDS, *sql.KINDS, *review.KINDS)

__all__ = ["KINDS"]
