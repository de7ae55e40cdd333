"""Settings in TOML: what editors put into files is read, and what is no TOML is refused in one line that names it."""

from pathlib import Path

import pytest

from orchestration.errors import ExperimentError, InvalidRequestError
from orchestration.experiment.config.load import load_experiment
from orchestration.toml_files import MAX_BYTES, read_toml

SPEC = b'family = "nca"\ngrid = [4, 4]\n'


@pytest.mark.parametrize("data", [SPEC, b"\xef\xbb\xbf" + SPEC, SPEC.replace(b"\n", b"\r\n")])
def test_a_file_is_read_with_or_without_a_mark(tmp_path, data):
    (tmp_path / "spec.toml").write_bytes(data)
    assert read_toml(tmp_path / "spec.toml") == {"family": "nca", "grid": [4, 4]}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (SPEC.decode().encode("utf-16"), "is UTF-16 by its byte order mark; save the file as UTF-8"),
        (SPEC.decode().encode("utf-32"), "is UTF-32 by its byte order mark"),
        ('name = "größe"'.encode("latin-1"), "is not UTF-8 at byte 10"),
        (b"deep = " + b"[" * 100_000 + b"]" * 100_000, "is nested too deeply"),
        (b".".join([b"a"] * 2000) + b" = 1", "is nested deeper than 64 levels"),
        (b"seed = " + b"1" * 5000, "is not TOML .*4300 digits"),
        (b"seed = ", "is not TOML"),
        (b"#" * (MAX_BYTES + 1), "is larger than 4 MiB"),
        (None, "cannot be read"),
    ],
    ids=["utf-16", "utf-32", "latin-1", "deep", "dotted", "digits", "torn", "large", "missing"],
)
def test_what_is_no_settings_file_is_named_in_one_line(tmp_path: Path, data, says):
    path = tmp_path / "spec.toml"
    if data is not None:
        path.write_bytes(data)
    for read, error in ((read_toml, InvalidRequestError), (load_experiment, ExperimentError)):
        with pytest.raises(error, match=f"spec.toml: {says}") as raised:
            read(path)
        assert "\n" not in str(raised.value)
