"""Slow and exact: privacy by definition, with 50 digits, for small noise and whole orders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mpmath
import numpy as np
import numpy.typing as npt

Law = dict[int, mpmath.mpf]


@contextmanager
def precisely() -> Iterator[None]:
    with mpmath.workdps(50):
        yield


def discrete_gaussian(sigma: float, reach: int) -> Law:
    """P[X = x] for |x| <= reach; what is beyond must not matter."""
    with precisely():
        weights = {
            x: mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * mpmath.mpf(sigma) ** 2)) for x in range(-reach, reach + 1)
        }
        total = mpmath.fsum(weights.values())
        return {x: weight / total for x, weight in weights.items()}


def added(one: Law, other: Law) -> Law:
    """The law of the sum of two independent ones."""
    found: Law = {}
    with precisely():
        for x, p in one.items():
            for y, q in other.items():
                found[x + y] = found.get(x + y, mpmath.mpf(0)) + p * q
    return found


def hockey_stick(law: Law, shift: int, epsilon: float) -> float:
    """δ(ε) of a release x + noise against one moved by `shift`: Σ max(0, P - e^ε Q)."""
    with precisely():
        grown = mpmath.exp(mpmath.mpf(epsilon))
        return float(mpmath.fsum(max(mpmath.mpf(0), p - grown * law.get(x - shift, 0)) for x, p in law.items()))


def renyi(law: Law, shift: int, order: float, inside: int) -> float:
    """D_α of a release against one moved by `shift`, over |x| <= inside."""
    with precisely():
        alpha = mpmath.mpf(order)
        terms = (law[x] ** alpha * law[x - shift] ** (1 - alpha) for x in law if abs(x) <= inside and x - shift in law)
        return float(mpmath.log(mpmath.fsum(terms)) / (alpha - 1))


def sampled_gaussian_renyi(noise: float, rate: float, order: int) -> float:
    """r(α) for whole α: ln Σ C(α, k) (1 - q)^(α - k) q^k exp(k(k - 1)/2z²) / (α - 1), from arXiv 1908.10530."""
    with precisely():
        q, z = mpmath.mpf(rate), mpmath.mpf(noise)
        terms = (
            mpmath.binomial(order, k) * (1 - q) ** (order - k) * q**k * mpmath.exp(k * (k - 1) / (2 * z**2))
            for k in range(order + 1)
        )
        return float(mpmath.log(mpmath.fsum(terms)) / (order - 1))


def sampled_gaussian_renyi_by_integral(noise: float, rate: float, order: float) -> float:
    """The same for any α, by adaptive quadrature."""
    with mpmath.workdps(30):
        q, z, alpha = mpmath.mpf(rate), mpmath.mpf(noise), mpmath.mpf(order)

        def integrand(x: mpmath.mpf) -> mpmath.mpf:
            ratio = 1 - q + q * mpmath.exp((2 * x - 1) / (2 * z**2))
            return ratio**alpha * mpmath.npdf(x, 0, z)

        places = [-40 * z, -5 * z, 0, alpha / 2, alpha, alpha + 5 * z, alpha + 40 * z]
        return float(mpmath.log(mpmath.quad(integrand, places)) / (alpha - 1))


def least_over_orders(conversion: Callable[[mpmath.mpf], mpmath.mpf]) -> float:
    """The minimum over α, on a fine grid of ln(α - 1)."""
    with precisely():
        return float(min(conversion(1 + mpmath.exp(mpmath.mpf(step) / 200)) for step in range(-2000, 2000)))


def toeplitz(column: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The dense lower-triangular matrix of a first column."""
    size = column.size
    found = np.zeros((size, size))
    for begin in range(size):
        found[begin:, begin] = column[: size - begin]
    return found
