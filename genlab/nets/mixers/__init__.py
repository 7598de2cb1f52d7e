"""How frames of a layer read each other: one file per mixer."""
