"""Rows of a table, by number. Indexing with an index tensor goes element by element on a CPU; index_select copies whole rows."""
from torch import Tensor


def select_rows(table: Tensor, rows: slice | Tensor) -> Tensor:
    """Rows of table [P, ...]: a view of a slice [n, ...], or for row numbers [...] a copy [..., *table.shape[1:]]."""
    if isinstance(rows, slice):
        return table[rows]
    return table.index_select(0, rows.flatten()).unflatten(0, rows.shape)
