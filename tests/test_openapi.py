"""The service holds to its own description, whatever is thrown at it."""

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance
from schemathesis.specs.openapi.checks import status_code_conformance as documented_status

from serving import openapi

CHECKS: list[Any] = [not_a_server_error, documented_status, content_type_conformance, response_schema_conformance]
WITH_BODY = [route for route in openapi.ROUTES if route.request]


@pytest.fixture(scope="module")
def operations(served: httpx.Client) -> dict[str, Any]:
    schema = schemathesis.openapi.from_url(f"{served.base_url}/docs.json")
    return {found.ok().path: found.ok() for found in schema.get_all_operations()}


def hold_to_description(operation: Any, examples: int, mode: GenerationMode = GenerationMode.POSITIVE) -> None:
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(mode))
    def hold(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    hold()


@pytest.mark.parametrize("route", openapi.ROUTES, ids=lambda route: route.path)
def test_every_answer_is_one_that_is_described(operations: dict[str, Any], route: openapi.Route) -> None:
    hold_to_description(operations[route.path], 30 if route.request else 3)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
@pytest.mark.parametrize("route", WITH_BODY, ids=lambda route: route.path)
def test_so_is_every_one_of_two_thousand(
    operations: dict[str, Any], route: openapi.Route, mode: GenerationMode
) -> None:
    """Of requests that the description allows, and of those that it does not."""
    hold_to_description(operations[route.path], 350, mode)


def test_no_route_is_left_out(operations: dict[str, Any]) -> None:
    assert set(operations) == {route.path for route in openapi.ROUTES}
