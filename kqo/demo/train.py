"""Train the demonstration's model and write its assets: ``python -m kqo.demo.train``.

The images are made from seeds. Patches hide parts of them (:mod:`kqo.demo.fit`), so that the
network learns that a flat patch is no defect, and the drop of a class score under occlusion says
what it should: how much of the defect was here.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kqo.demo.fit import Augmented, fit
from kqo.demo.images import ASSETS, write_images
from kqo.demo.model import SurfaceNet, load_model, save_model
from kqo.demo.preprocessing import preprocess
from kqo.demo.surface import CLASSES, HELD_OUT_SEED, SIZE, TRAINING_SEED, Sample, generate

CROP = 64
"""Side, in pixels, of the crops in the first part of the training."""


def make_samples(seeds: Sequence[int], processes: int = 2) -> list[Sample]:
    """The samples of the seeds, made by several processes."""
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(generate, seeds, chunksize=64))


def augmented(samples: Sequence[Sample]) -> Augmented:
    """The samples as the training sees them."""
    return Augmented(samples, len(CLASSES), preprocess, hidden=0.65)


def train(
    samples: Sequence[Sample],
    *,
    epochs: int,
    seed: int = 0,
    batch: int = 32,
    rate: float = 3e-3,
    bfloat16: bool = True,
) -> SurfaceNet:
    """A network trained by AdamW with a one-cycle schedule; returned in eval mode.

    The first 3 of 4 epochs see crops of :data:`CROP` pixels: the global average dilutes a small
    defect less there, and a step costs a sixth.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = SurfaceNet()
    crops = [CROP if epoch < 3 * epochs // 4 else SIZE for epoch in range(epochs)]
    fit(model, augmented(samples), crops, rng, batch=batch, rate=rate, bfloat16=bfloat16)
    return model.eval()


@torch.inference_mode()
def score(model: nn.Module, inputs: NDArray[np.float32], batch: int = 32) -> NDArray[np.float32]:
    """Logits (N, 4) of preprocessed images (N, 3, H, W)."""
    parts = [
        model(
            torch.from_numpy(inputs[start : start + batch]).to(memory_format=torch.channels_last)
        ).numpy()
        for start in range(0, len(inputs), batch)
    ]
    return np.concatenate(parts)


def accuracy(model: nn.Module, samples: Sequence[Sample]) -> float:
    """Fraction of the samples that the model classifies correctly."""
    inputs = preprocess(np.stack([sample.image for sample in samples]))
    labels = np.array([sample.label for sample in samples])
    return float(np.mean(score(model, inputs).argmax(1) == labels))


def occlusion_drop(
    model: nn.Module, image: NDArray[np.uint8], target: int, window: int, stride: int
) -> NDArray[np.float32]:
    """Brute-force occlusion with the mean colour: original minus occluded score of ``target``.

    Args:
        model: the network.
        image: uint8 (H, W, 3) with H = W.
        target: number of the class whose score is taken.
        window: side of the hidden square, in pixels.
        stride: step between squares, in pixels.

    Returns:
        float32 (n, n), where n = ceil((H - window) / stride) + 1 and the last square is clipped.
    """
    inputs = preprocess(image)
    starts = [i * stride for i in range(-(-(image.shape[0] - window) // stride) + 1)]
    hidden = np.repeat(inputs, len(starts) ** 2, axis=0)
    for query, (top, left) in enumerate((y, x) for y in starts for x in starts):
        hidden[query, :, top : top + window, left : left + window] = 0
    drop = score(model, inputs)[0, target] - score(model, hidden)[:, target]
    return np.asarray(drop.reshape(len(starts), len(starts)))


def points_at_defect(
    drop: NDArray[np.float32], sample_mask: NDArray[np.bool_], window: int, stride: int, slack: int
) -> bool:
    """Whether the centre of the window with the largest drop lies within ``slack`` of the defect.

    This is the pointing game of Zhang et al., *Top-down Neural Attention by Excitation Backprop*,
    ECCV 2016; the slack is in pixels, per axis.
    """
    top, left = np.unravel_index(int(drop.argmax()), drop.shape)
    y, x = (int(start) * stride + window // 2 for start in (top, left))
    near = sample_mask[max(0, y - slack) : y + slack + 1, max(0, x - slack) : x + slack + 1]
    return bool(near.any())


def pointing_game(
    model: nn.Module, samples: Sequence[Sample], window: int = 24, stride: int = 8, slack: int = 4
) -> float:
    """Fraction of the samples with a defect whose heatmap points at it."""
    hits = [
        points_at_defect(
            occlusion_drop(model, sample.image, sample.label, window, stride),
            sample.mask,
            window,
            stride,
            slack,
        )
        for sample in samples
        if sample.mask.any()
    ]
    return float(np.mean(hits))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, write the assets, and print how good the model is on held-out images."""
    parser = argparse.ArgumentParser(prog="python -m kqo.demo.train", description=main.__doc__)
    parser.add_argument("--output", type=Path, default=ASSETS, help="folder for the assets")
    parser.add_argument("--images", type=int, default=6000, help="number of training images")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--float32", action="store_true", help="train in float32, not bfloat16")
    given = parser.parse_args(arguments)

    torch.set_num_threads(given.threads)
    began = time.perf_counter()
    samples = make_samples(range(TRAINING_SEED, TRAINING_SEED + given.images), given.threads)
    print(f"{len(samples)} training images in {time.perf_counter() - began:.0f} s", flush=True)
    model = train(
        samples,
        epochs=given.epochs,
        seed=given.seed,
        batch=given.batch,
        rate=given.rate,
        bfloat16=not given.float32,
    )

    given.output.mkdir(parents=True, exist_ok=True)
    weights = given.output / "surface.safetensors"
    save_model(model, weights)
    write_images(given.output)

    model = load_model(weights)
    held_out = make_samples(range(HELD_OUT_SEED, HELD_OUT_SEED + 800), given.threads)
    print(f"held-out accuracy {accuracy(model, held_out):.4f} on {len(held_out)} images")
    labels = np.array([sample.label for sample in held_out])
    for number, name in enumerate(CLASSES):
        chosen = [held_out[i] for i in np.nonzero(labels == number)[0]]
        print(f"  {name:8} {accuracy(model, chosen):.4f}")
    pointing = pointing_game(model, held_out[:48])
    print(f"pointing game {pointing:.4f} (window 24, stride 8)")
    print(f"{time.perf_counter() - began:.0f} s in all; assets in {given.output}")


if __name__ == "__main__":
    main()
