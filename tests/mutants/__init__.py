"""One-line faults that the tests must notice, and the kit that tries them."""
