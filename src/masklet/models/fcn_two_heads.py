"""One FCN, two answers: what a pixel is, and which way its surface lies; both heads learn on the same features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from masklet.models.base import predict_semantic
from masklet.models.fcn import FCN, Skip, Upscore, fcn16s, zero_score
from masklet.parts.losses import cross_entropy
from masklet.structures import Classes, SemanticMap
from masklet.structures.errors import UserError

GEOMETRY = Classes(("horizontal", "vertical", "sky"))


class TwoHeadFCN(nn.Module):
    """FCN-16s with a semantic and a geometric head, as for SIFT Flow (Long et al., 2015, sec. 5).

    `forward`, `predict` and all that evaluates a semantic model see the semantic head; `both` and `predict_geometry`
    the other. `geometry_of` says the geometry of every semantic class, for data that has no geometric labels.
    """

    align_corners = False  # of no effect: the scores are as large as the image
    classes: Classes
    spec: dict[str, Any]
    criterion: Callable[..., Tensor]

    def __init__(self, semantic: FCN, geometric: FCN, geometry_of: Sequence[int] | None):
        super().__init__()
        self.semantic, self.geometric, self.criterion = semantic, geometric, cross_entropy
        self.geometry_of = None if geometry_of is None else tuple(geometry_of)

    def both(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b k h w"], Float[Tensor, "b g h w"]]:
        *finer, last = self.semantic.backbone(self.semantic.normalize(images))
        features = self.semantic.tail(last)
        return self.semantic.ladder(finer, features, images), self.geometric.ladder(finer, features, images)

    def scores(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        return self.semantic.scores(images)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        return self.scores(images)

    def loss(
        self,
        images: Float[Tensor, "b 3 h w"],
        targets: Int[Tensor, "b h w"],
        geometry: Int[Tensor, "b h w"] | None = None,
    ) -> dict[str, Tensor]:
        """Both heads' losses, added up with equal weight; `geometry` holds labels of `GEOMETRY`, 255 ignores."""
        ignore, (semantic, geometric) = self.classes.ignore, self.both(images)
        losses = {"main": self.criterion(semantic, targets, ignore=ignore)}
        if geometry is None and self.geometry_of is not None:
            table = targets.new_full((256,), GEOMETRY.ignore)
            table[: len(self.geometry_of)] = targets.new_tensor(self.geometry_of)
            geometry = table[targets.long()].where(targets != ignore, GEOMETRY.ignore)
        if geometry is not None:
            losses["geometry"] = cross_entropy(geometric, geometry, ignore=GEOMETRY.ignore)
        return losses

    def predict(self, images: Any) -> SemanticMap | list[SemanticMap]:
        return predict_semantic(self, images)

    def predict_geometry(self, images: Any) -> SemanticMap | list[SemanticMap]:
        """Horizontal, vertical or sky, for every pixel."""
        return predict_semantic(_Geometry(self), images)


class _Geometry(nn.Module):
    """The same net, asked for the other answer."""

    align_corners, classes = False, GEOMETRY

    def __init__(self, net: TwoHeadFCN):
        super().__init__()
        self.net = net

    def scores(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b g h w"]:
        return self.net.both(images)[1]


def fcn_two_heads(
    num_classes: int = 33,
    backbone: str = "vgg16",
    pixels: str = "caffe",
    learned: bool = False,
    geometry_of: Sequence[int] | None = None,
) -> TwoHeadFCN:
    """FCN-16s with a second head for geometry; 33 classes are SIFT Flow's. Other options as in `fcn16s`.

    `geometry_of` names for each class 0 (horizontal), 1 (vertical), 2 (sky) or 255 (not known): then plain semantic
    labels train both heads.
    """
    known = (*range(len(GEOMETRY)), GEOMETRY.ignore)
    if geometry_of is not None and (len(geometry_of) != num_classes or not set(geometry_of) <= set(known)):
        raise UserError(
            f"geometry_of is {tuple(geometry_of)} for {num_classes} classes",
            hint="give one of 0 (horizontal), 1 (vertical), 2 (sky), 255 (not known) for each class",
        )
    semantic, kinds = fcn16s(backbone, num_classes, pixels, learned), len(GEOMETRY)
    assert isinstance(semantic.score, nn.Conv2d)
    geometric = FCN(
        nn.Identity(),
        nn.Identity(),
        nn.Identity(),
        zero_score(semantic.score.in_channels, kinds),
        [Skip(512, kinds, 5, 1.0, learned)],
        Upscore(kinds, 32, 16, learned),
        semantic.offset,
    )
    return TwoHeadFCN(semantic, geometric, geometry_of)
