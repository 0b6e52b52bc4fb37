"""HHA on rooms whose planes are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masklet.ops.hha import KINECT, Camera, gravity, height_above_ground, hha, kinect, normals, points

CAMERA = Camera(100.0, 110.0, 47.5, 39.5)
SIZE = (80, 96)


def rays(camera: Camera = CAMERA, size: tuple[int, int] = SIZE) -> np.ndarray:
    rows, columns = np.indices(size)
    return np.stack([(columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy, np.ones(size)], -1)


def tilted(pitch: float, roll: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Down and ahead (level), seen from a camera that looks `pitch` degrees down and leans over by `roll`."""
    p, r = math.radians(pitch), math.radians(roll)
    turn = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    return turn @ [0, math.cos(p), math.sin(p)], turn @ [0, -math.sin(p), math.cos(p)]


def plane(normal: np.ndarray, distance: float) -> np.ndarray:
    """Depth of the plane normal @ x = distance; infinite where the camera looks away from it."""
    facing = rays() @ normal
    return np.where(facing > 1e-6, distance / np.maximum(facing, 1e-6), np.inf)


def room(down: np.ndarray, ahead: np.ndarray, eye: float = 1.2, wall: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Depth of a floor and a wall, and where the floor is seen."""
    floor, wall_depth = plane(down, eye), plane(ahead, wall)
    return np.minimum(floor, wall_depth), floor < wall_depth


def test_a_wall_by_hand():
    """Two metres ahead of a level camera: disparity 310 / 2, angle 90, height from the floor that is out of sight."""
    depth = np.full(SIZE, 2.0, np.float32)
    picture = hha(depth, CAMERA)
    assert (picture[0] == 155).all()
    assert (picture[2] == 128).all()
    rows = np.arange(SIZE[0])
    want = (1.3 - (rows - 39.5) / 110 * 2.0) * 100  # the camera's own height is taken for 1.3 m
    np.testing.assert_allclose(picture[1].astype(float), np.tile(want[:, None], SIZE[1]), atol=0.51)
    assert (hha(np.full(SIZE, 0.5, np.float32), CAMERA)[0] == 255).all()  # 310, for nothing counts as nearer than 1 m


def test_floor_wall_and_ceiling():
    """Height 0 and angle 0 on the floor, 90 degrees along walls, 180 and the room's height under the ceiling."""
    down, ahead = tilted(0)
    depth, _ = room(down, ahead, wall=12.0)
    floor, ceiling = plane(down, 1.2), plane(-down, 1.0)
    depth = np.minimum(depth, ceiling)
    disparity, height, angle = hha(depth, CAMERA)
    inner = np.zeros(SIZE, bool)
    inner[4:-4, 4:-4] = True
    for surface, high, degrees in ((floor, 0, 0), (ceiling, 220, 180)):
        seen = inner & (depth == surface) & np.roll(depth == surface, 4, 0) & np.roll(depth == surface, -4, 0)
        assert seen.any()
        np.testing.assert_allclose(height[seen], high, atol=1)
        np.testing.assert_allclose(angle[seen], 38 + degrees, atol=1)
    assert disparity[40, 48] == round(310 / 12)
    assert angle[40, 48] == 128


@settings(max_examples=25, deadline=None)
@given(st.floats(5, 40), st.floats(-12, 12), st.floats(1.0, 1.8), st.floats(2.0, 5.0))
def test_gravity_is_found_however_the_camera_is_held(pitch, roll, eye, wall):
    down, ahead = tilted(pitch, roll)
    depth, floor = room(down, ahead, eye, wall)
    if not 0.1 < floor.mean() < 0.9:
        return
    found = gravity(normals(depth, CAMERA, 10))
    assert math.degrees(math.acos(min(1.0, found @ down))) < 1.5
    height = height_above_ground(points(depth, CAMERA), down)
    np.testing.assert_allclose(height[floor], 0, atol=1e-6)
    np.testing.assert_allclose(height, eye - points(depth, CAMERA) @ down, atol=1e-6)
    _, high, angle = hha(depth, CAMERA)
    sure = floor & np.roll(floor, 4, 0) & np.roll(floor, 4, 1) & np.roll(floor, -4, 1)
    sure[:4] = sure[-4:] = sure[:, :4] = sure[:, -4:] = False
    assert np.abs(angle[sure].astype(int) - 38).max(initial=0) <= 2
    assert np.median(high[sure]) <= 10
    wall_only = ~floor & ~np.roll(floor, -4, 0)
    wall_only[:4] = wall_only[-4:] = wall_only[:, :4] = wall_only[:, -4:] = False
    if wall_only.any():
        assert abs(int(np.median(angle[wall_only])) - 128) <= 2


@settings(max_examples=25, deadline=None)
@given(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6), st.floats(0.5, 8), st.integers(1, 5))
def test_normals_of_a_plane(x, y, distance, reach):
    """Every window of a plane gives its normal, holes or not, and it points away from the camera."""
    normal = np.array([x, y, 1.0]) / math.sqrt(1 + x * x + y * y)
    depth = plane(normal, distance)
    depth[~np.isfinite(depth)] = 0
    depth[::7, ::5] = 0
    found = normals(depth, CAMERA, reach)
    known = np.isfinite(found).all(-1)
    assert known[depth > 0].mean() > 0.99
    assert not known[depth == 0].any()
    np.testing.assert_allclose(found[known], np.broadcast_to(normal, found[known].shape), atol=1e-5)


def test_what_was_not_measured_is_zero():
    depth = np.full(SIZE, 2.0, np.float32)
    depth[10:20, 10:20] = 0
    picture = hha(depth, CAMERA)
    assert (picture[:, 10:20, 10:20] == 0).all()
    assert (picture[:, depth > 0] > 0).all()
    assert (hha(np.zeros(SIZE, np.float32), CAMERA) == 0).all()
    lonely = np.zeros(SIZE, np.float32)
    lonely[5, 5] = 1.5
    assert hha(lonely, CAMERA)[:, 5, 5].tolist() == [207, 177, 0]  # a point has no direction
    np.testing.assert_array_equal(gravity(np.full((4, 4, 3), np.nan)), [0, 1, 0])


def test_camera_of_another_size():
    assert kinect(480, 640) == KINECT
    assert kinect(240, 320) == pytest.approx([v / 2 for v in KINECT])
