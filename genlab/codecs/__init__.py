"""Audio to tokens and back: the in-lab codec, its training losses, and the frozen form that the lab
uses.
"""
