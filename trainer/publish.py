"""Turning a finished run into a model version that says where it came from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from datalake import Lake
from datalake.errors import ObjectTooLargeError
from datalake.registry.models import FileList, list_files
from datalake.store.content import Pieces
from trainer import hf_layout
from trainer.inputs import Inputs
from trainer.model import Llama
from trainer.ranks import Ranks
from trainer.shards import cut_world, whole
from trainer.task_scores import PREFIX
from trainer.tensor_files import FileLimit, to_pieces

SCORES = ("loss", "perplexity", "bits_per_byte", "accuracy", "gate")


def publish(
    name: str,
    lake: Lake,
    run: str,
    inputs: Inputs,
    model: Llama,
    evals: Mapping[str, Any],
    ranks: Ranks,
    limit: FileLimit,
) -> str:
    """Publish ``model`` under ``name``; "NAME@VERSION", the same one when done again. All ranks call this alike.

    One file of weights is in memory at a time, and none where ``model`` is whole in host memory: files are written from
    the weights where they are.
    """
    tensors = hf_layout.hf_tensors(model)
    while (listed := _store(name, lake, inputs, model, tensors, ranks, limit)) is None:
        pass  # the store wants smaller files, which ``limit`` knows by now
    version = ranks.from_zero(
        lambda: lake.models.add_version(
            name,
            listed,
            run=run,
            datasets=[dataset.ref for dataset in inputs.train],
            spec_digests=[dataset.manifest.source.spec_digest for dataset in inputs.train],
            params=[dataset.params for dataset in inputs.train if dataset.params is not None],
            metrics={ref: _kept(ref, scores) for ref, scores in evals.items()},
            parents=[source.ref for source in inputs.sources],
            message=f"run {run}",
        )
    )
    return version.ref


def _kept(ref: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    """The scores that a model version names: of a task all, of a dataset those that fit a line."""
    return {key: value for key, value in scores.items() if key in SCORES or ref.startswith(PREFIX)}


def _store(
    name: str,
    lake: Lake,
    inputs: Inputs,
    model: Llama,
    tensors: Mapping[str, Tensor],
    ranks: Ranks,
    limit: FileLimit,
) -> FileList | None:
    """Store all files; None if one was too large for the store, which ``limit`` has taken note of."""
    limit.bytes = ranks.from_zero(lambda: limit.bytes)
    placed, index = hf_layout.layout(tensors, limit.bytes)
    small = {hf_layout.CONFIG: hf_layout.config_file(model.shape, inputs.seq_len, inputs.end_of_text)}
    if index is not None:
        small[hf_layout.INDEX] = index
    # Where a version's files lie follows from their digests: so all are gone through once before any is stored.
    listed = ranks.from_zero(lambda: list_files(small))
    for filename, members in placed.items():
        made = _file(tensors, members, ranks)
        listed |= ranks.from_zero(lambda filename=filename, made=made: list_files({filename: made}))  # type: ignore[misc]

    def put(filename: str, data: bytes | Pieces) -> bool:
        try:
            lake.models.put_file(name, listed, filename, data)
        except ObjectTooLargeError as error:
            if filename not in placed or len(placed[filename]) == 1:
                raise  # a single tensor, which this layout does not cut
            limit.lower(len(data), error)
            return False
        return True

    for filename, members in placed.items():
        made = _file(tensors, members, ranks)
        if not ranks.from_zero(lambda filename=filename, made=made: put(filename, made)):  # type: ignore[misc]
            return None
    for filename, data in small.items():
        ranks.from_zero(lambda filename=filename, data=data: put(filename, data))  # type: ignore[misc]
    return listed


def _file(tensors: Mapping[str, Tensor], members: Collection[str], ranks: Ranks) -> Pieces:
    """A file of weights, of which only rank 0 needs the content; where rows are shared every rank must take part."""
    if cut_world(tensors) == 1:
        return to_pieces({name: tensors[name].float() for name in members}, metadata={"format": "pt"})
    gathered = {}
    for name in members:
        tensor = whole(tensors[name].detach())
        if ranks.rank == 0:
            gathered[name] = tensor.float().to("cpu")
    return to_pieces(gathered, metadata={"format": "pt"})
