"""From one answer per image to one per pixel: classifiers as convolutions, what a unit sees, and dense shifts."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from masklet.structures.errors import UserError


def convolutionize(net: nn.Module, size: int = 224) -> nn.Sequential:
    """A classifier of `size` x `size` images as a convolutional net: any larger image gives a map of answers.

    Each fully connected layer becomes the convolution that covers its whole input map (Long et al., 2015, fig. 2).
    Needs a net that runs its children in order, as those of torchvision do; others are refused, not miscounted.
    """
    with _plain_eval(net), torch.no_grad():
        x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        layers, out = [], x
        for layer in _in_order(net):
            for dense in _dense(layer, out):
                layers.append(dense)
                out = dense.eval()(out)
        dense_net = nn.Sequential(*layers)
        want = net(x)
        if out.shape[:2] != want.shape[:2] or out.shape[2:].numel() != 1:
            raise UserError(f"{type(net).__name__} ends in a {tuple(out.shape[2:])} map, not in one answer per image")
        if not torch.allclose(out.flatten(1), want, rtol=1e-3, atol=1e-4 * float(want.std())):
            raise UserError(
                f"{type(net).__name__} does more than run its children in order", hint="pass an nn.Sequential"
            )
    return dense_net.train(net.training)


def _in_order(net: nn.Module) -> Iterator[nn.Module]:
    """Children in the order they run, containers opened up as far as a fully connected layer is inside."""
    for name, layer in net.named_children():
        if name.startswith("aux"):  # the extra classifiers of GoogLeNet matter in training only
            continue
        holds_linear = any(isinstance(part, nn.Linear) for part in layer.modules())
        yield from _in_order(layer) if holds_linear and not isinstance(layer, nn.Linear) else (layer,)


def _dense(layer: nn.Module, x: Float[Tensor, "1 c h w"]) -> Iterator[nn.Module]:
    """`layer` as one that slides, given the map it sees on an image of the trained size."""
    channels, height, width = x.shape[1:]
    if isinstance(layer, nn.Flatten) or (isinstance(layer, nn.AdaptiveAvgPool2d) and _same_size(layer, height, width)):
        return
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        if math.prod(_pair(layer.output_size)) != 1:
            raise UserError(f"pooling {height}x{width} to {layer.output_size} does not slide", hint="check size=")
        yield nn.AvgPool2d((height, width), stride=1)
    elif isinstance(layer, nn.Linear):
        if layer.in_features == channels and height * width > 1:  # the pooling was in forward, not a child
            yield nn.AvgPool2d((height, width), stride=1)
            height = width = 1
        if layer.in_features != channels * height * width:
            raise UserError(
                f"a layer of {layer.in_features} inputs follows a {channels}x{height}x{width} map",
                hint="give the size= that the classifier was trained with",
            )
        yield linear_to_conv(layer, (height, width))
    else:
        yield copy.deepcopy(layer)


def linear_to_conv(linear: nn.Linear, kernel: tuple[int, int] = (1, 1)) -> nn.Conv2d:
    """The convolution that computes `linear` of every window of `kernel` (height, width)."""
    channels = linear.in_features // math.prod(kernel)
    conv = nn.utils.skip_init(nn.Conv2d, channels, linear.out_features, kernel, bias=linear.bias is not None)
    with torch.no_grad():
        conv.weight.copy_(linear.weight.view_as(conv.weight))
        if linear.bias is not None and conv.bias is not None:
            conv.bias.copy_(linear.bias)
    return conv


class Field(NamedTuple):
    """What one unit of a feature map sees: `size` pixels of the image each way, `stride` pixels from its neighbour."""

    size: int
    stride: int


PIXEL = Field(1, 1)


def compose(layers: Iterable[tuple[int, int]], below: Field = PIXEL) -> Field:
    """The receptive field of layers (kernel, stride) in a row: (k, s) on top of (k', s') is (k' + (k - 1) s', s s').

    >>> compose([(3, 1), (3, 1), (2, 2)])
    Field(size=6, stride=2)
    """
    for kernel, stride in layers:
        below = Field(below.size + (kernel - 1) * below.stride, below.stride * stride)
    return below


def receptive_field(net: nn.Module, level: str | None = None, size: int = 1024) -> Field:
    """Receptive field and stride of the output of `net` (of feature `level`, for a backbone); of branches the largest.

    Runs `net` on an image of `size` that has a shape and no pixels, so even large nets take no time or memory.
    """
    ghosts = {name: value.to("meta") for name, value in (*net.named_parameters(), *net.named_buffers())}
    image = torch.empty(1, 3, size, size, device="meta")
    mode = _Fields()
    mode.mark(image, PIXEL)
    with _plain_eval(net), torch.no_grad(), mode:
        out = functional_call(net, ghosts, (image,))
    if isinstance(out, Mapping):
        if level not in out:
            raise UserError(f"no feature {level!r}", hint=f"level is one of {', '.join(out)}")
        out = out[level]
    return mode.of(out)


class _Fields(TorchFunctionMode):
    """Notes on every tensor what it sees, while a net runs."""

    WINDOWS = ("conv2d", "max_pool2d", "max_pool2d_with_indices", "avg_pool2d")
    UPWARDS = ("conv_transpose2d", "interpolate", "upsample")

    @staticmethod
    def mark(value: Any, field: Field) -> None:
        for tensor in value if isinstance(value, tuple | list) else (value,):
            if isinstance(tensor, Tensor):
                tensor.masklet_field = field  # type: ignore[attr-defined]

    @staticmethod
    def of(value: Any) -> Field:
        return getattr(value, "masklet_field", PIXEL)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        out = func(*args, **kwargs)
        seen = [self.of(tensor) for tensor in _tensors((args, kwargs))]
        below = Field(max(f.size for f in seen), max(f.stride for f in seen)) if seen else PIXEL
        if name in self.UPWARDS:
            raise UserError("the receptive field ends where upsampling begins", hint="give the part before it")
        if name in self.WINDOWS:
            below = compose([self._window(name, args, kwargs)], below)
        if name in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
            before, after = args[0].shape[-1], (out[0] if isinstance(out, tuple) else out).shape[-1]
            below = compose([(before - (after - 1) * (before // after), before // after)], below)
        self.mark(out, below)
        return out

    def _window(self, name: str, args: Any, kwargs: Mapping[str, Any]) -> tuple[int, int]:
        """Extent and stride of a convolution or pooling, from the arguments of its function."""

        def argument(position: int, key: str, default: Any) -> int:
            value = args[position] if len(args) > position else kwargs.get(key, default)
            return max(_pair(default if value is None or value == [] else value))

        if name == "conv2d":
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            kernel, stride, dilation = max(weight.shape[-2:]), argument(3, "stride", 1), argument(5, "dilation", 1)
        else:
            kernel = argument(1, "kernel_size", 1)
            stride = argument(2, "stride", kernel)
            dilation = 1 if name == "avg_pool2d" else argument(4, "dilation", 1)
        return (kernel - 1) * dilation + 1, stride


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))


def shift_and_stitch(
    net: Callable[[Tensor], Tensor], images: Float[Tensor, "b c h w"], stride: int
) -> Float[Tensor, "b k hs ws"]:
    """Dense answers of a net that answers every `stride` pixels: run it on all shifts of the image and interlace.

    Equal to the net with its strides turned into dilations (`atrous`); exactly so where nothing is padded inside.
    """
    if min(images.shape[-2:]) < stride:
        raise UserError(f"image {tuple(images.shape[-2:])} is smaller than the stride {stride}")
    parts = [[net(images[..., y:, x:]) for x in range(stride)] for y in range(stride)]
    height = sum(row[0].shape[-2] for row in parts)
    width = sum(part.shape[-1] for part in parts[0])
    first = parts[0][0]
    out = first.new_empty(*first.shape[:2], height, width)
    for y, row in enumerate(parts):
        for x, part in enumerate(row):
            out[..., y::stride, x::stride] = part
    return out


def atrous(net: nn.Sequential) -> nn.Sequential:
    """The same layers without strides: what follows a removed stride is spread with holes (dilation) instead."""
    layers, spread = [], 1
    for layer in net:
        layer = copy.deepcopy(layer)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            stride, dilation = _pair(layer.stride)[0], _pair(layer.dilation)[0]
            layer.stride = (1, 1) if isinstance(layer, nn.Conv2d) else 1
            layer.dilation = (dilation * spread,) * 2 if isinstance(layer, nn.Conv2d) else dilation * spread
            spread *= stride
        elif any(isinstance(part, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) for part in layer.modules()):
            raise UserError(
                f"atrous cannot open a {type(layer).__name__}", hint="give convolutions and max pools in a row"
            )
        layers.append(layer)
    return nn.Sequential(*layers)


def _same_size(layer: nn.AdaptiveAvgPool2d, height: int, width: int) -> bool:
    return _pair(layer.output_size) == (height, width)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


@contextmanager
def _plain_eval(net: nn.Module) -> Iterator[None]:
    """`net` in eval mode inside the block, every part as it was afterwards."""
    modes = [(part, part.training) for part in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
