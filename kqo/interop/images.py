"""Images from files: PNG, JPEG, and arrays of NumPy."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from kqo.errors import ArgumentError
from kqo.interop.preprocess import Preprocess
from kqo.interop.text import one_line

FORMATS = ("PNG", "JPEG")


def load_image(path: str | PathLike[str], preprocess: Preprocess) -> NDArray[np.float32]:
    """The model's input for an image file.

    PNG and JPEG are turned upright (EXIF), preprocessed, and transparent parts shown on black. A
    ``.npy`` file of floats holds the model's input itself, (C, H, W) or (1, C, H, W), and is taken
    as it is; one of bytes (uint8) holds pixels, (H, W) or (H, W, 3) in RGB.

    Args:
        path: the file.
        preprocess: what the model expects.

    Returns:
        float32 (1, C, H, W).

    Raises:
        ArgumentError: for a file that is missing, damaged, of another format or of a wrong shape.
    """
    path = Path(path)
    if not path.is_file():
        raise ArgumentError("image", f"{path}, which is no file", "a PNG, JPEG or .npy file")
    if path.suffix.lower() == ".npy":
        return _from_array(path, preprocess)
    try:
        with Image.open(path, formats=FORMATS) as opened:
            image = ImageOps.exif_transpose(opened)
            image = _plain(image, "L" if preprocess.channels == "gray" else "RGB")
    except UnidentifiedImageError:
        given = f"{path}, which is none of them"
        raise ArgumentError("image", given, "a PNG, JPEG or .npy file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        given = f"{path}, which cannot be read ({one_line(error)})"
        raise ArgumentError("image", given, "a PNG, JPEG or .npy file") from None
    return preprocess.apply(image)[None]


def _plain(image: Image.Image, mode: str) -> Image.Image:
    """The image in 8 bits per channel, with transparency shown on black."""
    if image.mode.startswith("I"):
        # Pillow would clip 16 bits to 255 instead of scaling them.
        values = np.asarray(image, dtype=np.float64) / 257
        image = Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image.convert(mode)


def _from_array(path: Path, preprocess: Preprocess) -> NDArray[np.float32]:
    shape = preprocess.shape
    accepted = f"floats of shape {shape} or (1, *{shape}), or bytes (H, W) or (H, W, 3)"
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        given = f"{path}, which cannot be read ({one_line(error)})"
        raise ArgumentError("image", given, accepted) from None
    given = f"{path} with {values.dtype} of shape {values.shape}"
    if values.dtype == np.uint8 and (values.ndim == 2 or values.shape[2:] == (3,)) and values.size:
        mode = "L" if preprocess.channels == "gray" else "RGB"
        return preprocess.apply(Image.fromarray(values).convert(mode))[None]
    if values.dtype.kind != "f" or values.shape not in (shape, (1, *shape)):
        raise ArgumentError("image", given, accepted)
    return np.ascontiguousarray(values.reshape(1, *shape), dtype=np.float32)
