"""Dated price tables and money in integers: what a request cost on the day it was asked."""
from fathom.prices.money import NANO, cost, dollars, parse_dollars
from fathom.prices.table import Price, PriceTable, load_prices

__all__ = ["NANO", "Price", "PriceTable", "cost", "dollars", "load_prices", "parse_dollars"]
