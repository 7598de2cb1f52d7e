"""Sweeps: a page of a lab notebook that can be run, killed, resumed, and judged against its
predictions.
"""
