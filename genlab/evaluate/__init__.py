"""Scoring: metrics, statistics and controls of audio against its
prompts, in numpy and onnxruntime.
"""
