"""Defects drawn onto a surface: a scratch, a dent, a stain.

Each is a function of a random generator, the surface and the direction of the light. It returns the
damaged albedo and the mask of the pixels that it changed visibly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kqo.demo.textures import Array, Surface, smooth_noise

Mask = NDArray[np.bool_]
MARGIN = 14
"""Least distance, in pixels, from the border to the centre of a defect."""


def _grid(size: int) -> tuple[Array, Array]:
    steps = np.arange(size, dtype=np.float64)
    return steps[:, None], steps[None, :]


def _centre(rng: np.random.Generator, size: int, reach: float) -> tuple[float, float]:
    margin = max(MARGIN, reach)
    y, x = rng.uniform(margin, size - margin, 2)
    return float(y), float(x)


def scratch(rng: np.random.Generator, surface: Surface, light: float) -> tuple[Array, Mask]:
    """A thin, slightly bent line with tapered ends: a dark groove with one bright edge.

    On a surface with a grain the line crosses it by at least 25 degrees; a scratch along the grain
    could not be told from the grain.
    """
    size = surface.albedo.shape[0]
    length = rng.uniform(20, 44)
    if surface.angle is None:
        angle = rng.uniform(0, np.pi)
    else:
        least = np.deg2rad(25)
        angle = surface.angle + rng.uniform(least, np.pi - least)
    cy, cx = _centre(rng, size, 0.5 * length)
    t = np.linspace(-1, 1, 48)
    bend = rng.uniform(-0.12, 0.12) * length * (1 - t**2)
    py = cy + 0.5 * length * t * np.sin(angle) + bend * np.cos(angle)
    px = cx + 0.5 * length * t * np.cos(angle) - bend * np.sin(angle)

    y, x = _grid(size)
    distance = np.full((size, size), np.inf)
    side = np.zeros((size, size))
    taper = np.zeros((size, size))
    normal = (np.cos(angle), -np.sin(angle))
    for qy, qx, q in zip(py, px, t, strict=True):
        d = np.hypot(y - qy, x - qx)
        nearer = d < distance
        distance = np.where(nearer, d, distance)
        side = np.where(nearer, (y - qy) * normal[0] + (x - qx) * normal[1], side)
        taper = np.where(nearer, 1 - 0.7 * q**4, taper)
    width = rng.uniform(0.9, 1.7)
    groove = np.exp(-0.5 * (distance / (width * taper + 0.05)) ** 2)
    edge = np.exp(-0.5 * (distance / (1.8 * width * taper + 0.05)) ** 2) - groove
    lit = np.sign(np.sin(light) * normal[0] + np.cos(light) * normal[1]) * side > 0
    depth = rng.uniform(0.35, 0.65)
    change = 1 - depth * groove + depth * rng.uniform(0.5, 1.1) * edge * lit
    return surface.albedo * change[:, :, None], distance < 2.0 * width + 1.0


def dent(rng: np.random.Generator, surface: Surface, light: float) -> tuple[Array, Mask]:
    """A round depression: dark where it faces away from the light, bright where it faces it."""
    size = surface.albedo.shape[0]
    radius = rng.uniform(8, 15)
    ratio = rng.uniform(0.75, 1.0)
    angle = rng.uniform(0, np.pi)
    cy, cx = _centre(rng, size, radius)
    y, x = _grid(size)
    u = ((x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)) / radius
    v = ((y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)) / (radius * ratio)
    r2 = u**2 + v**2
    # The profile exp(-2 r^2) has its steepest slope at half the radius; 1.65 scales that to 1.
    slope = 1.65 * 2 * np.exp(-2 * r2)
    towards = np.cos(light - angle) * u + np.sin(light - angle) * v
    shade = -rng.uniform(0.28, 0.5) * slope * towards
    damaged = surface.albedo * (1 + shade[:, :, None])
    return damaged, r2 < 1.15


def stain(rng: np.random.Generator, surface: Surface, light: float) -> tuple[Array, Mask]:
    """An irregular blot that colours the surface, darker at its rim; ``light`` does not matter."""
    del light
    size = surface.albedo.shape[0]
    radius = rng.uniform(8, 16)
    cy, cx = _centre(rng, size, radius)
    y, x = _grid(size)
    theta = np.arctan2(y - cy, x - cx)
    outline = np.full((size, size), radius)
    for harmonic in (2, 3, 5):
        strength = rng.uniform(0.05, 0.35) / harmonic * radius
        outline += strength * np.cos(harmonic * theta + rng.uniform(0, 2 * np.pi))
    depth = outline - np.hypot(y - cy, x - cx)
    soft = rng.uniform(0.8, 2.2)
    inside = 1 / (1 + np.exp(-depth / soft))
    rim = np.exp(-0.5 * ((depth - 1.5) / 1.8) ** 2) * rng.uniform(0.0, 0.5)
    blotches = 1 + 0.15 * smooth_noise(rng, size, 4.0, 4.0)
    opacity = np.clip(inside * blotches * (rng.uniform(0.55, 0.9) + rim), 0, 1.3)
    tints = ((0.62, 0.46, 0.30), (0.45, 0.52, 0.62), (0.50, 0.62, 0.45), (0.45, 0.42, 0.42))
    tint = np.asarray(tints[rng.integers(len(tints))]) * rng.uniform(0.85, 1.15)
    absorbed = opacity[:, :, None] * (1 - tint)
    return surface.albedo * np.clip(1 - absorbed, 0.1, 1), depth > -soft


DEFECTS: dict[str, Callable[[np.random.Generator, Surface, float], tuple[Array, Mask]]] = {
    "scratch": scratch,
    "dent": dent,
    "stain": stain,
}
"""Every defect, by name."""
