"""The same transformers in PyTorch, as somebody who wants them fast would write them there:
`scaled_dot_product_attention` (flash attention), torch.compile, bfloat16 autocast, fused AdamW.

In: the pack's sizes. Out: functions that make one training step or one draw. Shapes are ours: the
delay pattern for the autoregressive model (MusicGen, 2306.05284), one level for the masked one
(SoundStorm, 2305.09636), adaLN-zero for diffusion (DiT, 2212.09748); rotary positions, normalised
queries and keys, SwiGLU, and in training clipping and the average of the weights.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from genlab.speed.hardware.size import HardwareSize, ModelSize

if TYPE_CHECKING:
    import torch

Run = Callable[[], "torch.Tensor"]


def _block(
    width: int, heads: int, inner: int, is_causal: bool, is_modulated: bool
) -> "torch.nn.Module":
    """Return one layer: frames [b t h], angles [t c/2] and a vector [b h] or None to [b t h]."""
    import torch
    from torch import nn
    from torch.nn import functional

    channels = width // heads

    def rotate(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = _norm(width), _norm(width)
            self.norm_q, self.norm_k = _norm(channels), _norm(channels)
            self.project_in = nn.Linear(width, 3 * width, bias=False)
            self.project_out = nn.Linear(width, width, bias=False)
            self.gate = nn.Linear(width, 2 * inner, bias=False)
            self.down = nn.Linear(inner, width, bias=False)
            self.modulate = nn.Linear(width, 6 * width) if is_modulated else None

        def forward(self, x: torch.Tensor, angles: torch.Tensor, vector: torch.Tensor | None):
            shifts = [0.0] * 6
            if self.modulate is not None and vector is not None:
                shifts = self.modulate(functional.silu(vector))[:, None].chunk(6, -1)
            gates = (shifts[2], shifts[5]) if self.modulate is not None else (1.0, 1.0)
            y = self.first(x) * (1 + shifts[0]) + shifts[1]
            # b t (3 a c) -> b a t c for each of the three
            q, k, v = (
                part.unflatten(-1, (heads, channels)).transpose(1, 2)
                for part in self.project_in(y).chunk(3, -1)
            )
            q, k = rotate(self.norm_q(q), angles), rotate(self.norm_k(k), angles)
            mixed = functional.scaled_dot_product_attention(
                q.to(v.dtype), k.to(v.dtype), v, is_causal=is_causal
            )
            x = x + gates[0] * self.project_out(mixed.transpose(1, 2).flatten(2))
            y = self.second(x) * (1 + shifts[3]) + shifts[4]
            inside, gate = self.gate(y).chunk(2, -1)
            return x + gates[1] * self.down(functional.silu(gate) * inside)

    return Block()


def _norm(size: int) -> "torch.nn.Module":
    """Return an RMSNorm that computes in the type of what it is given."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(size))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            # In the type of `x`: with a float32 scale torch would leave its fused norm.
            return functional.rms_norm(x, x.shape[-1:], self.scale.to(x.dtype))

    return Norm()


def build_transformer(
    width: int, layers: int, heads: int, inner: int, *, is_causal: bool, is_modulated: bool
) -> "torch.nn.Module":
    """Return the backbone: frames [b t h] and, if modulated, a vector [b h], to frames [b t h]."""
    import torch
    from torch import nn

    channels = width // heads

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(
                _block(width, heads, inner, is_causal, is_modulated) for _ in range(layers)
            )
            self.norm = _norm(width)
            powers = torch.arange(0, channels, 2) / channels
            self.rates: torch.Tensor
            self.register_buffer("rates", 10_000.0**-powers)

        def forward(self, x: torch.Tensor, vector: torch.Tensor | None = None) -> torch.Tensor:
            if torch.is_autocast_enabled(x.device.type):
                # The residual stream too, as in ours: embeddings come in float32.
                x = x.to(torch.get_autocast_dtype(x.device.type))
            positions = torch.arange(x.shape[1], device=x.device)
            angles = positions[:, None] * self.rates
            for block in self.blocks:
                x = block(x, angles, vector)
            return self.norm(x)

    return Backbone()


def build_decoder(
    family: str, size: HardwareSize, model: ModelSize
) -> tuple["torch.nn.Module", Run]:
    """Return the model of a family and a function that gives its loss on random tokens.

    Raises:
        KeyError: if the family has no peer.
    """
    return {"ar": _delayed, "masked": _one_level, "diffusion": _velocity}[family](size, model)


def _backbone(model: ModelSize, *, is_causal: bool, is_modulated: bool) -> "torch.nn.Module":
    # SwiGLU's inner width as ours: 8/3 of the width in steps of 32.
    inner = 32 * max(1, round(model.width * 8 / 3 / 32))
    return build_transformer(
        model.width,
        model.layers,
        model.heads,
        inner,
        is_causal=is_causal,
        is_modulated=is_modulated,
    )


def _delayed(size: HardwareSize, model: ModelSize) -> tuple["torch.nn.Module", Run]:
    import torch
    from torch import nn
    from torch.nn import functional

    levels, entries = size.codebooks, size.entries
    steps = size.frames + levels - 1

    class Delayed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(levels * (entries + 1), model.width)
            self.backbone = _backbone(model, is_causal=True, is_modulated=False)
            self.head = nn.Linear(model.width, levels * entries, bias=False)

        def forward(self, codes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            logits = self.head(self.backbone(self.embed(codes).sum(2)))
            logits = logits.unflatten(-1, (levels, entries)).float()
            return functional.cross_entropy(
                logits.flatten(0, 2), labels.flatten(), ignore_index=-100
            )

    # Level k is k steps late; -100 marks the corners that no code fills.
    labels = torch.full((model.clips, steps, levels), -100)
    for level in range(levels):
        drawn = torch.randint(0, entries, (model.clips, size.frames))
        labels[:, level : level + size.frames, level] = drawn
    shown = labels.masked_fill(labels == -100, entries).roll(1, 1)
    shown[:, 0] = entries
    codes = shown + torch.arange(levels) * (entries + 1)
    decoder = Delayed()
    return decoder, lambda: decoder(codes, labels)


def _one_level(size: HardwareSize, model: ModelSize) -> tuple["torch.nn.Module", Run]:
    import torch
    from torch import nn
    from torch.nn import functional

    levels, entries = size.codebooks, size.entries

    class OneLevel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(levels * (entries + 1), model.width)
            self.backbone = _backbone(model, is_causal=False, is_modulated=False)
            self.head = nn.Linear(model.width, entries, bias=False)

        def forward(self, codes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            logits = self.head(self.backbone(self.embed(codes).sum(2))).float()
            return functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), ignore_index=-100
            )

    # Half of the frames hide their code of the first level, whose loss counts there.
    shape = (model.clips, size.frames)
    labels = torch.randint(0, entries, shape)
    codes = torch.randint(0, entries, (*shape, levels))
    is_hidden = torch.rand(shape) < 0.5
    codes[..., 0] = torch.where(is_hidden, entries, labels)
    codes = codes + torch.arange(levels) * (entries + 1)
    labels = labels.masked_fill(~is_hidden, -100)
    decoder = OneLevel()
    return decoder, lambda: decoder(codes, labels)


def _velocity(size: HardwareSize, model: ModelSize) -> tuple["torch.nn.Module", Run]:
    import torch
    from torch import nn
    from torch.nn import functional

    latents, width = size.latent_channels, model.width

    class Velocity(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project_in = nn.Linear(latents, width)
            self.level = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
            self.backbone = _backbone(model, is_causal=False, is_modulated=True)
            self.project_out = nn.Linear(width, latents)

        def velocity(self, noisy: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
            # Sines and cosines of the level, as of a position (2006.11239).
            rates = torch.exp(torch.arange(128, device=noisy.device) * (-9.2 / 128))
            angles = 1000 * level[:, None] * rates
            vector = self.level(torch.cat([angles.cos(), angles.sin()], -1))
            return self.project_out(self.backbone(self.project_in(noisy), vector))

        def forward(self, clean: torch.Tensor) -> torch.Tensor:
            level = torch.rand(clean.shape[0], device=clean.device)
            noise = torch.randn_like(clean)
            noisy = torch.lerp(clean, noise, level[:, None, None])
            return functional.mse_loss(self.velocity(noisy, level).float(), noise - clean)

    clean = torch.randn(model.clips, size.frames, latents)
    decoder = Velocity()
    return decoder, lambda: decoder(clean)


def training_step(family: str, size: HardwareSize, model: ModelSize, device: str) -> Run:
    """Return a function that makes one update and returns its loss: compiled loss and gradient,
    clipping, fused AdamW, and the average of the weights.
    """
    import torch

    half = size.dtype == "bfloat16"
    with torch.device(device):
        decoder, loss_of = build_decoder(family, size, model)
    decoder.train()
    decoder.compile()  # in place, so that `loss_of` calls the compiled one
    weights = list(decoder.parameters())
    averages = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, betas=(0.9, 0.98), fused=True)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0, foreach=True)
        optimizer.step()
        torch._foreach_lerp_(averages, [weight.detach() for weight in weights], 1e-3)
        return loss.detach()

    return step


def drawing(family: str, size: HardwareSize, model: ModelSize, calls: int, device: str) -> Run:
    """Return a function that calls the compiled network of a masked or a diffusion model as often
    as a draw does; what happens between the calls is left out, in the peer's favour.
    """
    import torch

    one = model._replace(clips=1)
    with torch.device(device):
        decoder, loss_of = build_decoder(family, size, one)
    decoder.eval()
    decoder.compile()

    @torch.no_grad()
    def draw() -> torch.Tensor:
        last = None
        with torch.autocast(device, torch.bfloat16, enabled=size.dtype == "bfloat16"):
            for _ in range(calls):
                last = loss_of()
        assert last is not None, "a draw calls the network at least once"
        return last

    return draw


def count_parameters(module: "torch.nn.Module") -> int:
    """Return how many numbers the module holds."""
    return sum(parameter.numel() for parameter in module.parameters())
