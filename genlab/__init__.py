"""genlab: autoregressive, masked parallel and diffusion decoders for audio, compared on one token space.

Importing this package imports nothing heavy: take what you need from its modules, for example
`from genlab.codecs.spectral import load_codec` or `from genlab.decoders.ar import AR`.
"""

__version__ = "0.1.0"
