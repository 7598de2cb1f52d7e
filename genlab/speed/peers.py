"""The PyTorch programs that `genlab bench` runs beside ours: MusicGen, BERT as SoundStorm uses a
transformer, Stable Audio's transformer, codecs.

In: a workload, its size, and the number of threads. Out: a function that does one repetition, or
None where torch or the peer is not installed, or jax runs on an accelerator that torch would not
share. Random weights, the same shapes as ours, eager mode (torch.compile gained nothing on CPUs),
unconditional. The training step is forward, backward and fused AdamW.
"""

import dataclasses
import importlib.util
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax

from genlab.speed.size import BenchSize

if TYPE_CHECKING:
    import torch
    from diffusers import StableAudioDiTModel
    from transformers import MusicgenForCausalLM

COND_TOKENS = 16  # that Stable Audio's cross-attention reads
TOP_K = 250


@dataclasses.dataclass(frozen=True)
class Peer:
    """`run` does one repetition of the peer's program."""

    name: str
    run: Callable[[], object]


def find_peer(workload: str, size: BenchSize, num_threads: int) -> Peer | None:
    """Return the peer of a workload, ready to run, or None."""
    if not has_peer(workload) or jax.default_backend() != "cpu":
        return None
    import torch

    torch.set_num_threads(num_threads)
    return build_peer(workload, size)


def has_peer(workload: str) -> bool:
    """Return whether a workload has a peer whose packages are installed."""
    make, packages = _PEERS.get(workload, (None, ()))
    installed = (importlib.util.find_spec(package) for package in ("torch", *packages))
    return make is not None and all(installed)


def build_peer(workload: str, size: BenchSize) -> Peer | None:
    """Return the peer on torch's default device and in its default type, or None at a toy size that
    has none; `has_peer` says whether it can be built.
    """
    import torch

    torch.manual_seed(0)
    return _PEERS[workload][0](size)


def _millions(model: "torch.nn.Module") -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} M"


def _training(
    model: "torch.nn.Module", loss_of: Callable[[], "torch.Tensor"]
) -> Callable[[], None]:
    import torch

    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def _musicgen(size: BenchSize) -> "MusicgenForCausalLM":
    from transformers import MusicgenForCausalLM
    from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

    net, absent = size.backbone, size.entries
    config = MusicgenDecoderConfig(
        vocab_size=size.entries,
        pad_token_id=absent,
        bos_token_id=absent,
        max_position_embeddings=2 * size.frames + 64,
        num_hidden_layers=net.layers,
        ffn_dim=4 * net.width,
        num_attention_heads=net.heads,
        dropout=0.0,
        hidden_size=net.width,
        num_codebooks=size.codebooks,
    )
    model = MusicgenForCausalLM(config)
    # Idle without conditions: without its weights the sizes agree.
    for layer in model.model.decoder.layers:
        layer.encoder_attn = None  # pyright: ignore[reportArgumentType]
        layer.encoder_attn_layer_norm = None  # pyright: ignore[reportArgumentType]
    model.config._attn_implementation = "sdpa"
    return model


def _musicgen_train(size: BenchSize) -> Peer:
    import torch
    from torch.nn import functional

    model = _musicgen(size)
    batch = size.batch
    levels = size.codebooks
    steps = size.frames + levels - 1
    codes = torch.randint(0, size.entries, (batch, levels, size.frames))
    # The delay pattern: level k is k steps late. -100 marks the corners that no code fills.
    labels = torch.full((batch, levels, steps), -100)
    for level in range(levels):
        labels[:, level, level : level + size.frames] = codes[:, level]
    inputs = labels.masked_fill(labels == -100, size.entries)
    inputs = torch.cat([torch.full((batch, levels, 1), size.entries), inputs[:, :, :-1]], 2)
    # b k s -> (b k) s, as transformers wants codebooks in the batch
    inputs = inputs.reshape(batch * levels, steps).contiguous()

    def loss() -> torch.Tensor:
        logits = model(input_ids=inputs).logits
        return functional.cross_entropy(
            logits.reshape(-1, size.entries), labels.reshape(-1), ignore_index=-100
        )

    return Peer(f"transformers MusicgenForCausalLM ({_millions(model)})", _training(model, loss))


def _musicgen_sample(size: BenchSize) -> Peer:
    import torch

    model = _musicgen(size).eval()
    start = torch.full((size.codebooks, 1), size.entries)
    settings = model.generation_config
    settings.pad_token_id = settings.bos_token_id = settings.decoder_start_token_id = size.entries

    def run() -> None:
        model.generate(
            start,
            do_sample=True,
            top_k=min(TOP_K, size.entries),
            guidance_scale=1.0,
            num_return_sequences=1,
            use_cache=True,
            max_length=size.frames + size.codebooks,
        )

    return Peer(f"transformers MusicgenForCausalLM.generate ({_millions(model)})", run)


def _bert(size: BenchSize) -> "tuple[torch.nn.Module, Callable[..., torch.Tensor]]":
    """Return BERT's encoder over the summed levels of a frame, as SoundStorm (2305.09636) embeds
    them, and a function from codes and a level to that level's logits.

    The published model is a Conformer; a transformer is what ours is, and has less to compute.
    """
    import torch
    from torch import nn
    from transformers import BertConfig, BertModel

    net, hidden = size.backbone, size.entries
    config = BertConfig(
        vocab_size=1,
        hidden_size=net.width,
        num_hidden_layers=net.layers,
        num_attention_heads=net.heads,
        intermediate_size=4 * net.width,
        max_position_embeddings=size.frames,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="sdpa",
    )
    encoder = BertModel(config, add_pooling_layer=False)
    embed = nn.Embedding(size.codebooks * (hidden + 1), net.width)
    heads = nn.ModuleList(nn.Linear(net.width, hidden) for _ in range(size.codebooks))
    first = torch.arange(size.codebooks) * (hidden + 1)

    def logits(codes: torch.Tensor, level: int) -> torch.Tensor:
        summed = embed(codes + first).sum(2)  # b t k -> b t width
        return heads[level](encoder(inputs_embeds=summed).last_hidden_state)

    return nn.ModuleList([encoder, embed, heads]), logits


def _bert_train(size: BenchSize) -> Peer:
    import torch
    from torch.nn import functional

    model, logits = _bert(size)
    shape, hidden = (size.batch, size.frames, size.codebooks), size.entries
    clean = torch.randint(0, size.entries, shape)
    order = torch.arange(size.codebooks)

    def loss() -> torch.Tensor:
        # One level: the ones above it are known, a cosine's share of its own and all below hidden.
        level = int(torch.randint(0, size.codebooks, ()))
        share = torch.cos(torch.rand(size.batch, 1) * torch.pi / 2)
        is_hidden = torch.rand(shape[:2]) < share
        is_unknown = (order > level) | ((order == level) & is_hidden[..., None])
        found = logits(clean.masked_fill(is_unknown, hidden), level)
        labels = clean[..., level].masked_fill(~is_hidden, -100)
        return functional.cross_entropy(found.flatten(0, 1), labels.flatten(), ignore_index=-100)

    return Peer(f"transformers BertModel, one level ({_millions(model)})", _training(model, loss))


def _bert_sample(size: BenchSize) -> Peer:
    import torch

    model, logits = _bert(size)
    model.eval()
    # As the sampler of ours: the last number stands for all further levels.
    steps = [size.masked_steps[min(k, len(size.masked_steps) - 1)] for k in range(size.codebooks)]

    @torch.no_grad()
    def run() -> None:
        codes = torch.full((1, size.frames, size.codebooks), size.entries)
        for level, calls in enumerate(steps):
            for call in range(calls):
                law = logits(codes, level).log_softmax(-1)
                drawn = torch.distributions.Categorical(logits=law).sample()
                sure = law.gather(-1, drawn[..., None])[..., 0]
                is_open = codes[..., level] == size.entries
                # The least sure stay hidden, a cosine's share of all frames (section 3.3).
                left = math.floor(size.frames * math.cos((call + 1) / calls * math.pi / 2) + 1e-9)
                sure = sure.masked_fill(~is_open, torch.inf)
                kept = sure.argsort(descending=True)[:, : size.frames - left]
                chosen = torch.zeros_like(is_open).scatter(1, kept, True) & is_open
                codes[..., level] = torch.where(chosen, drawn, codes[..., level])
        assert (codes < size.entries).all()

    return Peer(f"transformers BertModel, by confidence ({_millions(model)})", run)


def _stable_audio(
    size: BenchSize, batch: int
) -> tuple["StableAudioDiTModel", Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]]:
    import torch
    from diffusers import StableAudioDiTModel
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    net = size.backbone
    head = net.width // net.heads
    model = StableAudioDiTModel(
        sample_size=size.frames,
        in_channels=size.latent_channels,
        out_channels=size.latent_channels,
        num_layers=net.layers,
        attention_head_dim=head,
        num_attention_heads=net.heads,
        num_key_value_attention_heads=net.heads,
        cross_attention_dim=net.width,
        cross_attention_input_dim=net.width,
        global_states_input_dim=net.width,
        time_proj_dim=256,
    )
    cond = torch.randn(batch, COND_TOKENS, net.width)
    whole = torch.randn(batch, 1, net.width)
    # The model rotates half of every head, as its pipeline does.
    rope = get_1d_rotary_pos_embed(
        head // 2, size.frames + 1, use_real=True, repeat_interleave_real=False
    )

    def velocity(noisy: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        return model(
            noisy,
            timestep=level,
            encoder_hidden_states=cond,
            global_hidden_states=whole,
            rotary_embedding=rope,
            return_dict=False,
        )[0]

    return model, velocity


def _stable_audio_train(size: BenchSize) -> Peer:
    import torch
    from torch.nn import functional

    model, velocity = _stable_audio(size, size.batch)
    clean = torch.randn(size.batch, size.latent_channels, size.frames)

    def loss() -> torch.Tensor:
        level = torch.rand(size.batch)
        noise = torch.randn_like(clean)
        return functional.mse_loss(
            velocity(torch.lerp(clean, noise, level[:, None, None]), level), noise - clean
        )

    return Peer(f"diffusers StableAudioDiTModel ({_millions(model)})", _training(model, loss))


def _stable_audio_sample(size: BenchSize) -> Peer:
    import torch

    model, velocity = _stable_audio(size, 1)
    model.eval()
    levels = torch.linspace(1, 0, size.diffusion_steps + 1)

    @torch.no_grad()
    def run() -> None:
        latents = torch.randn(1, size.latent_channels, size.frames)
        for level, below in itertools.pairwise(levels):
            latents = latents + (below - level) * velocity(latents, level.expand(1))

    return Peer(f"diffusers StableAudioDiTModel, Euler ({_millions(model)})", run)


def _dac(size: BenchSize, is_encoding: bool) -> Peer:
    import torch
    from transformers import DacConfig, DacModel

    config = DacConfig(
        encoder_hidden_size=32,
        downsampling_ratios=[2, 4, 5, 8],
        decoder_hidden_size=512,
        n_codebooks=8,
        codebook_size=1024,
        codebook_dim=8,
        sampling_rate=16_000,
    )
    model = DacModel(config).eval()
    # Whole frames, as ours has, so that neither side pads.
    num_samples = int(size.audio_s * 16_000) // 320 * 320
    wave = 0.1 * torch.randn(1, 1, num_samples)
    with torch.no_grad():
        encoded: Any = model.encode(wave)
        latents = encoded.quantized_representation

    @torch.no_grad()
    def run() -> None:
        if is_encoding:
            model.encode(wave)
        else:
            model.decode(latents)

    return Peer("transformers DacModel (12 M, 16 kHz, hop 320)", run)


def _published(name: str, size: BenchSize) -> Peer | None:
    """Return encoding and decoding by transformers' model at its default, which is the published
    size.
    """
    if size.audio_s < 1:  # toy sizes have no peer
        return None
    import torch
    import transformers

    model_class, options, codes = {
        "encodec": (transformers.EncodecModel, transformers.EncodecConfig(), {"bandwidth": 6.0}),
        "mimi": (transformers.MimiModel, transformers.MimiConfig(), {"num_quantizers": 8}),
        "dac": (
            transformers.DacModel,
            transformers.DacConfig(
                n_codebooks=12, downsampling_ratios=[2, 4, 5, 8], sampling_rate=16_000
            ),
            {},
        ),
    }[name]
    model = model_class(options).eval()
    wave = 0.1 * torch.randn(1, 1, int(size.audio_s * options.sampling_rate))

    @torch.no_grad()
    def run() -> None:
        encoded: Any = model.encode(wave, **codes)
        if name == "encodec":
            model.decode(encoded.audio_codes, encoded.audio_scales)
        else:
            model.decode(audio_codes=encoded.audio_codes)

    return Peer(f"transformers {model_class.__name__} ({_millions(model)})", run)


_PEERS: dict[str, tuple[Callable[[BenchSize], Peer | None], tuple[str, ...]]] = {
    "ar_train_step": (_musicgen_train, ("transformers",)),
    "ar_sample": (_musicgen_sample, ("transformers",)),
    "masked_train_step": (_bert_train, ("transformers",)),
    "masked_sample": (_bert_sample, ("transformers",)),
    "diffusion_train_step": (_stable_audio_train, ("diffusers",)),
    "diffusion_sample": (_stable_audio_sample, ("diffusers",)),
    "codec_encode_10s": (lambda size: _dac(size, True), ("transformers",)),
    "codec_decode_10s": (lambda size: _dac(size, False), ("transformers",)),
    "encodec_24khz_10s": (partial(_published, "encodec"), ("transformers",)),
    "mimi_10s": (partial(_published, "mimi"), ("transformers",)),
    "dac_16khz_10s": (partial(_published, "dac"), ("transformers",)),
}
