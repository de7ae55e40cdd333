"""Every preset parses, is met often enough, and says in a comment what it is for."""

import pytest

from generator import SpecError, check_acceptance, list_presets, load_preset, preset_text, profile_spec


def test_the_presets_are_these():
    assert list_presets() == ["code", "lattice-small", "math", "paper", "tiny", "volume", "web-text"]


@pytest.mark.parametrize("name", list_presets())
def test_a_preset_is_usable_and_explained(name):
    check_acceptance(load_preset(name))
    assert preset_text(name).startswith("# ")


def test_an_unknown_preset_is_named():
    with pytest.raises(SpecError, match="'novel' is unknown; allowed are code"):
        load_preset("novel")


def test_profile_counts_every_candidate():
    found = profile_spec(load_preset("tiny"), 0, 300)
    assert sum(found["histogram"]["gzip-int32-v1"]["counts"]) == 300
    assert sum(found["periods"].values()) == pytest.approx(1)
    assert 0 < found["entropy_nats"]["within"] < found["entropy_nats"]["across"]
    assert 0.2 < found["accepted"] < 0.6
