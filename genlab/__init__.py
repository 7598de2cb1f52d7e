"""genlab: autoregressive, masked parallel and diffusion decoders for audio, compared on one token space.

Importing this package imports nothing heavy: take what you need from its modules, for example
`from genlab.codecs.spectral import load_codec` or `from genlab.decoders.ar import AR`.
"""

import os

# These libraries report their use to their makers unless they are told not to before they are
# first imported. Here, because whatever is imported from genlab imports this file first; child
# processes inherit it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["SKYPILOT_DISABLE_USAGE_COLLECTION"] = "1"

__version__ = "0.1.0"
