"""Rows of a base relation's overlay: the patch where it was changed, the view elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.ir.boxes import Boxes
from kqo.ir.nodes import Const, Overlay
from kqo.ir.plan import Array
from kqo.ir.schema import features, names, positions, shape, without_query
from kqo.planner.physical import Step
from kqo.runtime.bind import Binder, natural_reads
from kqo.runtime.rows import PADDING_ROWS, ZERO, Region, Source, lookup

Values = NDArray[Any]


class PatchRows:
    """Writes the delta rows of a relation that the workload itself changed."""

    def __init__(
        self, step: Step, binder: Binder, out: Region, changed: Boxes, k: dict[str, Array]
    ) -> None:
        assert isinstance(step.node, Overlay)
        table = binder.tables[step.table]
        self.buffer = binder.buffers[step.table]
        reads = natural_reads(table.positions)
        view = Source(table.positions, PADDING_ROWS, None, 0)
        self.old = lookup(out.points, view, reads, (), ZERO)[:, 0]
        self.mask = _covered(out, changed, table.axes)
        self.columns = table.columns
        patch = step.node.patch
        wide = features(without_query(patch.schema))
        self.wide = [a.extent if a in wide else 1 for a in table.features]
        self.full = shape(table.features)
        self.vector: Values | None = None
        self.source = None
        if step.sources[0] is None:
            assert isinstance(patch, Const)
            own = names(patch.schema)
            value = k[patch.name].transpose(
                [own.index(n) for n in names(table.features) if n in own]
            )
            self.vector = self._widened(np.asarray(value).reshape(1, -1))
        else:
            own_reads = natural_reads(positions(patch.schema))
            self.source = binder.read(step.sources[0], out, own_reads, (), ZERO, False)

    def _widened(self, rows: Values) -> Values:
        """Rows of the patch with all columns of the base."""
        shaped = rows.reshape(len(rows), *self.wide)
        return np.broadcast_to(shaped, (len(rows), *self.full)).reshape(len(rows), -1)

    def write(self, target: Values, a: int, z: int) -> None:
        """Write rows a to z."""
        t = target[a:z]
        if self.vector is not None:
            new = self.vector
        else:
            assert self.source is not None
            source = self.source
            if source.index is None:
                new = self._widened(source.buffer[source.first + a : source.first + z])
            else:
                new = self._widened(source.buffer[source.index[a:z, 0]])
        if self.mask is None:
            np.copyto(t, new)
            return
        np.take(self.buffer, self.old[a:z], axis=0, out=t, mode="clip")
        np.copyto(t, new, where=self.mask[a:z])


def _covered(out: Region, changed: Boxes, axes: Any) -> NDArray[np.bool_] | None:
    """Which columns of each row are changed, (rows, columns); None where all are."""
    wide = features(axes)
    where = {name: i for i, name in enumerate(changed.axes)}
    feature_index = [where[a.name] for a in wide]
    filled = changed.filled
    extents = np.array(shape(wide), dtype=np.int64)
    whole = (changed.lo[:, :, feature_index] == 0) & (changed.hi[:, :, feature_index] == extents)
    # Rows of several boxes may be those of their hull, which holds rows that are not changed.
    if changed.lo.shape[1] == 1 and bool((whole.all(axis=2) | ~filled).all()):
        return None
    column = np.stack(
        np.unravel_index(np.arange(int(extents.prod())), shape(wide)), axis=0
    )  # (feature axes, columns)
    mask = np.zeros((out.count, column.shape[1]), dtype=bool)
    query = out.query
    for box in range(changed.lo.shape[1]):
        row = filled[query, box]
        for axis, coordinate in zip(out.positions, out.coordinates, strict=True):
            i = where[axis.name]
            row = row & (coordinate >= changed.lo[query, box, i])
            row = row & (coordinate < changed.hi[query, box, i])
        lo = changed.lo[query, box][:, feature_index]
        hi = changed.hi[query, box][:, feature_index]
        inside = (column[None] >= lo[:, :, None]) & (column[None] < hi[:, :, None])
        mask |= row[:, None] & inside.all(axis=1)
    return mask
