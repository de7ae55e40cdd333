"""Schemathesis over the OpenAPI schema: no 5xx, no answer that the schema does not tell."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.serve.conftest import API, Site

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]


# Random names lead to 404 and no further, so half of the requests are about what is there.
KNOWN = {
    "params": {"name": "tiny", "selector": "1", "alias": "stable"},
    "datasets": {"name": "grids", "selector": "good", "alias": "good", "index": 0},
    "models": {"name": "language-model", "selector": "latest", "alias": "new", "filename": "config.json"},
    "runs": {"name": "language"},
}


def fuzz(site: Site, examples: int) -> int:
    """Try every operation with ``examples`` requests that fit the schema and as many that do not; returns how many."""
    schema = schemathesis.openapi.from_url(f"{site.servers[0].url}{API}/openapi.json")
    sent = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        sent += attempts(operation, GenerationMode.POSITIVE, examples)
        if operation.query or operation.headers or operation.body:
            sent += attempts(operation, GenerationMode.NEGATIVE, examples)
    return sent


def attempts(operation: schemathesis.schemas.APIOperation, mode: GenerationMode, examples: int) -> int:
    """Try one operation; returns how many requests were sent."""
    known = KNOWN.get(operation.path.removeprefix(f"{API}/").partition("/")[0], {})
    sent = 0

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=examples < 50,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), real=strategies.booleans())
    def attempt(case: schemathesis.Case, real: bool) -> None:
        nonlocal sent
        sent += 1
        if real and case.path_parameters:
            case.path_parameters |= {key: known[key] for key in case.path_parameters if key in known}
        case.call_and_validate(checks=CHECKS, timeout=120)

    attempt()
    return sent


def test_the_schema_is_true(open_site: Site):
    assert fuzz(open_site, 4) > 100


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_schema_is_true_at_length(open_site: Site):
    assert fuzz(open_site, 120) > 2_000
