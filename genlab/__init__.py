"""genlab: autoregressive, masked parallel and diffusion decoders for audio, compared on one token
space.

Importing this package imports nothing heavy: take what you need from its modules, for example
`from genlab.codecs.frozen import load_codec` or `from genlab.decoders.ar import AR`.
"""

import os

# These libraries send telemetry unless it is turned off before they are first imported. It is
# turned off here, because every import from genlab runs this file first; child processes inherit
# the variables.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["SKYPILOT_DISABLE_USAGE_COLLECTION"] = "1"

__version__ = "0.1.0"
