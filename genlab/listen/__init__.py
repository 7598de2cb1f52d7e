"""Blind listening: a page that plays a comparison without saying who is who, and what its answers
say.
"""
