"""Regions computed with boxes hold every key that the definition, by brute force, holds."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kqo.ir.bind import bind
from kqo.ir.nodes import Overlay, Slice
from kqo.ir.region import Clip, walk_regions
from kqo.ir.region_mask import changed_mask, region_mask
from kqo.ir.schema import names
from kqo.prove.run import boxes_of
from tests.property.plans import cases


def mask_of(axes, boxes):
    order = [boxes.axes.index(name) for name in names(axes)]
    lo, hi = boxes.lo[:, :, order], boxes.hi[:, :, order]
    return changed_mask(
        axes,
        [
            [list(zip(lo[q, i], hi[q, i], strict=True)) for i in np.flatnonzero(boxes.filled[q])]
            for q in range(boxes.queries)
        ],
    )


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(cases(most_steps=7), st.floats(0.1, 1.0))
def test_boxes_hold_every_key(case, tau):
    image = next(iter(case.plan.scans), None)
    regions = {node.at for node in case.plan.nodes() if isinstance(node, (Slice, Overlay))}
    for region in walk_regions(*sorted(regions, key=repr)):
        assert image is not None
        changed = {"image": boxes_of(image.axes, case.regions["image"])}
        known = {"image": (image.axes, changed_mask(image.axes, case.regions["image"]))}
        axes, wanted = region_mask(region, known, len(case.changed))
        found = mask_of(axes, bind(region, changed))
        assert found[wanted].all()
        if (found == wanted).all():
            _, clipped = region_mask(Clip(region, tau, axes), known, len(case.changed))
            assert mask_of(axes, bind(Clip(region, tau, axes), changed))[clipped].all()
