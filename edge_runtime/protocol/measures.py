"""What a device reports that measured the model: values for lanes, so that means are made of sums alone.

For a plan with K metrics and room for N examples, a device that measured on n of them sends K + 1 values in [0, 1]:
n/N, then for each metric (n/N) * (m - low) / (high - low), where m is its mean, held within the range. Sums are opened
alone; mean = low + (high - low) * (sum of the metric's values) / (sum of the first values).

One participant weighs at most as much as N examples, whatever it sends within range: with a total weight of W examples
it moves a mean by at most (high - low) * N / W. The norm of its values is at most √(K + 1).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edge_runtime.protocol.errors import InvalidPlan
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.secure_sum.lanes import Delta


def encode_measures(plan: Plan, means: Mapping[str, float], examples: int) -> Delta:
    """Write what a device measured as the values of its report, float32, shape ``(metrics + 1,)``.

    Args:
        means: Over the device's examples; those of the plan's metrics are used, each held within its range.
        examples: Measured on, at least 1; more than the plan's most weigh no more.

    Raises:
        InvalidPlan: The model does not measure one of the plan's metrics.
    """
    if missing := [one.name for one in plan.metrics if one.name not in means]:
        raise InvalidPlan(f"the model does not measure {missing[0]!r}")
    share = min(examples, plan.most_examples()) / plan.most_examples()
    values = [share]
    for metric in plan.metrics:
        mean = means[metric.name]
        held = metric.high if mean != mean else min(max(mean, metric.low), metric.high)  # a NaN is as bad as can be
        values.append(share * (held - metric.low) / (metric.high - metric.low))
    return np.asarray(values, np.float32)


def decode_measures(plan: Plan, sums: npt.NDArray[np.float64]) -> tuple[float, dict[str, float]]:
    """Turn an opened sum of reports into the number of examples and the mean of each metric, within its range.

    Without a single example there is no mean: every metric is left out.

    Args:
        sums: Shape ``(metrics + 1,)``.
    """
    weight = float(sums[0])
    if weight * plan.most_examples() < 0.5:
        return 0.0, {}
    means = {}
    for metric, value in zip(plan.metrics, sums[1:], strict=True):
        share = min(max(float(value) / weight, 0.0), 1.0)
        means[metric.name] = metric.low + (metric.high - metric.low) * share
    return weight * plan.most_examples(), means
