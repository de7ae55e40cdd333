"""Sequences do not change unless GENERATOR_VERSION does."""

import json
from pathlib import Path

from tests.generator.golden_specs import digests

GOLDEN = Path(__file__).parents[1] / "golden" / "generator_digests.json"


def test_twenty_specs_give_the_bytes_they_always_gave():
    kept = json.loads(GOLDEN.read_text())
    assert len(kept["sha256"]) >= 20
    assert digests() == kept, "raise GENERATOR_VERSION and write the file anew, or undo the change"
