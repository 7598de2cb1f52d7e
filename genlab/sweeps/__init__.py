"""Sweeps: a page of a lab notebook that can be run, killed, gone on with, and judged against what it predicted."""
