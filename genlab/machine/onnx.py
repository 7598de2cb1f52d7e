"""The only door to onnxruntime: networks in ONNX files, on the CPU, nothing reported to anybody.

In: a path. Out: an open session. Official builds of onnxruntime report their use to its maker and
write an identifier of the machine below the home directory, from the first import on.
`genlab/__init__.py` sets the variable that turns this off; a program that imported onnxruntime
before genlab has its events turned off here.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def open_session(path: Path, threads: int = 1) -> "InferenceSession":
    """Open an ONNX file with `threads` sleeping (not spinning) worker threads.

    Its `run` may be called in parallel.
    """
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # quantised models warn about harmless shape inference
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
