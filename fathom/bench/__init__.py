"""Measurements: one module per claim, each run by one command, with both sides' numbers and the machine they were taken on."""
