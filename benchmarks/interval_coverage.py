"""How often 95 % intervals for the mean of few paired differences hold the truth: t, percentile, BCa, bootstrap-t.

`python -m benchmarks.interval_coverage` prints the table that docs/decisions/0440 quotes. Noise has mean 0 and
variance 1; "heavy" is Student's t with 3 degrees of freedom, "skewed" an exponential.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from scipy import stats

from orchestration.experiment.analysis.statistics import RESAMPLES, bootstrap_bounds, t_bounds

SIMULATIONS, ALPHA = 1000, 0.05
NOISE: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(0, 1, shape),
    "heavy": lambda rng, shape: rng.standard_t(3, shape) / np.sqrt(3),
    "skewed": lambda rng, shape: rng.exponential(1, shape) - 1,
}
Bounds = tuple[np.ndarray, np.ndarray]


def bca_bounds(differences: np.ndarray, alpha: float) -> Bounds:
    """SciPy's bias-corrected and accelerated bootstrap."""
    found = stats.bootstrap(
        (differences,),
        np.mean,
        axis=-1,
        n_resamples=1999,
        confidence_level=1 - alpha,
        method="BCa",
        rng=np.random.default_rng(0),
    )
    return found.confidence_interval.low, found.confidence_interval.high


def bootstrap_t_bounds(differences: np.ndarray, alpha: float) -> Bounds:
    """Quantiles of the resampled t statistic in place of Student's; a resample without spread counts as infinite."""
    n = differences.shape[-1]
    weights_NR = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).T / n
    mean, error = differences.mean(axis=-1), differences.std(axis=-1, ddof=1) / np.sqrt(n)
    means = differences @ weights_NR
    spread = np.sqrt(np.maximum(differences**2 @ weights_NR - means**2, 0) / (n - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(spread > 1e-9, (means - mean[:, None]) / spread, np.sign(means - mean[:, None]) * np.inf)
    low, high = np.quantile(statistic, [alpha / 2, 1 - alpha / 2], axis=-1, method="nearest")
    return mean - high * error, mean - low * error


METHODS: dict[str, Callable[[np.ndarray, float], Bounds]] = {
    "t": t_bounds,
    "percentile": bootstrap_bounds,
    "BCa": bca_bounds,
    "bootstrap-t": bootstrap_t_bounds,
}


def main() -> None:
    """Print coverage and the median width, which is "inf" where most intervals have no end."""
    sys.stdout.write("| noise | pairs | " + " | ".join(METHODS) + " |\n|" + " --- |" * (2 + len(METHODS)) + "\n")
    for name, draw in NOISE.items():
        for pairs in (3, 5, 10):
            differences = draw(np.random.default_rng(pairs), (SIMULATIONS, pairs))
            cells = []
            for bounds in METHODS.values():
                low, high = bounds(differences, ALPHA)
                # BCa is not a number where its correction divides by zero: an interval that holds nothing.
                covered = np.mean((low <= 0) & (high >= 0))
                cells.append(f"{100 * covered:.1f} % ({np.nanmedian(high - low):.2f})")
            sys.stdout.write(f"| {name} | {pairs} | " + " | ".join(cells) + " |\n")


if __name__ == "__main__":
    main()
