"""Files of tensors equal the library's, have a bounded size, come back to the bit, and are refused when damaged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from datalake.errors import CorruptObjectError, ObjectTooLargeError
from datalake.store.content import ContentReader, Pieces
from trainer.errors import CheckpointError, ConfigError
from trainer.tensor_files import FileLimit, files_of, read_parts, read_tensors, read_whole, to_files, to_pieces

TYPES = (
    torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
)  # fmt: skip

names = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=9)
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)


def filled(kinds: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randint(0, 2, shape, generator=generator).to(dtype)
        if not dtype.is_floating_point
        else torch.randn(shape, generator=generator).to(dtype)
        for name, (shape, dtype) in kinds.items()
        if name != "__metadata__"
    }


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(names, st.tuples(shapes, st.sampled_from(TYPES)), max_size=9), st.booleans())
def test_a_file_is_the_librarys_byte_for_byte_and_reads_back(
    kinds: dict[str, tuple[tuple[int, ...], torch.dtype]], said: bool
) -> None:
    tensors, metadata = filled(kinds), {"format": "pt"} if said else None
    pieces = to_pieces(tensors, metadata=metadata)
    data = bytes(pieces)
    assert data == save(tensors, metadata=metadata)
    assert len(pieces) == len(data)
    found = dict(read_tensors(ContentReader.of_bytes(data, "file")))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.tuples(shapes, st.sampled_from(TYPES)), max_size=9),
    st.integers(500, 3000),
)
def test_no_file_is_larger_than_allowed_and_all_rows_come_back(
    kinds: dict[str, tuple[tuple[int, ...], torch.dtype]], limit: int
) -> None:
    tensors = filled(
        {name: ((shape[0] * 40, *shape[1:]) if shape else (), kind) for name, (shape, kind) in kinds.items()}
    )
    files = {name: bytes(data) for name, data in to_files("kind.0-of-2", tensors, limit).items()}
    assert all(len(data) <= limit for data in files.values())
    ordered = files_of("kind.0-of-2", files.keys())
    assert sorted(ordered) == sorted(files)
    found = dict(read_whole(ContentReader.of_bytes(files[name], name) for name in ordered))
    assert found.keys() == tensors.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )
    assert all(load(data) is not None for data in files.values()), "each is a safetensors file of its own"


def test_a_tensor_on_the_cpu_is_not_copied() -> None:
    weight = torch.zeros(8, 4)
    *_, buffer = to_pieces({"w": weight})
    weight[0, 0] = 7.0
    assert bytes(buffer) == weight.numpy().tobytes()


def with_header(data: bytes, change: Callable[[dict], dict]) -> bytes:
    """The file with another header, its tensors' bytes as they are."""
    length = int.from_bytes(data[:8], "little")
    text = json.dumps(change(json.loads(data[8 : 8 + length]))).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def damaged(data: bytes, how: str) -> bytes:
    length = int.from_bytes(data[:8], "little")
    return {
        "cut": data[:-1],
        "empty": b"",
        "only a length": data[:8],
        "a length of petabytes": b"\xff" * 8 + data[8:],
        "no JSON": data[:8] + b"x" * length + data[8 + length :],
        "nested": (90_000).to_bytes(8, "little") + b"[" * 90_000,
        "another shape": data.replace(b"[3,4]", b"[3,5]"),
        "negative": data.replace(b"[3,4]", b"[-3,-4]").replace(b"  ", b"", 1),
        "unknown type": data.replace(b"F32", b"F99"),
        "a list": (16).to_bytes(8, "little") + b"[1, 2, 3, 4, 5] ",
        "longer": data + b"0",
        "metadata a list": with_header(data, lambda header: {**header, "__metadata__": [1]}),
        "metadata no texts": with_header(data, lambda header: {**header, "__metadata__": {"rows": 1}}),
        "cuts no JSON": with_header(data, lambda header: {**header, "__metadata__": {"rows": "{"}}),
        "cuts outside": with_header(
            data, lambda header: {**header, "__metadata__": {"rows": json.dumps({"w": ["w", 2, 4]})}}
        ),
        "cuts negative": with_header(
            data, lambda header: {**header, "__metadata__": {"rows": json.dumps({"w": ["w", -2, 4]})}}
        ),
        "cuts of another": with_header(
            data, lambda header: {**header, "__metadata__": {"rows": json.dumps({"u": ["w", 0, 4]})}}
        ),
        "overlapping": with_header(
            data, lambda header: {name: {**entry, "data_offsets": [0, 48]} for name, entry in header.items()}
        ),
        "empty and endless": with_header(
            data, lambda header: {**header, "u": {"dtype": "F32", "shape": [0, 1 << 62], "data_offsets": [56, 56]}}
        ),
        "many sides": with_header(
            data, lambda header: {**header, "u": {"dtype": "F32", "shape": [1] * 99 + [0], "data_offsets": [56, 56]}}
        ),
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        "cut", "empty", "only a length", "a length of petabytes", "no JSON", "nested", "another shape", "negative",
        "unknown type", "a list", "longer", "metadata a list", "metadata no texts", "cuts no JSON", "cuts outside",
        "cuts negative", "cuts of another", "overlapping", "empty and endless", "many sides",
    ],
)  # fmt: skip
def test_damage_is_refused_by_name(how: str) -> None:
    data = damaged(save({"w": torch.ones(3, 4), "v": torch.ones(2)}), how)
    with pytest.raises(CorruptObjectError, match=r"^this file is corrupt"):
        list(read_parts(ContentReader.of_bytes(data, "this file")))


def test_room_that_no_machine_has_is_refused_by_name() -> None:
    """A cut tensor's whole is as large as its parts claim."""
    claim = {"w": ["w", 0, 1 << 40]}
    data = with_header(
        save({"w": torch.ones(1, 1 << 16)}), lambda header: {**header, "__metadata__": {"rows": json.dumps(claim)}}
    )
    with pytest.raises(CheckpointError, match=r"w: its .* do not fit in this machine's memory"):
        list(read_whole(iter([ContentReader.of_bytes(data, "this file")])))


def test_missing_files_and_rows_are_named() -> None:
    files = to_files("model", {"w": torch.ones(100, 10)}, 2000)
    assert len(files) > 2
    first, second, *rest = files
    with pytest.raises(CheckpointError, match=rf"{second} is missing"):
        files_of("model", [first, *rest])
    with pytest.raises(CheckpointError, match="w: some of its rows are in no file"):
        list(read_whole(ContentReader.of_bytes(bytes(files[name]), name) for name in (first, *rest)))


def test_a_limit_goes_down_to_what_the_store_takes_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"w": torch.ones(1000, 100)}
    takes = 50_000

    def upload(files: Mapping[str, Pieces | bytes]) -> list[int]:
        if (largest := max(map(len, files.values()))) > takes:
            raise ObjectTooLargeError(f"{largest} bytes are too many")
        return [len(data) for data in files.values()]

    limit = FileLimit()
    sizes = limit.write(lambda most: to_files("model", tensors, most), upload)
    assert len(sizes) > 8
    assert limit.bytes <= takes
    takes = 10
    with pytest.raises(ObjectTooLargeError):
        limit.write(lambda most: to_files("model", tensors, most), upload)
    monkeypatch.setenv("MORPHOGEN_FILE_BYTES", "20000")
    assert FileLimit().bytes == 20_000
    for wrong in ("many", "-3", "10", str(6 << 30)):
        monkeypatch.setenv("MORPHOGEN_FILE_BYTES", wrong)
        with pytest.raises(ConfigError, match=r"MORPHOGEN_FILE_BYTES = .*must be a number of bytes"):
            FileLimit()
