"""The pipeline: generate, pre-pre-train, carry over into language, evaluate and publish, as one job that resumes.

Every stage is a job with a run of its own that finds what is done and goes on from there; evaluation and publication
are how each training ends. So the pipeline only says in which order, hands on what each stage made, and keeps a record
that names them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from datalake import Lake, digest_of
from datalake.errors import NotFoundError
from datalake.registry.params import ParameterVersion
from generator import parse_spec
from orchestration.cluster.cores import local_cores
from orchestration.console.progress import stage
from orchestration.console.training import training_display
from orchestration.errors import JobStopped, refuse_without_ray
from orchestration.evaluation.harness_tasks import HarnessTasks
from orchestration.generation.request import GenerateRequest
from orchestration.pipeline.config import PRE, PipelineConfig
from orchestration.runs.lease import RunLease, acquire
from orchestration.runs.owner import this_process
from orchestration.runs.signals import Stop
from orchestration.training.worker_range import parse_workers
from trainer import TrainJob, TrainResult

KIND = "pipeline"


@dataclass(frozen=True)
class PipelineSettings:
    """What a pipeline runs on; may differ from one attempt to the next. None: from the cluster's resources.

    ``workers`` is a number or a range such as ``2..8``. Without ``ray`` all is done in this process, by this machine's
    cores, and there are no actors and no workers.
    """

    actors: int | None = None
    backend: str = "auto"
    workers: int | str | None = None
    gpu: bool | None = None
    ray: bool = True

    def __post_init__(self) -> None:
        parse_workers(self.workers)
        if not self.ray:
            refuse_without_ray(actors=self.actors, workers=self.workers, gpu=self.gpu)


def run_pipeline(
    lake: Lake,
    config: PipelineConfig,
    run: str | None = None,
    *,
    settings: PipelineSettings | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Run (or resume, or return the finished) pipeline; returns its record's result. Ray must be initialised, if used.

    The result names run, params, dataset, heldout, and for each training its run, model, step and evals. Raises what
    the stages raise, and JobStopped once `stop` or a request in the lake has ended it.
    """
    config, params = _register(lake, config)
    fields = config.model_dump(mode="json")
    settings = settings or PipelineSettings()
    name = run or default_pipeline_run(config)
    with acquire(
        *(lake, name, KIND, fields, {"params": [params.ref], "spec_digest": params.digest}),
        stop=stop,
        settings=asdict(settings),
        resources=_resources(settings),
    ) as run_lease:
        if run_lease.finished:
            return run_lease.run.state["result"]
        result = _Pipeline(lake, config, params, run_lease, settings).run()
        run_lease.run.finish(result)
    return result


def _resources(settings: PipelineSettings) -> dict[str, Any]:
    """What this attempt runs on, for the record."""
    if not settings.ray:
        return {"cpus": local_cores(), "driver": this_process()["host"]}
    from orchestration.cluster.session import cluster_facts  # Ray takes seconds to import

    return cluster_facts()


def default_pipeline_run(config: PipelineConfig) -> str:
    """The name of a pipeline's run: the same file finds the run it began."""
    return f"{config.name[:80]}-{digest_of(config.model_dump(mode='json'))[:8]}"


def _register(lake: Lake, config: PipelineConfig) -> tuple[PipelineConfig, ParameterVersion]:
    """The parameter version, registered if the config brings a spec; the config that names it by number."""
    if isinstance(config.params, str):
        params = lake.params.usable(config.params)
    else:
        spec = parse_spec(config.params).model_dump(mode="json")
        params = lake.params.put(config.dataset, spec, message=f"pipeline {config.name}")
    return config.model_copy(update={"params": params.ref}), params


class _Pipeline:
    """One attempt at a pipeline that this process holds."""

    def __init__(
        self,
        lake: Lake,
        config: PipelineConfig,
        params: ParameterVersion,
        run_lease: RunLease,
        settings: PipelineSettings,
    ) -> None:
        self._lake, self._config, self._params, self._run_lease, self._settings = (
            lake,
            config,
            params,
            run_lease,
            settings,
        )
        self._stages = 1 + bool(config.generate.heldout_sequences) + len(config.trainings())
        self._done = 0
        self._children: dict[str, dict[str, Any]] = dict(run_lease.run.state.get("children", {}))

    def run(self) -> dict[str, Any]:
        config, generate = self._config, self._config.generate
        seq_len = self._params.spec["seq_len"]
        dataset = self._generate("generate", config.dataset, generate.seed, generate.tokens)
        heldout = None
        if generate.heldout_sequences:
            tokens = generate.heldout_sequences * seq_len
            heldout = self._generate("heldout", f"{config.dataset}-heldout", generate.seed + 1, tokens)
        model: str | None = None
        trained: dict[str, Any] = {}
        for name in config.trainings():
            result = self._train(name, dataset, heldout, model)
            if name == PRE:
                model = result.model
            facts = {"run": result.run, "model": result.model, "step": result.step, "evals": result.evals}
            trained[name] = {**facts, "moved": len(result.facts.get("moved", ()))}
        made = {"params": self._params.ref, "dataset": dataset, "heldout": heldout}
        return {"run": self._run_lease.run.name, **made, "trainings": trained}

    def _generate(self, name: str, dataset: str, seed: int, tokens: int) -> str:
        if self._children.get(name, {}).get("done"):  # committed; to read it all again is `data verify`'s work
            self._done += 1
            return self._children[name]["dataset"]
        settings = self._settings
        request = GenerateRequest(
            self._params,
            tokens,
            dataset=dataset,
            seed=seed,
            shard_sequences=self._config.generate.shard_sequences,
            actors=settings.actors,
            backend=settings.backend,
            message=f"pipeline {self._run_lease.run.name}",
        )
        with self._stage(name) as child, stage(f"{name} {dataset}", tokens) as advance:

            def show(done: float, note: str) -> None:
                self._progress(f"{name}: {done:,.0f} of {tokens:,} tokens")
                advance(done, note)

            if settings.ray:
                from orchestration.generation.job import run_generation as make
            else:
                from orchestration.generation.local import generate_here as make
            parent = self._run_lease.run.name
            result = make(self._lake, request, show, run=child, stop=self._run_lease.stop, parent=parent)
            self._made(name, child, dataset=result.dataset.ref, digest=result.manifest.digest)
        return result.dataset.ref

    def _train(self, name: str, dataset: str, heldout: str | None, model: str | None) -> TrainResult:
        config = self._config.training(name, dataset=dataset, heldout=heldout, model=model)
        with self._stage(name) as child, training_display(f"train {name}", config.steps) as shown:

            def on_event(event: dict[str, Any]) -> None:
                if event["event"] == "step":
                    self._progress(f"{name}: step {event['step']:,} of {config.steps:,}, loss {event['loss']:.4f}")
                shown(event)

            training = TrainJob(config, self._lake, child, score_tasks=HarnessTasks())
            how: dict[str, Any] = {"on_event": on_event, "stop": self._run_lease.stop}
            how["parent"] = self._run_lease.run.name
            if self._settings.ray:
                from orchestration.training.ray_train import default_workers, train_on_ray

                workers, gpu = default_workers(config, parse_workers(self._settings.workers), self._settings.gpu)
                result = train_on_ray(training, workers=workers, use_gpu=gpu, **how)
            else:
                from orchestration.training.local import train_here

                result = train_here(training, **how)
            self._made(name, child, model=result.model)
        return result

    @contextmanager
    def _stage(self, name: str) -> Iterator[str]:
        """One stage: yields the name of its run, which the record names before it begins; passes on that it stopped."""
        run_lease = self._run_lease
        run_lease.check()
        child = f"{run_lease.run.name}-{name}"
        if name not in self._children:
            self._children[name] = {"run": child}
            run_lease.run.append(children=self._children, reads=self._reads(), message=f"begin {name}")
        self._progress(name)
        try:
            yield child
        except JobStopped as stopped:
            raise run_lease.stop.error(run_lease.run.name, f"is in stage {name}, {_where(stopped)}") from stopped
        self._done += 1
        self._progress(f"{name} is done")

    def _progress(self, note: str) -> None:
        self._run_lease.advance(self._done, self._stages, "stages", note)

    def _made(self, name: str, child: str, **product: Any) -> None:
        """Name what a stage made, and every fault that it met, in the pipeline's record: once."""
        if "done" in self._children[name]:
            return
        try:
            faults = self._lake.runs.get(child).state.get("faults", [])
        except NotFoundError:
            faults = []
        for fault in faults:
            self._run_lease.fault(
                fault["kind"], **{key: value for key, value in fault.items() if key != "kind"}, run=child
            )
        self._children[name] |= {**product, "done": True}
        self._run_lease.run.append(children=self._children, reads=self._reads(), message=f"end {name}")

    def _reads(self) -> dict[str, list[str]]:
        """What the stages to come read, which is not to be retired meanwhile: of the config, and what stages made."""
        configs = [self._config.pre, self._config.language or {}]
        datasets = [item["dataset"] for config in configs for item in config.get("data", ())]
        datasets += [ref for config in configs for ref in config.get("eval", ())]
        datasets += [child["dataset"] for child in self._children.values() if "dataset" in child]
        models = [child["model"] for child in self._children.values() if child.get("model")]
        return {"datasets": sorted(set(datasets)), "models": sorted(set(models))}


def _where(stopped: JobStopped) -> str:
    """``run p-pre is at step 3 of 12``, from the message of a stage that stopped."""
    return str(stopped).rpartition(";")[0].partition("): ")[2]
