"""Python runs this at its start: in the workers of a sweep it installs what `kills.py` asks for."""

import os

if os.environ.get("GENLAB_FUZZ_KILLS"):
    from tests.fuzz.kills import install_from_environment

    install_from_environment()
