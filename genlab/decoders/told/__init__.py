"""The built-in kinds of named conditions, one file each; the contract is `decoders/parts.py`."""
