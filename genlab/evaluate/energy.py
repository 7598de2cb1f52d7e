"""Energy score of the next block: what a decoder would do next, scored on its samples alone, for
every family.

Given the first half of a clip, how far are draws of the block after its middle from the real one
(Gneiting and Raftery 2007, section 4.3, with the sign turned, so that lower is better)?

    Eq. E |X - y| - 1/2 E |X - X'|,

with y the real block and X, X' independent draws. It is proper: in expectation no forecast beats
the true distribution. `genlab.score.block_energies` draws the continuations of a trained decoder.
"""

from genlab.decoders.noise.heads import energy_score as energy_score

BLOCK_S = 0.24
