"""`morphogen tune`: from the names of a parameter set and a corpus to a tuning with proxies on Ray."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from datalake import Lake, Run, digest_of
from datalake.errors import NotFoundError, RunHeldError
from orchestration.cluster.resources import require
from orchestration.cluster.session import cluster_facts
from orchestration.console.progress import console, stage
from orchestration.errors import InvalidRequestError, JobStopped
from orchestration.experiment.run.pool import Pool, demand_of_actor
from orchestration.runs.lease import RunLease, acquire, await_owner
from orchestration.runs.signals import ASKED, Stop
from orchestration.training.stop_watcher import Parent
from orchestration.tune.promote import Target, alias_of
from orchestration.tune.proxy import ProxyJob, score_in_full
from orchestration.tune.search import ProxyStart, pool_search
from orchestration.tune.settings import TuneSettings
from orchestration.tune.tuning import KIND, NO_SYNTHETIC, Confirm, Trial, TuneResult, begin, run_of, tune


def run_tune(lake: Lake, params: str, corpus: str, settings: TuneSettings, *, stop: Stop | None = None) -> TuneResult:
    """Tune ``params`` for ``corpus``, or go on with it. Ray must be running.

    The incumbent is what the alias ``tuned-CORPUS`` points at, or else the version given. One process owns a tuning;
    another one that is asked for the same waits for its end, and goes on in its place if it dies. Raises NotFoundError
    and InvalidRequestError before anything is trained, JobStopped once ``stop`` or a request in the lake has ended it.
    """
    stop = stop or Stop()
    train = lake.datasets.usable(corpus)
    heldout = lake.datasets.usable(f"{train.name}-heldout")
    target = _target(lake, params, alias_of(train.name))
    told = settings.model_dump(mode="json") | {"train_data": train.ref, "heldout": heldout.ref}
    name, config, target = begin(lake, f"tune-{target.params}-{train.name}-{digest_of(told)[:8]}", target, told)
    incumbent = lake.params.usable(target.incumbent)
    if incumbent.spec.get("family") != "nca":
        raise InvalidRequestError(
            f"{incumbent.ref}: family {incumbent.spec.get('family')!r} has no such dimensions; tune a set of family nca"
        )
    require(demand_of_actor(settings.threads), stop)
    while True:
        ended = await_owner(lake, name, stop)
        if ended is not None and ended.status in ("stopped", "failed"):
            raise JobStopped(f"run {name} {ended.status} meanwhile: {ended.state['error']}", ASKED)
        try:
            with acquire(lake, name, KIND, config, {}, stop=stop, resources=cluster_facts()) as run_lease:
                if run_lease.finished:
                    return TuneResult.model_validate(run_lease.run.state["result"])
                reads = {"params": [incumbent.ref], "datasets": [train.ref, heldout.ref]}
                run_lease.run.append(reads=reads, message="what it reads")
                console.print(f"tune {target.params} for {train.ref}: incumbent {incumbent.ref}, run {name}")
                job = ProxyJob(
                    base=incumbent.spec,
                    train=train.ref,
                    heldout=heldout.ref,
                    length=lake.datasets.manifest(train).seq_len,
                    share=_share(lake, incumbent.message, settings.share),
                    settings=settings,
                    parent=Parent(name, run_lease.run.lease or ""),
                )
                return _run(lake, run_lease, target, job, lake.datasets.manifest(train).vocab_size)
        except RunHeldError:
            continue  # somebody was quicker


def _run(lake: Lake, run_lease: RunLease, target: Target, job: ProxyJob, vocab_size: int) -> TuneResult:
    """The work of the process that owns the tuning."""
    settings = job.settings
    search = pool_search(
        lake,
        settings.space,
        ProxyStart(lake, job),
        trials=settings.trials,
        seed=settings.seed,
        threads=settings.threads,
        penalty=1.0 + math.log(vocab_size),  # worse than even odds over every token that the target may have
        run_lease=run_lease,
    )
    shown = _shown(search, f"search {target.params}", settings.trials, run_lease)
    return tune(
        *(lake, run_lease.run, target, shown, _confirm(lake, job, run_lease)),
        seeds=settings.seeds,
        alpha=settings.alpha,
    )


def _target(lake: Lake, params: str, alias: str) -> Target:
    name = params.partition("@")[0]
    aliases = lake.params.aliases(name)
    incumbent = lake.params.usable(f"{name}@{aliases[alias]}" if alias in aliases else params)
    return Target(
        params=name,
        head=lake.params.get(name).version,
        alias=alias,
        alias_at=aliases.get(alias, 0),
        incumbent=incumbent.ref,
    )


def _share(lake: Lake, message: str, default: float) -> float:
    """The synthetic share that an incumbent was promoted with, which its spec cannot say."""
    run = run_of(message)
    if run is None:
        return default
    try:
        record: Run = lake.runs.get(run)
    except NotFoundError:
        return default
    best = (record.state["result"] or {}).get("best") or {"values": {}}
    return float(best["values"].get("share", default))


def _confirm(lake: Lake, job: ProxyJob, run_lease: RunLease) -> Confirm:
    def confirm(values: Mapping[str, int | float] | None, seeds: Sequence[int]) -> dict[int, float]:
        who = "incumbent" if values is None else "no synthetic data" if values == NO_SYNTHETIC else "candidate"
        losses: dict[int, float] = {}
        with (
            stage(f"confirm {who}", len(seeds)) as advance,
            Pool(lake, job.settings.threads, run_lease=run_lease) as pool,
        ):
            found = pool.map(score_in_full, [(job, values, seed) for seed in seeds], advance)
            for seed, outcome in zip(seeds, found, strict=True):
                loss, refused = (None, str(outcome)) if isinstance(outcome, Exception) else outcome
                if loss is None:
                    console.print(f"  {who}, seed {seed}: no score: {refused}")
                else:
                    losses[seed] = loss
                    console.print(f"  {who}, seed {seed}: {loss:.4f}")
        return losses

    return confirm


def _shown(search: Callable[..., None], title: str, trials: int, run_lease: RunLease) -> Callable[..., None]:
    """The search as a stage, with each trial's score and latency shown as it ends."""

    def shown(known: Sequence[Trial], tell: Callable[[Trial], None]) -> None:
        ended = list(known)

        def both(trial: Trial) -> None:
            tell(trial)
            ended.append(trial)
            score = f"{trial.loss:.4f}" if trial.loss is not None else trial.refused or f"stopped at {trial.spent:.0%}"
            point = ", ".join(f"{name} {value:g}" for name, value in trial.values.items())
            took = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in trial.seconds.items())
            console.print(f"  trial {len(ended)}: {score}  ({point})  {took}")
            losses = [each.loss for each in ended if each.loss is not None]
            note = f"best {min(losses):.4f}" if losses else "none scored yet"
            run_lease.advance(len(ended), trials, "trials", note)
            advance(len(ended), note)

        with stage(title, trials) as advance:
            search(known, both)

    return shown
