"""Plots and self-contained HTML pages made from plain data; knows nothing of models, runs or prices."""
from fathom.report.charts import bars, heat_map, lines, tile, tiles
from fathom.report.page import card, escape, json_data, page, table

__all__ = ["bars", "card", "escape", "heat_map", "json_data", "lines", "page", "table", "tile", "tiles"]
