"""Gamma variates for Dirichlet draws of many samples, from uniform numbers, in logarithms: any small alpha works.

A Dirichlet draw is K independent Gamma(alpha) variates divided by their sum; its argmax does not need the sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import gammainc, gammaincinv, gammaln
from torch import Tensor

_ATTEMPTS = 6  # the rejection sampler accepts 95% at worst: 6 misses in a row have probability 1e-8
_SMALLEST = 1e-290  # below it gamma's distribution function is its leading term, to the last bit


def num_uniforms(alphas: Sequence[Sequence[float]]) -> int:
    """Number of uniform numbers that `log_gamma_draws` needs per variate, for the hardest of these alphas."""
    return 1 if all(alpha in (0, 1) for row in alphas for alpha in row) else 3 * _ATTEMPTS + 1


def log_gamma_draws(uniform: Tensor, alphas: Tensor) -> Tensor:
    """Logarithms of Gamma(alpha, 1) variates; alpha 0 gives −inf.

    Marsaglia & Tsang (ACM TOMS 2000), with their boost for alpha < 1. With U = 1, which requires alphas of 1 or 0, they
    are exponential variates.

    Args:
        uniform: (B, U, K) float64 in (0, 1), U from `num_uniforms`.
        alphas: (B or 1, K) float64, at least 0.
    Returns:
        (B, K) float64.
    """
    if uniform.shape[1] == 1:
        log_draws = uniform[:, 0].log().neg().log()
        return log_draws.masked_fill(alphas == 0, -math.inf)
    d = torch.where(alphas < 1, alphas + 1, alphas).unsqueeze(1) - 1 / 3  # (B or 1, 1, K)
    radius, angle, acceptance = uniform[:, :-1].unflatten(1, (3, _ATTEMPTS)).unbind(1)  # (B, attempts, K) each
    normal = (-2 * radius.log()).sqrt() * (2 * math.pi * angle).cos()
    base = 1 + normal / (9 * d).sqrt()
    log_cube = 3 * base.clamp_min(1e-300).log()
    is_accepted = (base > 0) & (acceptance.log() < normal**2 / 2 + d * (1 - log_cube.exp() + log_cube))
    first = is_accepted.byte().argmax(1, keepdim=True)  # index of the first True, 0 if there is none
    log_draws = (d.log() + log_cube.gather(1, first)).squeeze(1)
    return log_draws + torch.where(alphas < 1, uniform[:, -1].log() / alphas, 0.0)


def argmax_probabilities(alphas: Sequence[float]) -> np.ndarray:
    """The probability that each of K independent Gamma(alpha, 1) variates is the largest, for every subset of them.

    P(k) = ∫₀¹ ∏ F_j(F_k⁻¹(u)) du over the others j of the subset, with distribution functions F; by the tanh-sinh rule
    (Takahasi & Mori 1974), which handles the singular ends of the interval. Accurate to 1e-9.

    Args:
        alphas: (K,), at least 0. A variate of alpha 0 is never the largest.
    Returns:
        (2^K, K) float64; bit k of a row's index is set if k is in the subset. Rows sum to 1, or to 0 if all alphas of
        the subset are 0.
    """
    shapes = np.asarray(alphas, np.float64)
    at = np.arange(-6, 6, 1 / 64)
    u = 1 / (1 + np.exp(-np.pi * np.sinh(at)))  # (T,) nodes in (0, 1)
    weight = np.pi / 64 * np.cosh(at) * u * (1 - u)
    num = len(shapes)
    below = np.ones((num, num, len(at)))  # [k, j] = F_j(F_k⁻¹(u))
    for k in np.flatnonzero(shapes):
        log_x = _log_quantile(shapes[k], u)
        for j in np.flatnonzero(shapes):
            below[k, j] = u if j == k else _distribution(shapes[j], log_x)
    positive = np.flatnonzero(shapes).tolist()
    of_positive = np.zeros((2 ** len(positive), num))  # modalities of alpha 0 change nothing: each subset once
    for subset in range(len(of_positive)):
        members = [k for place, k in enumerate(positive) if subset >> place & 1]
        for k in members:
            others = [j for j in members if j != k]
            of_positive[subset, k] = weight @ below[k, others].prod(0)
        if members:
            of_positive[subset] /= of_positive[subset].sum()
    bits = np.arange(2**num)[:, None] >> np.array(positive, dtype=int) & 1  # (2^K, number of positive alphas)
    table = of_positive[bits @ (1 << np.arange(len(positive)))]
    return table


def _log_quantile(alpha: float, u: np.ndarray) -> np.ndarray:
    """ln of the quantiles u of Gamma(alpha, 1), which may themselves be too small for a float."""
    x = gammaincinv(alpha, u)
    with np.errstate(divide="ignore"):
        return np.where(x > _SMALLEST, np.log(x), (np.log(u) + gammaln(alpha + 1)) / alpha)


def _distribution(alpha: float, log_x: np.ndarray) -> np.ndarray:
    """The distribution function of Gamma(alpha, 1) at exp(log_x)."""
    leading = np.exp(np.minimum(alpha * log_x - gammaln(alpha + 1), 0))
    with np.errstate(over="ignore"):
        return np.where(log_x > math.log(_SMALLEST), gammainc(alpha, np.exp(log_x)), leading)
