"""HHA: a depth image as three bytes a pixel that mean the same whichever way the camera was held.

Horizontal disparity, height above ground, and the angle of the surface with gravity (Gupta, Girshick, Arbeláez and
Malik, "Learning rich features from RGB-D images", ECCV 2014). Gravity is found in the picture itself: floors, tables
and ceilings lie across it and walls along it (Gupta, Arbeláez and Malik, CVPR 2013). The camera looks along +z, x
points right and y down; lengths are metres.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, UInt8
from scipy.ndimage import uniform_filter

__all__ = ["KINECT", "Camera", "gravity", "height_above_ground", "hha", "kinect", "normals", "points"]

Map = Float[np.ndarray, "h w"]
Vectors = Float64[np.ndarray, "h w 3"]
Down = Float64[np.ndarray, " 3"]
FINE, COARSE, ROWS = 3, 10, 480  # reach of windows in pictures of 480 rows: normals to show, and steadier ones to vote
UNSURE = 1e-3  # weight of the last guess: a single wall leaves a circle of directions open
VOTES = ((45.0, 5), (15.0, 5))  # degrees within which a normal counts as level or upright, rounds
SEEN_FLOOR, EYE = 0.9, 1.3  # metres: if nothing lies so far below the camera, the floor is out of sight, and EYE below
NEAREST, DISPARITY, CM, TILT = 1.0, 310.0, 100.0, 38.0  # bytes: 310 / metres (1 at least), centimetres, degrees + 38


class Camera(NamedTuple):
    """A pinhole: focal lengths and principal point in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float


KINECT = Camera(518.857901, 519.469611, 325.582449, 253.736166)  # NYUDv2's colour camera, 640x480


def kinect(height: int, width: int) -> Camera:
    """NYUDv2's camera for pictures of another size: the guess where nothing is known."""
    across, down = width / 640, height / 480
    return Camera(KINECT.fx * across, KINECT.fy * down, KINECT.cx * across, KINECT.cy * down)


def points(depth: Map, camera: Camera) -> Vectors:
    """Where every pixel's surface is, (x, y, z) in metres."""
    rows, columns = np.indices(depth.shape, np.float64)
    z = depth.astype(np.float64)
    return np.stack([(columns - camera.cx) / camera.fx * z, (rows - camera.cy) / camera.fy * z, z], -1)


def normals(depth: Map, camera: Camera, reach: int) -> Vectors:
    """Unit normals that point away from the camera; NaN where depth is 0 (not measured) or too little is around.

    In a picture a plane is a linear function of the inverse depth: 1/z = a u + b v + c. That is fitted by least squares
    to the measured pixels of the window that reaches `reach` pixels to each side.
    """
    there = depth > 0
    inverse = np.divide(1.0, depth, out=np.zeros(depth.shape), where=there)
    rows, columns = np.indices(depth.shape, np.float64)
    rows, columns = rows - depth.shape[0] / 2, columns - depth.shape[1] / 2  # small numbers cancel less

    def mean(values: Float64[np.ndarray, "h w"]) -> Float64[np.ndarray, "h w"]:
        return uniform_filter(values * there, 2 * reach + 1, mode="constant")

    with np.errstate(divide="ignore", invalid="ignore"):
        share = mean(np.ones(depth.shape))
        u, v, w = (mean(values) / share for values in (columns, rows, inverse))
        uu, vv = mean(columns * columns) / share - u * u, mean(rows * rows) / share - v * v
        uv = mean(columns * rows) / share - u * v
        uw, vw = mean(columns * inverse) / share - u * w, mean(rows * inverse) / share - v * w
        spread = uu * vv - uv * uv
        a, b = (uw * vv - vw * uv) / spread, (vw * uu - uw * uv) / spread
        c = w - a * (u + depth.shape[1] / 2) - b * (v + depth.shape[0] / 2)
        plane = np.stack([a * camera.fx, b * camera.fy, c + a * camera.cx + b * camera.cy], -1)
        plane /= np.linalg.norm(plane, axis=-1, keepdims=True)
    plane[~there | (spread < 1e-6)] = np.nan  # fewer than three pixels, or all in one line
    return plane


def gravity(normals: Vectors) -> Down:
    """The unit vector that points down, from the normals of a picture; NaN normals do not vote.

    Starts at the camera's own down. Again and again, normals nearly along it and nearly across it are picked, and the
    direction is taken that minimises sum(sin^2) of the first plus sum(cos^2) of the second: an eigenvector.
    """
    found = normals.reshape(-1, 3)
    found, down = found[np.isfinite(found).all(1)], np.array([0.0, 1.0, 0.0])
    for degrees, rounds in VOTES:
        along, across = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        for _ in range(rounds):
            cosine = np.abs(found @ down)
            level, upright = found[cosine > along], found[cosine < across]
            if not len(level) and not len(upright):
                return down
            before = UNSURE * len(found) * np.outer(down, down)
            _, vectors = np.linalg.eigh(upright.T @ upright - level.T @ level - before)
            down = vectors[:, 0] * (1 if vectors[:, 0] @ down >= 0 else -1)
    return down


def height_above_ground(places: Vectors, down: Down) -> Float64[np.ndarray, "h w"]:
    """Metres above the lowest point, or above a floor 1.3 m below the camera where none is in sight."""
    height = -(places @ down)
    measured = height[places[..., 2] > 0]
    floor = measured.min(initial=0.0)
    return height - (floor if floor <= -SEEN_FLOOR else -EYE)


def hha(depth: Map, camera: Camera) -> UInt8[np.ndarray, "3 h w"]:
    """Disparity, height and angle of every pixel as bytes, scaled as in the published pictures; 0 where unknown.

    Bytes are 310 / depth (1 m at least), centimetres of height, and degrees between the normal and gravity + 38: a
    floor has 38, a wall 128, a ceiling 218.
    """
    fine, coarse = (max(1, round(reach * len(depth) / ROWS)) for reach in (FINE, COARSE))
    down = gravity(normals(depth, camera, coarse))
    cosine = (normals(depth, camera, fine) @ down).clip(-1, 1)
    channels = (
        DISPARITY / np.maximum(depth, NEAREST),
        height_above_ground(points(depth, camera), down) * CM,
        np.degrees(np.arccos(cosine)) + TILT,
    )
    known = depth > 0
    return np.stack([np.nan_to_num(c * known).round().clip(0, 255).astype(np.uint8) for c in channels])
