"""One small site per module: its Ray and its S3 server are there to be broken, so nobody else's are used."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.world import World, world


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("site")) as started:
        yield started
