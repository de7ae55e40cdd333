"""The weights of published models, read from the lake one tensor at a time, whichever files they are in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from datalake import Lake, ModelVersion
from datalake.store.content import ContentReader
from trainer import hf_layout
from trainer.model import Llama
from trainer.shards import Piece
from trainer.tensor_files import parse_header, read_tensors


class Weights:
    """A model version's weights. Raises CheckpointError, NotFoundError or CorruptObjectError as they are read."""

    def __init__(self, lake: Lake, version: ModelVersion) -> None:
        self._models, self.version = lake.models, version
        self._files = hf_layout.weight_names(
            version.files.keys(), lambda: lake.models.open_file(version, hf_layout.INDEX)
        )

    def readers(self) -> Iterator[ContentReader]:
        """Every file of weights, to be read once."""
        return (self._models.open_reader(self.version, name) for name in self._files)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name, from the files' headers alone."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name in self._files:
            size = self.version.files[name]["bytes"]
            reader = self._models.open_reader(self.version, name)  # names the file if its header is wrong
            length = int.from_bytes(self._models.read_range(self.version, name, 0, 8), "little")
            text = self._models.read_range(self.version, name, 8, min(length, size))
            shapes |= {key: shape for key, _, shape in parse_header(text, size, reader).tensors}
        return shapes

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of each, verified by the time that its file has been read."""
        for reader in self.readers():
            yield from read_tensors(reader)

    def pieces(self, like: Callable[[str], Tensor | None]) -> Iterator[Piece]:
        """The same, for ``hf_layout.load_pieces``: this rank's rows of tensors that ``like(name)`` says are cut."""
        return hf_layout.whole_pieces(self, like)


def open_published(lake: Lake, version: ModelVersion) -> Llama:
    """The model of a version, on the CPU. Raises as ``Weights`` does."""
    config = lake.models.open_file(version, hf_layout.CONFIG)
    return hf_layout.open_model(config, Weights(lake, version))
