"""Your own tokens: codes that somebody else's codec made, read as a token store (docs/tokens.md in
the repository).
"""
