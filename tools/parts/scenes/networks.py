"""Small classifiers of seven families for scenes, in PyTorch: every kind of layer that deployed models are made of.

Inputs are (pixels / 255 - 0.5) / 0.25, outputs are logits. PyTorch is imported with this file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from parts.scenes.scene import CLASSES, SIDE


class Residual(nn.Module):
    """What is inside, added to what comes in."""

    def __init__(self, *inside: nn.Module) -> None:
        super().__init__()
        self.inside = nn.Sequential(*inside)

    def forward(self, x: Tensor) -> Tensor:
        """Both."""
        return x + self.inside(x)


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


def plain() -> nn.Module:
    """Convolutions, rectifiers and maxima alone, and layers over all places at the end, as in VGG."""
    widths, before = (24, 32, 48, 64), 3
    layers: list[nn.Module] = []
    for number, width in enumerate(widths):
        layers += [nn.Conv2d(before, width, 3, padding=1, stride=1 if number else 2), nn.ReLU()]
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()] if number else []
        layers += [nn.MaxPool2d(2)] if number else []
        before = width
    side = SIDE // 2 ** len(widths)
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * side**2, 96), nn.ReLU(), nn.Linear(96, CLASSES))
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return net


class _Basic(nn.Module):
    """Two convolutions with batch normalisation beside a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        same = stride == 1 and before == width
        self.beside = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.inside(x) + self.beside(x))


def resnet() -> nn.Module:
    """Residual blocks with batch normalisation."""
    blocks = [_Basic(24, 32, 2), _Basic(32, 32, 1), _Basic(32, 64, 2), _Basic(64, 64, 1)]
    blocks += [_Basic(64, 96, 2), _Basic(96, 96, 1)]
    stem = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
    return nn.Sequential(stem, *blocks, _head(96))


class _Squeeze(nn.Module):
    """A gate for every channel from the means over all places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, width // 4, 1),
            nn.SiLU(),
            nn.Conv2d(width // 4, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


def _inverted(before: int, width: int, stride: int, expansion: int = 4) -> nn.Module:
    wide = expansion * before
    inside = [
        nn.Conv2d(before, wide, 1, bias=False),
        nn.BatchNorm2d(wide),
        nn.SiLU(),
        nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
        nn.BatchNorm2d(wide),
        nn.SiLU(),
        _Squeeze(wide),
        nn.Conv2d(wide, width, 1, bias=False),
        nn.BatchNorm2d(width),
    ]
    return Residual(*inside) if stride == 1 and before == width else nn.Sequential(*inside)


def depthwise() -> nn.Module:
    """Inverted bottlenecks, depthwise, with squeeze-and-excitation, as in EfficientNet."""
    stem = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU()]
    body = [_inverted(16, 24, 2, 2), _inverted(24, 24, 1), _inverted(24, 40, 2), _inverted(40, 40, 1)]
    body += [_inverted(40, 64, 2), _inverted(64, 64, 1)]
    return nn.Sequential(*stem, *body, nn.Conv2d(64, 192, 1, bias=False), nn.BatchNorm2d(192), nn.SiLU(), _head(192))


class _Channels(nn.Module):
    """Layer normalisation over the channels of every place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _next(width: int) -> nn.Module:
    return Residual(
        nn.Conv2d(width, width, 7, padding=3, groups=width),
        _Channels(width),
        nn.Conv2d(width, 4 * width, 1),
        nn.GELU(),
        nn.Conv2d(4 * width, width, 1),
    )


def convnext() -> nn.Module:
    """Large depthwise kernels, layer normalisation and GELU."""
    widths = (32, 64, 96)
    body: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), _Channels(widths[0])]
    for number, width in enumerate(widths):
        if number:
            body += [_Channels(widths[number - 1]), nn.Conv2d(widths[number - 1], width, 2, 2)]
        body += [_next(width), _next(width)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(96), nn.Linear(96, CLASSES))


class Attention(nn.Module):
    """Every token looks at every other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Tokens (N, tokens, width) told of each other; a bias is added to the scores of pairs."""
        several, tokens, width = x.shape
        shape = (several, tokens, 3, self.heads, width // self.heads)
        query, key, value = self.mixed(x).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = self.attend(query, key, value, bias)
        return self.out(mixed.transpose(1, 2).reshape(several, tokens, width))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Means of values, (N, heads, tokens, width)."""
        if self.training:  # the same in one step: graphs are exported from what is below
            return functional.scaled_dot_product_attention(query, key, value, bias)
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        return self.weigh((scores if bias is None else scores + bias).softmax(-1)) @ value

    def weigh(self, weights: Tensor) -> Tensor:
        """The weights of every token for every other, for whoever wants to see them."""
        return weights


def _perceptron(width: int, wide: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, width))


def _encoder(width: int, heads: int) -> nn.Sequential:
    return nn.Sequential(
        Residual(nn.LayerNorm(width), Attention(width, heads)),
        Residual(nn.LayerNorm(width), _perceptron(width, 4 * width)),
    )


class _ViT(nn.Module):
    """Patches become tokens; a class token collects."""

    def __init__(self, patch: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 1 + (SIDE // patch) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*(_encoder(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], dim=1) + self.places
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class _Windows(nn.Module):
    """Attention inside windows, which are shifted in every second block; cells are last but channels."""

    def __init__(self, width: int, heads: int, side: int, window: int, shift: int) -> None:
        super().__init__()
        self.side, self.window, self.shift = side, window, shift
        self.attention = Attention(width, heads)
        self.places = nn.Parameter(torch.zeros(heads, window**2, window**2))
        self.register_buffer("apart", self._apart() if shift else None)

    def _apart(self) -> Tensor:
        """Shifted windows hold cells of both edges, which must not look at each other."""
        region = torch.zeros(1, self.side, self.side, 1)
        cuts = (slice(0, -self.window), slice(-self.window, -self.shift), slice(-self.shift, None))
        for number, (rows, columns) in enumerate((rows, columns) for rows in cuts for columns in cuts):
            region[:, rows, columns] = number
        groups = self._split(region).squeeze(-1)
        return (groups[:, None, :] != groups[:, :, None]).float()[:, None] * -100.0

    def _split(self, x: Tensor) -> Tensor:
        several, width, count = x.shape[0], x.shape[-1], self.side // self.window
        x = x.reshape(several, count, self.window, count, self.window, width).transpose(2, 3)
        return x.reshape(-1, self.window**2, width)

    def forward(self, x: Tensor) -> Tensor:
        several, width, count = x.shape[0], x.shape[-1], self.side // self.window
        x = torch.roll(x, (-self.shift, -self.shift), (1, 2)) if self.shift else x
        bias = self.places[None]
        if self.apart is not None:
            bias = (bias + self.apart).repeat(several, 1, 1, 1)
        x = self.attention(self._split(x), bias)
        x = x.reshape(several, count, count, self.window, self.window, width).transpose(2, 3)
        x = x.reshape(several, self.side, self.side, width)
        return torch.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x


class _Merge(nn.Module):
    """Four cells become one."""

    def __init__(self, width: int, wide: int) -> None:
        super().__init__()
        self.norm, self.less = nn.LayerNorm(4 * width), nn.Linear(4 * width, wide, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.less(self.norm(torch.cat(corners, dim=-1)))


class _Swin(nn.Module):
    """Attention in shifted windows on ever coarser grids."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 96), window: int = 6) -> None:
        super().__init__()
        self.embed, side = nn.Conv2d(3, widths[0], 4, 4), SIDE // 4
        stages: list[nn.Module] = []
        for number, width in enumerate(widths):
            stages += [_Merge(widths[number - 1], width)] if number else []
            for shift in (0, window // 2 if side > window else 0):
                inside = _Windows(width, width // 16, side, window, shift)
                stages += [Residual(nn.LayerNorm(width), inside)]
                stages += [Residual(nn.LayerNorm(width), _perceptron(width, 4 * width))]
            side //= 2
        self.stages = nn.Sequential(*stages)
        self.norm, self.head = nn.LayerNorm(widths[-1]), nn.Linear(widths[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        cells = self.stages(self.embed(x).permute(0, 2, 3, 1))
        return self.head(self.norm(cells).mean((1, 2)))


class _Turned(nn.Module):
    """What is inside, over tokens in place of channels."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x.transpose(1, 2)).transpose(1, 2)


class _Mixer(nn.Module):
    """Perceptrons over tokens and over channels in turn."""

    def __init__(self, patch: int, width: int, depth: int) -> None:
        super().__init__()
        self.embed, tokens = nn.Conv2d(3, width, patch, patch), (SIDE // patch) ** 2
        blocks = (
            nn.Sequential(
                Residual(nn.LayerNorm(width), _Turned(_perceptron(tokens, 96))),
                Residual(nn.LayerNorm(width), _perceptron(width, 4 * width)),
            )
            for _ in range(depth)
        )
        self.blocks, self.norm, self.head = nn.Sequential(*blocks), nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.blocks(self.embed(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(tokens).mean(1))


@dataclass(frozen=True)
class Family:
    """How a network is made and trained."""

    make: Callable[[], nn.Module]
    epochs: int
    rate: float
    taught: bool = False


FAMILIES = {
    "plain": Family(plain, 12, 1e-3),
    "resnet": Family(resnet, 10, 3e-3),
    "depthwise": Family(depthwise, 10, 3e-3),
    "convnext": Family(convnext, 12, 2e-3, taught=True),
    "vit": Family(partial(_ViT, 8, 64, 6, 4), 14, 1.5e-3, taught=True),
    "swin": Family(_Swin, 12, 1.5e-3, taught=True),
    "mixer": Family(partial(_Mixer, 8, 64, 6), 14, 1.5e-3, taught=True),
}
