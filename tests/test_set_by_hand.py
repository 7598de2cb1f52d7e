"""A label set by hand changes the samples of a trained model as the same label of the corpus
would: `genlab train`, then `genlab sample RUN --label`, on tones whose label is their pitch.
"""

from pathlib import Path

import numpy as np
import scipy.fft
import soundfile

from genlab import cli

HOP, CHANNELS = 320, 16
BASIS = scipy.fft.dct(np.eye(HOP), norm="ortho")[:, :CHANNELS]
PLACES = {"low": 6, "high": 14}  # of 150 and 350 Hz among the cosines of a frame

WORLD = """
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import scipy.fft
from flax import nnx

from genlab.codecs.quantiser import ResidualQuantiser
from genlab.data.listing import SourceRow
from genlab.data.rendered import Rendered
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.decoders.parts import Label
from genlab.experiment import Arm, Budget, Comparison, TokenData
from genlab.nets.backbone import BackboneConfig
from genlab.tokens import Tokens, TokenSpec
from genlab.training.optim import OptimConfig

HOP, CHANNELS, PLACES = 320, 16, {"low": 6, "high": 14}
BASIS = scipy.fft.dct(np.eye(HOP), norm="ortho")[:, :CHANNELS].astype(np.float32)


class Tones(Rendered):
    kind: ClassVar[str] = "tones"
    domain: ClassVar[str] = "sound"
    licence: str = "CC0"

    def rows(self):
        rows = []
        for number in range(40):
            labels = {"tone": list(PLACES)[number % 2]}
            split = "train" if number < 32 else "valid" if number < 36 else "test"
            rows.append(SourceRow("", f"{number:02d}", "", split=split, labels=labels))
        return rows

    def wave(self, row):
        # A little noise, so that no two clips are the same recording.
        noise = 0.01 * np.random.default_rng(int(row.id)).normal(size=HOP * 12)
        return 4 * np.tile(BASIS[:, PLACES[row.labels["tone"]]], 12) + noise


class Cosines(nnx.Module):
    def __init__(self):
        self.spec = TokenSpec(
            sample_rate_hz=16_000, hop_samples=HOP, codebooks=2, entries=16,
            latent_channels=CHANNELS,
        )
        self.quantiser = ResidualQuantiser(2, 16, CHANNELS, decay=0.9, revival_usage=0.03)

    @property
    def code_vectors(self):
        return self.quantiser.entries[...]

    def encode(self, waves, num_samples=None):
        latents = waves.reshape(waves.shape[0], -1, HOP) @ BASIS
        lengths = jnp.full(waves.shape[:1], waves.shape[1]) if num_samples is None else num_samples
        codes = self.quantiser.encode(latents)
        return Tokens(codes, latents, (-(-lengths // HOP)).astype(jnp.int32))

    def decode_codes(self, codes, num_frames=None):
        return self.decode_latents(self.quantiser.decode(codes), num_frames)

    def decode_latents(self, latents, num_frames=None):
        return (latents @ BASIS.T).reshape(latents.shape[0], -1)


def config():
    tone = Label(name="tone", column="tone", names=("low", "high"))
    return Comparison(
        name="tones",
        question="Does it follow the label?",
        data=TokenData(corpus=Tones(), codec="world.py:Cosines", num_frames=12),
        batch_size=8,
        backbone=BackboneConfig(width=32, layers=1, heads=2),
        condition=ConditionConfig(content="none", speaker=False, layers=1, parts=(tone,)),
        optim=OptimConfig(peak_lr=1e-2),
        budget=Budget(mode="iso_step", steps=150),
        num_prompts=4,
        arms={
            "diffusion": Arm(decoder=DiffusionConfig(), sampler=DiffusionSampler(steps=4)),
            "masked": Arm(decoder=MaskedConfig(), sampler=MaskedSampler(steps=(2, 1))),
        },
    )
"""


def hear(folder: str) -> dict[str, tuple[bytes, float]]:
    """Return per clip its samples and which share of its energy is low."""
    heard = {}
    for path in sorted(Path(folder).glob("*.flac")):
        if not path.name.endswith(".codec.flac"):
            wave, _ = soundfile.read(path)
            energy = np.square(wave[: len(wave) // HOP * HOP].reshape(-1, HOP) @ BASIS).sum(axis=0)
            low, high = (energy[place] for place in PLACES.values())
            heard[path.stem] = wave.tobytes(), low / (low + high)
    return heard


def test_a_label_set_by_hand_is_that_of_the_corpus(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    Path("world.py").write_text(WORLD)
    assert cli.main(["train", "world.py", "--arm", "diffusion", "--out", "run"]) == 0
    sample = ["sample", "run", "--trust-code", "--prompts", "4", "--out"]
    settings = {"own": [], "low": ["tone=low"], "high": ["tone=high"]}
    settings["both"] = ["tone=low:0.5,high:0.5"]
    heard = {}
    for name, labels in settings.items():
        options = [word for label in labels for word in ("--label", label)]
        assert cli.main([*sample, name, *options]) == 0
        told = capsys.readouterr().out
        assert not labels or f"--label tone='{labels[0][5:]}': set for every prompt" in told
        heard[name] = hear(name)
    # The corpus's own labels are followed, so there is something to change.
    shares = {clip: share for clip, (_, share) in heard["own"].items()}
    of_low = {clip for clip, share in shares.items() if share > 0.5}
    assert {int(clip) % 2 for clip in of_low} == {0} and len(of_low) == 2 == len(shares) - 2
    for clip, (own, _) in heard["own"].items():
        same, other = ("low", "high") if clip in of_low else ("high", "low")
        # Set to what it is, it is the same sample to the last bit; set to the other, the other one.
        assert heard[same][clip][0] == own != heard[other][clip][0]
        assert heard["low"][clip][1] > 0.8 and heard["high"][clip][1] < 0.2
        assert heard["both"][clip][0] not in (own, heard[other][clip][0])
    endless = ["sample", "run", "--trust-code", "--endless", "2", "--label", "tone=high"]
    assert cli.main([*endless, "--out", "long"]) == 0
    told = capsys.readouterr().out
    assert "2 s, 0.08 s at a time after 0.16 s; rank of the seams 0." in told
    assert "how it knows what it continues: replacement" in told
    assert len(soundfile.read("long/endless.flac")[0]) == 32_000
    assert hear("long")["endless"][1] < 0.2
    assert cli.main([*endless, "--seconds", "1", "--out", "long"]) == 2
    assert "--endless: nothing is kept and it has no other length" in capsys.readouterr().err
    assert cli.main([*sample, "never", "--label", "tine=low"]) == 2
    assert "no condition 'tine'; did you mean 'tone'?" in capsys.readouterr().err
