"""Intervals, power, crossings: pure numpy and scipy."""
