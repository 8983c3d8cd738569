"""The service holds to its own description, whatever is thrown at it."""

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance
from schemathesis.specs.openapi.checks import status_code_conformance as documented_status

CHECKS: list[Any] = [not_a_server_error, documented_status, content_type_conformance, response_schema_conformance]

described = schemathesis.pytest.from_fixture("description")


@pytest.fixture(scope="module")
def description(served: httpx.Client) -> Any:
    return schemathesis.openapi.from_url(f"{served.base_url}/docs.json")


@described.include(path=["/classify", "/read", "/feedback"]).parametrize()
@settings(max_examples=350, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_is_described(case: Any) -> None:
    case.call_and_validate(checks=CHECKS)


@described.exclude(path=["/classify", "/read", "/feedback"]).parametrize()
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_asked_for_without_a_body_answers_as_described(case: Any) -> None:
    case.call_and_validate(checks=CHECKS)
