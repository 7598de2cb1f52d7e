"""The project's own fuzz and fault kit: seeded damage to everything that a user, a disk or a
stranger may hand in.

    python -m tests.fuzz --inputs 20000                             all areas
    python -m tests.fuzz --only manifests --seed 3 --index 812      one input again
    python -m tests.fuzz --kills 400                                kill points

An area is a module with `draw(rng, world, place) -> Trial`; every input is a pure function of area,
seed and index. `contract.py` states what must hold for each of them.
"""
