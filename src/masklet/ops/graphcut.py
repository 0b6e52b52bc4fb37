"""Cutting an object out by a few strokes: pixels as a graph, its cheapest cut, and colours of both sides.

Boykov and Jolly, *Interactive graph cuts*, ICCV 2001: an energy with a price for every pixel on either side (R) and for
every pair of neighbours on different sides (B) is least where a cut of the graph is cheapest, and that is where the
largest flow from "object" to "background" gets stuck. Rother, Kolmogorov and Blake, *GrabCut*, SIGGRAPH 2004: the
prices of pixels come from two mixtures of Gaussians, which are fitted again to what was cut out, in turns. Constants
and numbers of hints are those of OpenCV's function of that name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Integer, Real, UInt8
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

__all__ = [
    "BACKGROUND",
    "MAYBE_BACKGROUND",
    "MAYBE_OBJECT",
    "OBJECT",
    "UNKNOWN",
    "Cut",
    "GrabCut",
    "Mixture",
    "cheapest_cut",
    "grabcut",
    "neighbour_prices",
]

BACKGROUND, OBJECT, MAYBE_BACKGROUND, MAYBE_OBJECT, UNKNOWN = range(5)  # what a person says of a pixel
ENOUGH = 30  # pixels for a Gaussian
UNITS = 2**28  # the flow is computed in whole numbers: the dearest price, and all flow together, are less than 2^31
STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))  # right, down, and the diagonals: with their opposites, eight neighbours


@dataclass(frozen=True)
class GrabCut:
    """`gamma` is the price of a border through even colour; `components` Gaussians a side; `rounds` of fit and cut."""

    gamma: float = 50.0
    components: int = 5
    rounds: int = 5


@dataclass(frozen=True, eq=False)
class Cut:
    """The cheapest cut: which pixels are the object, and its price."""

    mask: Bool[np.ndarray, "h w"]
    price: float


def cheapest_cut(
    as_object: Float[np.ndarray, "h w"],
    as_background: Float[np.ndarray, "h w"],
    neighbours: list[Float[np.ndarray, "_ _"]],
) -> Cut:
    """The mask with the least energy: what its pixels cost as object, the others as background, and its border.

    `neighbours` are prices between a pixel and the one to its right, below, to the lower right and to the lower left
    (`neighbour_prices`; fewer arrays leave these links out). Prices are not negative. Of masks that cost the same the
    smallest is taken. Prices are rounded to 1e-9 of what all pixels together cost, which a flow must be able to count.
    """
    height, width = as_object.shape
    count = height * width
    numbers = np.arange(count, dtype=np.int32).reshape(height, width)
    source, sink = count, count + 1
    common = np.minimum(as_object, as_background)  # paid in any case
    heads, tails, prices = [], [], []
    for (down, right), price in zip(STEPS, neighbours, strict=False):
        here, there = _pairs(numbers, down, right)
        heads += [here.ravel(), there.ravel()]
        tails += [there.ravel(), here.ravel()]
        prices += [price.ravel(), price.ravel()]
    flat = numbers.ravel()
    gain, loss = (as_background - common).ravel(), (as_object - common).ravel()
    heads += [np.full(count, source, np.int32), flat]
    tails += [flat, np.full(count, sink, np.int32)]
    prices += [gain, loss]
    all_prices = np.concatenate(prices)
    # one unit: no capacity and no sum of flows from the source may leave 32 bits
    largest = max(float(all_prices.max(initial=0.0)), float(gain.sum()) / 4, float(loss.sum()) / 4, 1e-12)
    whole = np.rint(all_prices * (UNITS / largest)).astype(np.int32)
    graph = csr_array(coo_array((whole, (np.concatenate(heads), np.concatenate(tails))), shape=(count + 2,) * 2))
    flow = maximum_flow(graph, source, sink)
    left = graph - flow.flow
    left.data[left.data < 0] = 0
    left.eliminate_zeros()
    reached = breadth_first_order(csr_array(left), source, return_predecessors=False)
    mask = np.zeros(count + 2, bool)
    mask[reached] = True
    mask = mask[:count].reshape(height, width)
    return Cut(mask, energy(mask, as_object, as_background, neighbours))


def energy(
    mask: Bool[np.ndarray, "h w"],
    as_object: Float[np.ndarray, "h w"],
    as_background: Float[np.ndarray, "h w"],
    neighbours: list[Float[np.ndarray, "_ _"]],
) -> float:
    """What a mask costs."""
    total = float(np.where(mask, as_object, as_background).sum())
    for (down, right), price in zip(STEPS, neighbours, strict=False):
        here, there = _pairs(mask, down, right)
        total += float(price[here != there].sum())
    return total


def neighbour_prices(image: Real[np.ndarray, "h w c"], gamma: float = 50.0) -> list[Float64[np.ndarray, "_ _"]]:
    """Prices of borders between a pixel and its right, lower, lower right and lower left neighbour.

    `gamma exp(-beta d^2) / distance` for colours that differ by d; beta is half of one over the mean of d^2.
    """
    image = image.astype(np.float64)
    apart = [((here - there) ** 2).sum(2) for here, there in (_pairs(image, *step) for step in STEPS)]
    total, pairs = sum(float(d.sum()) for d in apart), sum(d.size for d in apart)
    beta = pairs / (2 * total) if total > 1e-12 else 0.0
    return [gamma * np.exp(-beta * d) / np.hypot(*step) for d, step in zip(apart, STEPS, strict=True)]


def _pairs(x: np.ndarray, down: int, right: int) -> tuple[np.ndarray, np.ndarray]:
    """Each pixel and its neighbour in one direction, where there is one."""
    h, w = x.shape[:2]
    if right < 0:
        return x[: h - down, -right:], x[down:, : w + right]
    return x[: h - down, : w - right], x[down:, right:]


@dataclass(frozen=True, eq=False)
class Mixture:
    """Gaussians in the space of colours, with a weight each."""

    weights: Float64[np.ndarray, " k"]
    means: Float64[np.ndarray, "k c"]
    inverses: Float64[np.ndarray, "k c c"]
    logs: Float64[np.ndarray, " k"]  # of the determinants

    @classmethod
    def of(cls, colors: Float64[np.ndarray, "n c"], which: Integer[np.ndarray, " n"], count: int) -> Mixture:
        """Fitted to colours of which each belongs to one component."""
        sizes = np.bincount(which, minlength=count)
        known = np.flatnonzero(sizes)
        weights = sizes[known] / len(colors)
        channels = colors.shape[1]
        sums = np.stack([np.bincount(which, colors[:, c], count) for c in range(channels)], 1)
        means = sums[known] / sizes[known, None]
        square = [
            np.bincount(which, colors[:, i] * colors[:, j], count)[known]
            for i in range(channels)
            for j in range(channels)
        ]
        second = np.stack(square, 1).reshape(-1, channels, channels) / sizes[known, None, None]
        spread = second - means[:, :, None] * means[:, None]
        flat = np.linalg.det(spread) <= 1e-6
        spread[flat] += 0.01 * np.eye(channels)  # one colour, or colours on a line
        return cls(weights, means, np.linalg.inv(spread), np.log(np.maximum(np.linalg.det(spread), 1e-300)))

    def prices(self, colors: Float64[np.ndarray, "n c"]) -> Float64[np.ndarray, "n k"]:
        """What each component asks for a colour: minus the logarithm of its weighted density, a constant apart."""
        away = colors[:, None] - self.means
        distance = np.einsum("nki,kij,nkj->nk", away, self.inverses, away, optimize=True)
        return 0.5 * (distance + self.logs) - np.log(self.weights)

    def price(self, colors: Float64[np.ndarray, "n c"]) -> Float64[np.ndarray, " n"]:
        """Minus the logarithm of the density of a colour, a constant apart."""
        each = self.prices(colors)
        least = each.min(1)
        return least - np.log(np.exp(least[:, None] - each).sum(1))


def _clusters(colors: Float64[np.ndarray, "n c"], count: int, rounds: int = 10) -> Int[np.ndarray, " n"]:
    """k-means; it starts by cutting the widest cluster in two along its longest axis, so nothing is drawn at random."""
    which = np.zeros(len(colors), np.int64)
    for new in range(1, min(count, len(np.unique(colors, axis=0)))):
        spreads = []
        for cluster in range(new):
            own = colors[which == cluster]
            values, axes = np.linalg.eigh(np.cov(own.T) if len(own) > 1 else np.zeros((colors.shape[1],) * 2))
            spreads.append((values[-1] * len(own), axes[:, -1]))
        widest = int(np.argmax([spread for spread, _ in spreads]))
        inside = np.flatnonzero(which == widest)
        along = colors[inside] @ spreads[widest][1]
        which[inside[along > along.mean()]] = new
    for _ in range(rounds):
        known = np.unique(which)
        means = np.stack([colors[which == cluster].mean(0) for cluster in known])
        nearest = ((colors[:, None] - means) ** 2).sum(2).argmin(1)
        if np.array_equal(known[nearest], which):
            break
        which = nearest
    return which


def grabcut(
    image: UInt8[np.ndarray, "h w 3"], hints: Integer[np.ndarray, "h w"], settings: GrabCut | None = None
) -> Bool[np.ndarray, "h w"]:
    """The object in an image of which some pixels are known (`BACKGROUND`, `OBJECT`) and the rest is guessed at.

    `MAYBE_OBJECT` and `MAYBE_BACKGROUND` say what the colours are first learned from; nothing is learned from `UNKNOWN`
    ones before the first cut. Deterministic.
    """
    return list(grabcut_rounds(image, hints, settings))[-1].mask


def grabcut_rounds(
    image: UInt8[np.ndarray, "h w 3"], hints: Integer[np.ndarray, "h w"], settings: GrabCut | None = None
) -> Iterator[Cut]:
    """The cut after each round, until nothing changes."""
    chosen = GrabCut() if settings is None else settings
    mask = np.isin(hints, (OBJECT, MAYBE_OBJECT))
    if mask.all() or not mask.any():
        raise ValueError("all pixels are on one side; mark object and background")
    colors = image.reshape(-1, 3).astype(np.float64)
    neighbours = neighbour_prices(image, chosen.gamma)
    sure = 9 * chosen.gamma  # more than all eight borders of a pixel
    learned, models = (hints != UNKNOWN).ravel(), {}
    for side in (True, False):
        own = colors[(mask.ravel() == side) & learned]
        if not len(own):
            raise ValueError("all pixels are on one side; mark object and background")
        count = max(1, min(chosen.components, len(own) // ENOUGH))
        models[side] = Mixture.of(own, _clusters(own, count), count)
    for _ in range(chosen.rounds):
        for side in (True, False):  # each pixel goes to its best component, and they are fitted anew
            own = colors[(mask.ravel() == side) & learned]
            models[side] = Mixture.of(own, models[side].prices(own).argmin(1), chosen.components)
        learned[:] = True
        as_object, as_background = (models[side].price(colors).reshape(mask.shape) for side in (True, False))
        least = np.minimum(as_object, as_background)
        as_object, as_background = as_object - least, as_background - least
        as_object[hints == BACKGROUND], as_background[hints == BACKGROUND] = sure, 0.0
        as_object[hints == OBJECT], as_background[hints == OBJECT] = 0.0, sure
        cut = cheapest_cut(as_object, as_background, neighbours)
        yield cut
        if cut.mask.all() or not cut.mask.any() or np.array_equal(cut.mask, mask):
            return
        mask = cut.mask
