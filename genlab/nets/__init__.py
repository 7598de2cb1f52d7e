"""The network parts that every decoder shares."""
