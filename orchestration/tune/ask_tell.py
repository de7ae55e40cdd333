"""Search in this process, one trial after the other: for objectives that cost nothing, and for knowing the searcher."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from orchestration.tune.space import Dimension, Values, rounded
from orchestration.tune.tuning import Search, Trial

STARTUP_TRIALS = 10


def ask_tell(space: Mapping[str, Dimension], objective: Callable[[Values], Trial], *, trials: int, seed: int) -> Search:
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), as Ray Tune's search uses it, for `trials`."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: dimension.distribution() for name, dimension in space.items()}

    def search(known: Sequence[Trial], tell: Callable[[Trial], None]) -> None:
        sampler = optuna.samplers.TPESampler(seed=seed + len(known), n_startup_trials=STARTUP_TRIALS)
        study = optuna.create_study(sampler=sampler)
        for trial in known:
            if trial.loss is not None and math.isfinite(trial.loss):
                study.add_trial(
                    optuna.trial.create_trial(params=trial.values, distributions=distributions, value=trial.loss)
                )
        for _ in range(trials - len(known)):
            asked = study.ask(distributions)
            found = objective(rounded(asked.params))
            if found.loss is None:
                study.tell(asked, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(asked, found.loss)
            tell(found)

    return search
