"""Batches: every query once, none too large, rows of a grid in blocks of columns."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import kqo
from kqo.ir.boxes import Boxes, with_untouched
from kqo.runtime.schedule import Queue, batches_of, row_length


def changed(workload: kqo.Occlusion, *extents: int) -> Boxes:
    placed = workload.resolve((3, *extents))
    axes = tuple("zyx"[-len(extents) :])
    lo = np.asarray(placed.starts, dtype=np.int64)[:, None, -len(extents) :]
    window = np.broadcast_to(np.asarray(workload.window), lo.shape[-1:])
    return with_untouched({"x": Boxes(axes, lo, lo + window)})["x"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 13, 14, 20, 48, 96, 1000])
@pytest.mark.parametrize(
    ("workload", "extents"),
    [
        (kqo.Occlusion(8, 4), (60, 60)),
        (kqo.Occlusion(8, 8), (64, 24)),
        (kqo.Occlusion(8, 4), (100,)),
        (kqo.Occlusion(8, 8), (24, 32, 24)),
        (kqo.Occlusion(8, 4, positions=[(3, 4), (0, 9), (20, 1), (20, 5), (7, 7)]), (60, 60)),
        (kqo.Occlusion(8, 4, positions=[(3, 4)]), (60, 60)),
    ],
    ids=["grid", "narrow", "series", "volume", "chosen", "one"],
)
def test_every_query_is_in_one_batch(
    workload: kqo.Occlusion, extents: tuple[int, ...], size: int
) -> None:
    boxes = changed(workload, *extents)
    batches = batches_of(boxes, size)
    assert sorted(np.concatenate(batches)) == list(range(boxes.queries))
    assert max(map(len, batches)) <= size
    # Not many more than needed.
    assert len(batches) <= 1 + 1.5 * -(-boxes.queries // size)


def test_a_worker_walks_down_a_block_of_columns() -> None:
    boxes = changed(kqo.Occlusion(8, 4), 60, 60)
    assert row_length(boxes.select(slice(0, boxes.queries - 1))) == 14
    batches = batches_of(boxes, 7)
    columns = [tuple(boxes.lo[batch, 0, 1]) for batch in batches[:14]]
    assert len(set(columns)) == 1
    assert [boxes.lo[batch[0], 0, 0] for batch in batches[:14]] == list(range(0, 56, 4))


def test_positions_in_any_order_are_no_grid() -> None:
    positions = [(0, 0), (0, 4), (4, 4), (4, 0)]
    boxes = changed(kqo.Occlusion(8, 4, positions=positions), 60, 60)
    assert row_length(boxes.select(slice(0, 4))) == 0


def test_workers_share_all_batches() -> None:
    queue = Queue(100, 3)
    taken: list[list[int]] = [[], [], []]

    def work(worker: int) -> None:
        while numbers := queue.take():
            taken[worker].extend(numbers)

    threads = [threading.Thread(target=work, args=(w,)) for w in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(n for part in taken for n in part) == list(range(100))
    assert not queue.take()


def test_results_are_those_of_any_other_batch_size() -> None:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(4, 4, 3, padding=1),
        torch.nn.MaxPool2d(4),
        torch.nn.Conv2d(4, 5, 3, padding=1),
    ).eval()
    image = torch.randn(3, 48, 48).numpy()
    results = []
    for batch in (1, 3, 9, 50):
        plan = kqo.compile(
            model,
            (torch.zeros(1, 3, 48, 48),),
            kqo.Occlusion(8, 4),
            kqo.Options(batch=batch, threads=2),
        )
        results.append(plan.run(image).scores)
        assert np.array_equal(plan.run(image).scores, results[-1])
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], atol=1e-5)
