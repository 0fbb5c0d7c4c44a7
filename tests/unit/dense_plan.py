"""A plan that re-infers every query by torch, for tests of what uses plans."""

from types import SimpleNamespace

import numpy as np
import torch

from kqo.explain.subject import MultiplyAdds
from kqo.options import Options
from kqo.runtime.result import Result
from kqo.workloads import changed_inputs


class DensePlan:
    """Stands in for a compiled plan where a test is about what is around it."""

    source = "# the source of the plan\n"
    options = Options()
    engine = None  # no engine of ours: neither the processor's nor the GPU's

    def __init__(self, model, workload, name="dense", preprocess=None):
        self.model, self.workload = model, workload
        self.name, self.preprocess = name, preprocess
        self.verified = []

    def explain(self, **asked):
        self.asked = asked
        return f"{self.name}: the plan explained"

    def subject(self):
        return SimpleNamespace(multiply_adds=MultiplyAdds(deltas=1, views=0, full=1, queries=1))

    def save(self, path):
        path.write_bytes(b"saved")

    def run(self, image, progress=None, verify=0, **_):
        self.verified.append(verify)
        image = np.asarray(image).reshape(-1, *np.asarray(image).shape[-3:])[0]
        placed = self.workload.resolve(image.shape)
        queries = changed_inputs(self.workload, image, np.arange(len(placed)))
        with torch.no_grad():
            scores = self.model(torch.from_numpy(queries)).numpy()
            original = self.model(torch.from_numpy(image[None])).numpy()[0]
        names = self.preprocess.classes if self.preprocess else ()
        return Result({"out": scores}, {"out": original}, placed, class_names=names)
