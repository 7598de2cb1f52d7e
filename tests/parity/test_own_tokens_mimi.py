"""Codes that transformers' Mimi made, in an .npz that genlab's codecs have never seen: they are
read, scored in bits, and heard when that Mimi is named.
"""

import json

import numpy as np
import pytest

from genlab.data.own.source import TokenFiles
from genlab.evaluate.scores import ClipValues
from genlab.fairness.counts import score_counts
from genlab.runs import TokenData

torch = pytest.importorskip("torch", reason="needs the extra parity")
transformers = pytest.importorskip("transformers", reason="needs the extra parity")

pytestmark = pytest.mark.parity
HOP, CODEBOOKS, ENTRIES, CLIPS = 24, 6, 64, 24


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The directory of tokens, that of the model, the codes as it gave them, and its waves."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = transformers.MimiConfig(
        hidden_size=32,
        num_filters=8,
        upsampling_ratios=[4, 3],
        num_residual_layers=2,
        upsample_groups=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=8,
        intermediate_size=48,
        sliding_window=8,
        codebook_size=ENTRIES,
        codebook_dim=16,
        vector_quantization_hidden_dimension=16,
        num_quantizers=CODEBOOKS,
        num_semantic_quantizers=2,
    )
    model = transformers.MimiModel(config).eval()
    with torch.no_grad():
        for name, values in model.named_buffers():
            if name.endswith("embed_sum"):  # codebooks start with zeros
                values.copy_(torch.randn(values.shape))
        waves = 0.1 * torch.randn(CLIPS, 1, 40 * HOP)
        codes = model.encode(waves, num_quantizers=CODEBOOKS).audio_codes
        decoded = model.decode(codes).audio_values
    place = tmp_path_factory.mktemp("mimi")
    model.save_pretrained(place / "model")
    folder = place / "tokens"
    folder.mkdir()
    spec = {"sample_rate_hz": config.sampling_rate, "hop_samples": HOP}
    spec |= {"codebooks": CODEBOOKS, "entries": ENTRIES, "codec": "Mimi"}
    (folder / "tokens.json").write_text(json.dumps(spec))
    # Mimi gives [clips, codebooks, frames].
    arrays = {f"clip{number}": one.T.numpy() for number, one in enumerate(codes)}
    np.savez(folder / "codes.npz", **arrays)
    splits = ["valid" if n % 6 == 0 else "test" if n % 6 == 1 else "train" for n in range(CLIPS)]
    rows = [
        {"id": name, "file": "codes.npz", "split": split} for name, split in zip(arrays, splits)
    ]
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder, place / "model", codes.numpy(), decoded.numpy()


def test_codes_of_mimi_are_read_and_have_bits(written, tmp_path):
    folder, _, codes, _ = written
    store = TokenFiles(folder).open(tmp_path)
    found = {store.clip(n).id: store.clip(n).codes for n in range(store.num_clips)}
    for number, one in enumerate(codes):
        np.testing.assert_array_equal(found[f"clip{number}"], one.T)
    test = store.split("test")
    clips = [store.clip(n) for n in range(test.first, test.first + test.clips)]
    names = tuple(clip.id for clip in clips)
    rows = score_counts(store, clips, names, unscored=clips, train_clips=None, seed=0)
    uniform = rows["uniform"].scores["bits_per_s"].value
    assert uniform == pytest.approx(24_000 / HOP * CODEBOOKS * np.log2(ENTRIES))
    assert isinstance(rows["unigram"].per_clip["bits_per_s"], ClipValues)


def test_codes_of_mimi_are_heard_when_it_is_named(written, tmp_path, monkeypatch):
    folder, model, codes, decoded = written
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path))
    data = TokenData(tokens=str(folder), codec=f"mimi:{model}", num_frames=40)
    store, codec = data.open(), data.load_codec()
    assert store.has_latents and store.info.codec_fingerprint == codec.fingerprint
    # At the codec's own rate, so that nothing is resampled.
    codec.wave_rate_hz = codec.spec.sample_rate_hz
    ours = codec.decode_codes([codes[0].T])[0]
    length = min(len(ours), decoded.shape[-1])
    # Random weights are loud, and what is heard is cut off at full scale.
    heard = np.clip(decoded[0, 0, :length], -1, 1)
    np.testing.assert_allclose(ours[:length], heard, atol=1e-3)
    manifest = data.build_audio()
    clip = next(clip for clip in manifest.clips if clip.id == "clip0")
    assert manifest.audio(clip).dtype == np.int16 and manifest.audio(clip).any()
    assert codec.spec.frame_hz == store.info.spec.frame_hz
