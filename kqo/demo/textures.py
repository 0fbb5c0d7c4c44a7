"""Procedural surfaces without a defect: brushed metal, woven fabric, wood and concrete.

Each texture is a function of a random generator and a size. It draws its own scale, orientation and
colour and returns a :class:`Surface`. Only NumPy is used, so that a seed gives the same surface
everywhere up to the last bits of the floating-point functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Surface:
    """A surface under even light.

    Attributes:
        albedo: float64 (H, W, 3), reflectance about in [0, 1], not clipped.
        angle: direction of the grain in radians, or None where the surface has none.
    """

    albedo: Array
    angle: float | None


def smooth_noise(
    rng: np.random.Generator, size: int, along: float, across: float, angle: float = 0.0
) -> Array:
    """Gaussian noise of mean 0 and deviation 1 with the given correlation lengths.

    Args:
        rng: source of randomness.
        size: height and width in pixels.
        along: deviation, in pixels, of the Gaussian that smooths along ``angle``.
        across: the same, perpendicular to ``angle``.
        angle: direction in radians; 0 is the x axis.

    Returns:
        float64 (size, size).
    """
    fy = np.fft.fftfreq(size)[:, None]
    fx = np.fft.rfftfreq(size)[None, :]
    u = fx * np.cos(angle) + fy * np.sin(angle)
    v = fy * np.cos(angle) - fx * np.sin(angle)
    gain = np.exp(-2.0 * np.pi**2 * ((along * u) ** 2 + (across * v) ** 2))
    spectrum = np.fft.rfft2(rng.standard_normal((size, size)))
    noise: Array = np.fft.irfft2(spectrum * gain, s=(size, size))
    noise -= noise.mean()
    return np.asarray(noise / max(float(noise.std()), 1e-9))


def _axes(size: int, angle: float) -> tuple[Array, Array]:
    """Coordinates in pixels, from the centre, along and across ``angle``; each (size, size)."""
    steps = np.arange(size, dtype=np.float64) - (size - 1) / 2
    y, x = steps[:, None], steps[None, :]
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    return along, across


def _tint(rng: np.random.Generator, base: tuple[float, float, float], spread: float) -> Array:
    """A colour near ``base``: (3,)."""
    return np.asarray(base) * rng.uniform(1 - spread, 1 + spread, 3)


def _mix(low: Array, high: Array, weight: Array) -> Array:
    """Blend of two colours, (3,) each, by ``weight`` (H, W): (H, W, 3)."""
    return np.asarray(low + (high - low) * weight[:, :, None])


def brushed_metal(rng: np.random.Generator, size: int) -> Surface:
    """Long fine streaks in one direction over a broad sheen."""
    angle = rng.uniform(0, np.pi)
    streaks = smooth_noise(rng, size, rng.uniform(14, 40), rng.uniform(0.4, 0.9), angle)
    bands = smooth_noise(rng, size, 60.0, rng.uniform(4, 12), angle)
    level = 1 + rng.uniform(0.03, 0.08) * streaks + rng.uniform(0.01, 0.04) * bands
    bases = ((0.62, 0.64, 0.67), (0.70, 0.60, 0.42), (0.66, 0.48, 0.38), (0.42, 0.44, 0.48))
    colour = _tint(rng, bases[rng.integers(len(bases))], 0.06) * rng.uniform(0.85, 1.15)
    return Surface(level[:, :, None] * colour, float(angle))


def woven_fabric(rng: np.random.Generator, size: int) -> Surface:
    """A plain weave: two sets of threads that pass over and under each other."""
    angle = rng.uniform(0, np.pi)
    pitch = rng.uniform(5.0, 10.0)
    along, across = _axes(size, angle)
    along = along + rng.uniform(0.3, 1.2) * smooth_noise(rng, size, 14.0, 14.0)
    across = across + rng.uniform(0.3, 1.2) * smooth_noise(rng, size, 14.0, 14.0)
    u, v = along / pitch, across / pitch
    over = (np.floor(u) + np.floor(v)) % 2 == 0
    thread = np.where(over, np.abs(np.sin(np.pi * v)), np.abs(np.sin(np.pi * u)))
    depth = rng.uniform(0.25, 0.5)
    level = 1 - depth + depth * np.sqrt(thread) + 0.03 * smooth_noise(rng, size, 0.7, 0.7)
    base = _tint(rng, (0.55, 0.55, 0.55), 0.35)
    other = base * rng.uniform(0.8, 1.2) * rng.uniform(0.92, 1.08, 3)
    return Surface(level[:, :, None] * np.where(over[:, :, None], base, other), None)


def wood(rng: np.random.Generator, size: int) -> Surface:
    """Wavy growth rings with fine fibres along the grain."""
    angle = rng.uniform(0, np.pi)
    _, across = _axes(size, angle)
    warp = rng.uniform(2.0, 6.0) * smooth_noise(rng, size, 45.0, 16.0, angle)
    phase = 2 * np.pi * (across + warp) / rng.uniform(9.0, 22.0)
    rings = 0.5 + 0.5 * np.sin(phase + 0.6 * np.sin(phase))
    fibres = smooth_noise(rng, size, rng.uniform(6, 14), 0.6, angle)
    dark = _tint(rng, (0.46, 0.31, 0.19), 0.15)
    light = dark * rng.uniform(1.2, 1.6) + 0.04
    albedo = _mix(dark, light, rings) * (1 + rng.uniform(0.03, 0.08) * fibres)[:, :, None]
    return Surface(albedo * rng.uniform(0.9, 1.35), float(angle))


def concrete(rng: np.random.Generator, size: int) -> Surface:
    """Mottled grey: noise of several scales, with small dark pores."""
    level = np.ones((size, size))
    for scale, strength in ((0.6, 0.05), (1.6, 0.035), (5.0, 0.03), (18.0, 0.04)):
        level += strength * rng.uniform(0.5, 1.3) * smooth_noise(rng, size, scale, scale)
    pores = smooth_noise(rng, size, 0.9, 0.9) > rng.uniform(2.6, 3.2)
    level -= rng.uniform(0.1, 0.25) * pores
    colour = _tint(rng, (0.58, 0.57, 0.54), 0.08) * rng.uniform(0.75, 1.2)
    return Surface(level[:, :, None] * colour, None)


TEXTURES: dict[str, Callable[[np.random.Generator, int], Surface]] = {
    "brushed metal": brushed_metal,
    "woven fabric": woven_fabric,
    "wood": wood,
    "concrete": concrete,
}
"""Every texture, by name."""
