"""Nominal levels of planned looks, by alpha spending, and the alpha to which a p value belongs.

The error that may be spent follows the function of Lan and DeMets (Biometrika 70, 1983, 659-663)
that resembles the boundaries of O'Brien and Fleming. Everything here is one-sided.
"""

from functools import cache

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri


def _spending(fraction: np.ndarray, alpha: float) -> np.ndarray:
    """The one-sided error that may be spent until a fraction of all runs, O'Brien-Fleming type."""
    return 2 * ndtr(ndtri(alpha / 2) / np.sqrt(fraction))


_NODES, _WEIGHTS = leggauss(160)
_FAR = 8.0  # standard deviations; what lies beyond is neglected


@cache
def nominal_levels(looks: tuple[int, ...], alpha: float) -> np.ndarray:
    """The nominal one-sided level of each planned look, `(K,)`.

    Under the null hypothesis, the sums of the runs at the looks, scaled to a variance of 1 at the
    last look, are a Brownian motion B(t). From look to look, the density of B on the paths that
    have crossed no boundary yet is integrated by Gauss-Legendre quadrature, and the next boundary
    is set so that it is crossed with the probability that may be spent.
    """
    times = np.array(looks) / looks[-1]
    steps = np.diff(times, prepend=0)
    shares = np.diff(_spending(times, alpha), prepend=0)
    levels = np.empty(len(looks))
    points, mass = np.zeros(1), np.ones(1)  # B(0) = 0
    for look, (time, step, spent) in enumerate(zip(times, steps, shares, strict=True)):
        deviation = np.sqrt(step)
        reach = 4 * _FAR * np.sqrt(time)
        problem = points, mass, deviation, spent
        boundary = brentq(_excess, -reach, reach, args=problem, xtol=1e-13)
        levels[look] = ndtr(-boundary / np.sqrt(time))
        lowest = -_FAR * np.sqrt(time)
        half = (boundary - lowest) / 2
        reached = lowest + half * (_NODES + 1)
        kernel = np.exp(-(((reached[:, None] - points) / deviation) ** 2) / 2)
        density = kernel @ mass / (deviation * np.sqrt(2 * np.pi))
        points, mass = reached, half * _WEIGHTS * density
    return levels


def _excess(
    boundary: float, points: np.ndarray, mass: np.ndarray, deviation: float, spent: float
) -> float:
    """By how much the probability to be above a boundary after one more step exceeds `spent`."""
    return float(mass @ ndtr((points - boundary) / deviation)) - spent


@cache
def _table(looks: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Normal quantiles of alphas, `(A,)`, and of the levels at each look that follow, `(A, K)`."""
    alphas = ndtr(np.linspace(-7, 1.5, 86))
    return ndtri(alphas), ndtri(np.array([nominal_levels(looks, float(alpha)) for alpha in alphas]))


def alpha_of_level(looks: tuple[int, ...], look: int, level: np.ndarray) -> np.ndarray:
    """The one-sided alpha of the design that has this level at this look; inverts `nominal_levels`.

    Interpolated between normal quantiles, where the relation is nearly linear. Beyond the table,
    from alpha = 1e-12 to 0.93, the nearest larger value is given: 1e-12, and 1.
    """
    alphas, levels = _table(looks)
    known = np.maximum.accumulate(levels[:, look])
    known += 1e-12 * np.arange(len(known))  # strictly increasing
    quantiles = ndtri(np.clip(level, 1e-300, 1 - 1e-16))
    found = PchipInterpolator(known, alphas)(np.clip(quantiles, known[0], known[-1]))
    return np.where(quantiles > known[-1], 1.0, ndtr(found))
