"""One file per family of decoders, the contract they share, and the small objects they take."""
