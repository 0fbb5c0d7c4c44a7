import json
import pickle

import numpy as np
import pytest
import torch
from captum.attr import Occlusion as CaptumOcclusion

from kqo.errors import ArgumentError
from kqo.runtime.result import Result
from kqo.workloads import Occlusion, Regions

SHAPE = (2, 9, 7)
RNG = np.random.default_rng(3)
WEIGHT = RNG.normal(size=(5, *SHAPE)).astype(np.float32)


def model(x):
    """Five scores, none of them linear in the input; (N, C, H, W) to (N, 5)."""
    return torch.tanh(torch.einsum("nchw,kchw->nk", x, torch.from_numpy(WEIGHT)) / 5)


def dense(workload, images):
    """The workload's result by re-inference of every query, for images (N, C, H, W)."""
    placed = workload.resolve(images.shape[1:])
    queries = np.repeat(images[:, None], len(placed), axis=1)
    for number in range(len(placed)):
        queries[:, number, placed.mask(number)] = workload.fill
    scores = model(torch.from_numpy(queries.reshape(-1, *images.shape[1:]))).numpy()
    return (
        scores.reshape(len(images), len(placed), -1),
        model(torch.from_numpy(images)).numpy(),
        placed,
    )


def results(workload, count=2):
    images = RNG.normal(size=(count, *SHAPE)).astype(np.float32)
    scores, original, placed = dense(workload, images)
    many = Result({"out": scores}, {"out": original}, placed, many=True)
    one = Result({"out": scores[0]}, {"out": original[0]}, placed)
    return images, many, one


@pytest.mark.parametrize(
    ("window", "stride"), [((2, 3, 3), (2, 2, 2)), ((1, 2, 4), (1, 2, 3)), ((2, 9, 7), (1, 1, 1))]
)
def test_attribution_is_that_of_captum(window, stride):
    images, many, one = results(Occlusion(window, stride, fill=0.5))
    for number in range(2):
        expected = CaptumOcclusion(model).attribute(
            torch.from_numpy(images[number : number + 1]),
            sliding_window_shapes=window,
            strides=stride,
            baselines=0.5,
            target=3,
        )
        found = many.attribution(3)[number]
        np.testing.assert_allclose(found, expected.numpy()[0], atol=1e-6)
    np.testing.assert_array_equal(one.attribution(3), many.attribution(3)[0])


def by_definition(result, target):
    """Attribution by painting every window."""
    total, weight = np.zeros(SHAPE), np.zeros(SHAPE)
    for number in range(len(result.workload)):
        mask = result.workload.mask(number)
        total[mask] += result.original[target] - result.scores[number, target]
        weight[mask] += 1
    with np.errstate(invalid="ignore"):
        return np.where(weight > 0, total / weight, np.nan)


def test_attribution_of_overlapping_boxes_counts_an_element_once_per_query():
    workload = Regions([[((0, 4), (0, 4)), ((2, 6), (2, 6))], [((1, 3), (0, 7))], [((5, 7),)]])
    _, _, one = results(workload)
    expected = by_definition(one, 1)
    assert 0 < np.isnan(expected).sum() < expected.size
    np.testing.assert_allclose(one.attribution(1), expected, atol=1e-6)


def test_attribution_is_nan_where_nothing_was_hidden():
    _, _, one = results(Occlusion(3, 3, positions=[[0, 0], [2, 1]]))
    found = one.attribution(0)
    np.testing.assert_allclose(found, by_definition(one, 0), atol=1e-6)
    assert np.isnan(found[:, 6:]).all() and np.isfinite(found[:, :3, :3]).all()


def test_scores_that_are_not_finite_stay_where_they_belong():
    _, _, one = results(Occlusion(2, 2))
    scores = one.scores.copy()
    scores[0, 1] = np.nan
    found = Result({"out": scores}, dict(one.originals), one.workload).attribution(1)
    assert np.isnan(found[:, :2, :2]).all()
    assert np.isfinite(found[:, 2:]).all() and np.isfinite(found[:, :, 2:]).all()


def test_heatmap_has_the_scores_of_the_predicted_class_on_the_grid():
    _, many, one = results(Occlusion(3, 2))
    best = many.original.argmax(axis=1)
    assert many.heatmap().shape == (2, 4, 3) and many.heatmap().dtype == np.float32
    for number in range(2):
        np.testing.assert_array_equal(
            many.heatmap()[number].ravel(), many.scores[number, :, best[number]]
        )
    np.testing.assert_array_equal(one.heatmap(2).ravel(), one.scores[:, 2])
    np.testing.assert_array_equal(one.heatmap(-1), one.heatmap(4))


def test_heatmap_is_nan_without_a_query():
    _, _, one = results(Occlusion(3, 2, roi=((2, 5), (0, 3))))
    found = one.heatmap(0)
    assert np.isfinite(found).tolist() == [
        [False] * 3,
        [True, True, False],
        [True, True, False],
        [False] * 3,
    ]
    np.testing.assert_array_equal(found[1:3, :2].ravel(), one.scores[:, 0])


def test_heatmap_of_positions_off_the_grid_is_an_error():
    _, _, one = results(Occlusion(3, 2, positions=[[1, 1]]))
    with pytest.raises(ArgumentError, match="no grid"):
        one.heatmap()


def test_probabilities():
    _, many, one = results(Occlusion(3, 2))
    expected = torch.softmax(torch.from_numpy(many.scores), -1)[..., 1].numpy()
    np.testing.assert_allclose(
        many.heatmap(1, probability=True).reshape(2, -1), expected, rtol=1e-6
    )
    already = Result(dict(one.outputs), dict(one.originals), one.workload, probabilities=True)
    np.testing.assert_array_equal(already.heatmap(1, probability=True), one.heatmap(1))


def test_several_outputs_are_named():
    _, _, one = results(Occlusion(3, 2))
    rows = len(one.scores)
    maps = RNG.normal(size=(rows, 2, 3)).astype(np.float32)
    depth = RNG.normal(size=rows).astype(np.float32)
    result = Result(
        {"scores": one.scores, "maps": maps, "depth": depth},
        {"scores": one.original, "maps": maps[0], "depth": depth[0]},
        one.workload,
    )
    assert result.scores is one.scores
    np.testing.assert_array_equal(result.heatmap((1, 2), output="maps").ravel(), maps[:, 1, 2])
    np.testing.assert_array_equal(result.heatmap(output="depth").ravel(), depth)
    with pytest.raises(ArgumentError, match="'scores', 'maps', 'depth'"):
        result.heatmap(output="aux")
    with pytest.raises(ArgumentError, match="target"):
        result.heatmap(0, output="maps")
    with pytest.raises(ArgumentError, match="probability"):
        result.heatmap(probability=True, output="depth")


def test_targets_by_name():
    _, _, one = results(Occlusion(3, 2))
    names = ("cat", "dog", "eel", "fox", "gnu")
    result = Result(dict(one.outputs), dict(one.originals), one.workload, class_names=names)
    np.testing.assert_array_equal(result.heatmap("eel"), result.heatmap(2))
    for wrong in ("hen", 5, -6, (1, 1)):
        with pytest.raises(ArgumentError) as error:
            result.heatmap(wrong)
        assert error.value.argument == "target"
    with pytest.raises(ArgumentError, match="no names"):
        one.heatmap("cat")


def test_summary_is_plain_and_right():
    _, many, one = results(Occlusion(3, 2))
    found = json.loads(json.dumps(many.summary()))
    assert found["positions"] == 12 and found["grid"] == [4, 3] and found["input"] == [2, 9, 7]
    assert found["outputs"] == {"out": [5]} and len(found["images"]) == 2
    first = found["images"][0]
    best = int(one.original.argmax())
    assert first["class"] == best and first["class_name"] == str(best)
    assert first["score"] == pytest.approx(float(one.original[best]))
    row = one.scores[:, best].argmin()
    assert first["lowest_at"] == one.workload.starts[row].tolist()


def test_npz_holds_everything(tmp_path):
    _, many, _ = results(Occlusion(3, 2, roi=((0, 3), (0, 3))))
    two = Result(
        {"a": many.scores, "b": many.scores * 2},
        {"a": many.original, "b": many.original * 2},
        many.workload,
        many=True,
    )
    two.to_npz(tmp_path / "scores.npz")
    with np.load(tmp_path / "scores.npz", allow_pickle=False) as found:
        np.testing.assert_array_equal(found["scores"], many.scores)
        np.testing.assert_array_equal(found["original.b"], many.original * 2)
        np.testing.assert_array_equal(found["starts"], many.workload.starts)
        assert found["grid"].tolist() == [4, 3] and found["cells"].tolist() == [0, 1, 3, 4]


def test_results_pickle():
    _, many, _ = results(Occlusion(3, 2))
    found = pickle.loads(pickle.dumps(many))
    np.testing.assert_array_equal(found.heatmap(), many.heatmap())
