"""The registry in process and the client from afar are told apart by nothing but their names."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest

from datalake import ParameterRegistry
from datalake.errors import Conflict, DatalakeError, InvalidNameError, NotFoundError, StoreUnavailableError
from datalake.registry.access import AccessError, RoleError
from datalake.registry.http_client import ApiError, RegistryClient, SpecRejectedError
from generator import parse_spec
from tests.ray_fixtures import free_port
from tests.serve.conftest import Site
from tests.serve.lake_content import SPEC

_numbers = itertools.count(1)


def full(**changes: object) -> dict:
    """A spec with all its fields, as a caller of the in-process registry gives it."""
    return parse_spec({**SPEC, **changes}).model_dump(mode="json")


@pytest.fixture(params=["in process", "client"])
def registry(request: pytest.FixtureRequest, any_site: Site):
    if request.param == "in process":
        yield any_site.lake.params
    else:
        with RegistryClient(any_site.servers[0].url, any_site.tokens["writer"]) as client:
            yield client


def test_the_client_has_every_method_of_the_registry():
    own = {name for name in vars(ParameterRegistry) if not name.startswith("_")}
    own -= {"put_once"}  # what the server calls for a client, whose own ``put`` is always done once
    assert own <= set(dir(RegistryClient))


def test_both_do_the_same(registry):
    name = f"both-{next(_numbers)}"
    first = registry.put(name, full(), "why", expect_version=0)
    assert (first.ref, first.message, first.digest) == (f"{name}@1", "why", parse_spec(SPEC).digest)
    assert first.spec == full()
    assert registry.put(name, full(), "again") == first
    assert registry.put(name, full(hidden=5), expect_version=1).version == 2
    assert registry.put(name, full(hidden=5), force=True).version == 3
    assert registry.tag(name, "stable", 2, expect=0).version == 2
    assert registry.aliases(name) == {"stable": 2}
    assert registry.get(f"{name}@stable") == registry.get(f"{name}@2")
    assert registry.get(name).version == registry.get(f"{name}@latest").version == 3
    assert [version.version for version in registry.history(name)] == [1, 2, 3]
    assert [change.path for change in registry.diff(f"{name}@1", f"{name}@stable")] == ["hidden"]
    assert first in [replace(version) for version in registry.history(name)]
    assert name in [version.name for version in registry.list()]
    assert list(registry.names()) == [version.name for version in registry.list()]
    assert list(registry.digests(name)) == [version.digest for version in registry.history(name)]
    looks = iter([False])
    told = list(registry.watch(name, after=0, interval=0.0, stop=lambda: next(looks, True)))
    assert [(change.what, change.version, change.alias) for change in told] == [
        ("version", 1, None),
        ("version", 2, None),
        ("version", 3, None),
        ("alias", 2, "stable"),
    ]
    assert list(registry.watch(name, stop=lambda: True)) == []


def failure(call) -> tuple[type, int, int, str]:
    """Class, both heads and message of the error that ``call`` raises."""
    with pytest.raises(DatalakeError) as caught:
        call()
    error = caught.value
    message = re.sub(r"both-\d+", "NAME", str(error))
    return type(error), getattr(error, "expected", -1), getattr(error, "found", -1), message


def test_both_raise_the_same(any_site: Site):
    name = f"both-{next(_numbers)}"
    any_site.lake.params.put(name, full())
    any_site.lake.params.tag(name, "stable", 1)
    calls = [
        lambda registry: registry.put(name, full(hidden=5), expect_version=7),
        lambda registry: registry.put(name, full(hidden=5), expect_version=0),
        lambda registry: registry.get("both-0"),
        lambda registry: registry.get(f"{name}@9"),
        lambda registry: registry.get(f"{name}@nothing"),
        lambda registry: registry.get("../up"),
        lambda registry: registry.put("a/b", full()),
        lambda registry: registry.history("both-0"),
        lambda registry: registry.aliases("both-0"),
        lambda registry: registry.tag(name, "latest", 1),
        lambda registry: registry.tag(name, "other", 2),
        lambda registry: registry.tag(name, "stable", 1, expect=0),
        lambda registry: registry.tag(name, "new", 1, expect=1),
        lambda registry: registry.diff(name, f"{name}@8"),
    ]
    kinds = set()
    with RegistryClient(any_site.servers[0].url, any_site.tokens["writer"]) as client:
        for call in calls:
            here = failure(lambda call=call: call(any_site.lake.params))
            there = failure(lambda call=call: call(client))
            if not any_site.lake.uri.startswith("s3://"):  # where a server's lake lies on its disk is not told
                assert any_site.lake.uri not in there[3]
                here = (*here[:3], here[3].replace(any_site.lake.uri, "LAKE"))
            assert there == here
            kinds.add(here[0])
    assert kinds == {Conflict, NotFoundError, InvalidNameError}


def test_the_client_says_why_it_may_not(site: Site):
    url = site.servers[0].url
    with RegistryClient(url, site.tokens["reader"]) as client:
        assert client.get("tiny@1").version == 1
        with pytest.raises(RoleError, match="reader"):
            client.put("tiny", full())
    with RegistryClient(url, "mg_" + "0" * 12 + "_" + "0" * 64) as client, pytest.raises(AccessError):
        client.list()
    with RegistryClient(url, site.tokens["writer"]) as client:
        with pytest.raises(SpecRejectedError, match="colors"):
            client.put("refused", full() | {"colors": 1})
        with pytest.raises(ApiError):
            client.put("refused", full(), message="x" * 3000)
    for address in ("ftp://x", "http://user:secret@x", "nothing"):
        with pytest.raises(InvalidNameError) as caught:
            RegistryClient(address)
        assert "secret" not in str(caught.value)


def test_a_server_that_is_gone_is_named():
    system = replace(RegistryClient("http://127.0.0.1:1")._system, sleep=lambda _seconds: None)
    with (
        RegistryClient(f"http://127.0.0.1:{free_port()}", system=system) as client,
        pytest.raises(StoreUnavailableError, match="morphogen serve"),
    ):
        client.list()
