"""The images that ship with kqo: a few of the surface task, with the true place of each defect."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kqo.demo.surface import SHIPPED_SEED, generate

ASSETS = Path(str(files("kqo.demo"))) / "assets"
"""Folder of the shipped weights and images."""

SHIPPED = (
    ("scratch_1", "brushed metal"),
    ("scratch_2", "wood"),
    ("dent_1", "concrete"),
    ("dent_2", "brushed metal"),
    ("stain_1", "woven fabric"),
    ("stain_2", "wood"),
    ("none_1", "brushed metal"),
    ("none_2", "woven fabric"),
)
"""Names of the shipped images, each led by its label, and their textures."""


@dataclass(frozen=True, slots=True)
class DemoImage:
    """A shipped image.

    Attributes:
        name: such as ``scratch_1``; the file in the assets is ``<name>.png``.
        image: uint8 (H, W, 3), RGB.
        label: name of the true class.
        mask: bool (H, W), the pixels of the defect; empty for the label ``none``.
    """

    name: str
    image: NDArray[np.uint8]
    label: str
    mask: NDArray[np.bool_]


def load_images() -> list[DemoImage]:
    """The shipped images, in the order of :data:`SHIPPED`."""
    loaded = []
    for name, _ in SHIPPED:
        with Image.open(ASSETS / f"{name}.png") as file:
            image = np.asarray(file.convert("RGB"), dtype=np.uint8)
        with Image.open(ASSETS / f"{name}_mask.png") as file:
            mask = np.asarray(file.convert("L")) > 127
        loaded.append(DemoImage(name, image, name.split("_", maxsplit=1)[0], mask))
    return loaded


def write_images(folder: Path) -> None:
    """Generate the shipped images and their masks into a folder, as PNG."""
    for number, (name, texture) in enumerate(SHIPPED):
        label = name.split("_", maxsplit=1)[0]
        sample = generate(SHIPPED_SEED + number, label, texture)
        Image.fromarray(sample.image).save(folder / f"{name}.png", optimize=True)
        mask = Image.fromarray(np.where(sample.mask, 255, 0).astype(np.uint8))
        mask.convert("1").save(folder / f"{name}_mask.png", optimize=True)
