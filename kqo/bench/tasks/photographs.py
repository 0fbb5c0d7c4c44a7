"""The photographs task: which material was pasted into a photograph, and where.

Backgrounds are crops of photographs, materials crops of photographed textures; scikit-learn and
scikit-image ship both. A patch of a material is pasted with a soft, irregular outline and takes on
the colour of what it covers, so that only its texture tells the class. Patches of other photographs
are pasted as distractors, so that an outline alone tells nothing.

Held-out images are made from the right 3 of 10 columns of each picture and training images from the
rest: no pixel is in both.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kqo.bench.tasks.sample import Sample
from kqo.errors import ArgumentError, KqoError

SIZE = 224
CLASSES = ("none", "brick", "grass", "gravel")
"""Names of the labels, by number; ``none`` has no material, and perhaps a distractor."""

BACKGROUNDS = (
    ("sklearn.datasets", "images/china.jpg"),
    ("sklearn.datasets", "images/flower.jpg"),
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/rocket.jpg"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/camera.png"),
)
"""Package and file of the photographs that images are cut from."""

MATERIALS = {"brick": (0.65, 0.85), "grass": (0.8, 1.2), "gravel": (0.8, 1.2)}
"""Range of zooms at which each material is seen; bricks are large in their picture."""

TRAINED_SHARE = 0.7
"""Share of the columns of each picture that training images are cut from."""

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@cache
def picture(package: str, name: str, *, held_out: bool) -> NDArray[np.uint8]:
    """The columns of a shipped picture that a set may use: uint8 (H, W, 3)."""
    try:
        path = Path(str(files(package))) / name
    except ModuleNotFoundError as error:
        raise KqoError(
            f"the photographs task needs the pictures of {error.name}",
            hint="pip install scikit-learn scikit-image",
        ) from None
    if not path.is_file():
        raise KqoError(f"{package} ships no {name}", hint="install scikit-image 0.22 or later")
    with Image.open(path) as file:
        pixels = np.asarray(file.convert("RGB"), dtype=np.uint8)
    split = int(pixels.shape[1] * TRAINED_SHARE)
    return pixels[:, split:] if held_out else pixels[:, :split]


def _crop(rng: np.random.Generator, picture: NDArray[np.uint8], side: int, size: int) -> Array:
    """A random square of a picture, turned or mirrored, resized to ``size``: (size, size, 3)."""
    side = min(side, *picture.shape[:2])
    top = int(rng.integers(picture.shape[0] - side + 1))
    left = int(rng.integers(picture.shape[1] - side + 1))
    square = Image.fromarray(picture[top : top + side, left : left + side])
    resized = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC), np.float64) / 255
    turned = np.rot90(resized, int(rng.integers(4)))
    return turned[:, ::-1] if rng.random() < 0.5 else turned


def _blob(rng: np.random.Generator) -> tuple[Array, int, int]:
    """Opacity of an irregular patch with a soft outline, (n, n), and its top and left."""
    radius = rng.uniform(20, 34)
    theta_steps = [(h, rng.uniform(0.1, 0.45) / h, rng.uniform(0, 2 * np.pi)) for h in (2, 3, 5)]
    extent = int(np.ceil(radius * 1.5))
    steps = np.arange(-extent, extent + 1, dtype=np.float64)
    y, x = steps[:, None], steps[None, :]
    theta = np.arctan2(y, x)
    outline = radius * (1 + sum(a * np.cos(h * theta + p) for h, a, p in theta_steps))
    opacity = 1 / (1 + np.exp(-(outline - np.hypot(y, x)) / rng.uniform(0.8, 1.6)))
    top, left = rng.integers(0, SIZE - len(steps) + 1, 2)
    return opacity, int(top), int(left)


def _paste(image: Array, patch: Array, opacity: Array, top: int, left: int) -> None:
    """Lay a patch (n, n, 3) over an image in place."""
    n = len(opacity)
    below = image[top : top + n, left : left + n]
    below += opacity[:, :, None] * (patch - below)


def material(
    rng: np.random.Generator, name: str, below: Array, opacity: Array, held_out: bool
) -> Array:
    """A patch of a material in the colour of what it covers: (n, n, 3)."""
    n = len(opacity)
    side = _side(rng, n, MATERIALS[name])
    texture = _crop(rng, picture("skimage", f"data/{name}.png", held_out=held_out), side, n)
    texture = texture.mean(axis=2)
    texture = (texture - texture.mean()) / max(float(texture.std()), 1e-3)
    weights = opacity / opacity.sum()
    colour = (below * weights[:, :, None]).sum(axis=(0, 1)) * rng.uniform(0.9, 1.1, 3)
    colour = 0.15 + 0.7 * np.clip(colour, 0, 1)
    return np.asarray(colour + rng.uniform(0.11, 0.19) * texture[:, :, None])


def _side(rng: np.random.Generator, n: int, zoom: tuple[float, float]) -> int:
    """Side of the crop that becomes a patch of ``n`` pixels at a random zoom."""
    return int(n / rng.uniform(*zoom))


def generate(seed: int, label: str | None = None, *, held_out: bool = False) -> Sample:
    """The image of a seed.

    Args:
        seed: a number >= 0; equal seeds give equal images.
        label: a name from :data:`CLASSES`; by default the seed modulo 4 tells it.
        held_out: cut from the columns that training images are never cut from.

    Raises:
        ArgumentError: for a label that does not exist or a negative seed.
        KqoError: scikit-learn or scikit-image is not installed.
    """
    if seed < 0:
        raise ArgumentError("seed", seed, "a number >= 0")
    name = CLASSES[seed % len(CLASSES)] if label is None else label
    if name not in CLASSES:
        raise ArgumentError("label", repr(label), ", ".join(CLASSES))
    rng = np.random.default_rng([seed, int(held_out)])
    place = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    side = int(rng.integers(120, 190))
    image = np.ascontiguousarray(_crop(rng, picture(*place, held_out=held_out), side, SIZE))
    if rng.random() < (0.7 if name == "none" else 0.35):
        opacity, top, left = _blob(rng)
        other = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
        n = len(opacity)
        patch = _crop(rng, picture(*other, held_out=held_out), _side(rng, n, (0.9, 1.4)), n)
        _paste(image, patch, opacity, top, left)
    mask = np.zeros((SIZE, SIZE), dtype=np.bool_)
    if name != "none":
        opacity, top, left = _blob(rng)
        n = len(opacity)
        below = image[top : top + n, left : left + n]
        _paste(image, material(rng, name, below, opacity, held_out), opacity, top, left)
        mask[top : top + n, left : left + n] = opacity > 0.5
    lit = image * rng.uniform(0.85, 1.15) + rng.uniform(0.003, 0.012) * rng.standard_normal(
        image.shape
    )
    pixels = np.clip(np.rint(255 * lit), 0, 255).astype(np.uint8)
    return Sample(pixels, CLASSES.index(name), mask)
