"""Backbones that are one plain sequence of layers, numbered or named as in the files their weights come in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from masklet.parts.conv import pad_to_at_least
from masklet.parts.norm import IMAGENET, Pixels


class Level(NamedTuple):
    """One promised feature map: the layer that gives it, its channels, its stride."""

    layer: str
    channels: int
    stride: int


class FeatureSequence(nn.Module):
    """Runs `features` layer by layer and keeps the maps after the layers that `levels` name.

    No layer may change its input in place after a kept one. Images smaller than `least` have no output in some nets:
    they get zeros on the right and below.
    """

    def __init__(
        self, features: nn.Sequential, levels: Mapping[str, Level], pixels: Pixels = IMAGENET, least: int = 1
    ) -> None:
        super().__init__()
        self.features, self.pixels, self.least = features, pixels, least
        self.channels = {name: level.channels for name, level in levels.items()}
        self.strides = {name: level.stride for name, level in levels.items()}
        self._kept = {level.layer: name for name, level in levels.items()}

    def keep(self, name: str, level: Level) -> None:
        """Promise one more map, of a layer inside a stage for instance."""
        self._kept[level.layer] = name
        self.channels[name], self.strides[name] = level.channels, level.stride

    def drop_last(self, name: str, instead: str) -> None:
        """The last layer goes, a pool, and with it the map `name`; the map before it is called `instead`."""
        (*_, before, last) = self.features._modules
        self.features = self.features[:-1]
        self._kept = {layer: level for layer, level in self._kept.items() if layer != last}
        channels, stride = self.channels.pop(name), self.strides.pop(name)
        self.keep(instead, Level(before, channels, stride // 2))

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        x, maps = pad_to_at_least(x, self.least), {}
        for name, layer in self.features.named_children():
            x = layer(x)
            if name in self._kept:
                maps[self._kept[name]] = x
        return maps
