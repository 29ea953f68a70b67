"""schemathesis on every operation of the running service: no 5xx, every status and every body as described, enough of it served."""
from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st

from tests.server.live import Live

pytestmark = [pytest.mark.check, pytest.mark.needs("module:schemathesis"), pytest.mark.timeout(1800)]
EXAMPLES = 100
LEAST_GOOD = 0.3


@pytest.fixture(scope="module")
def described(live: Live) -> Any:
    schemathesis = pytest.importorskip("schemathesis")
    return schemathesis.openapi.from_url(f"{live.url}/openapi.json", headers={"Authorization": f"Bearer {live.key}"})


def statuses_of(operation: Any, mode: str, headers: dict[str, str]) -> Counter[int]:
    """How often the operation answered which status, every answer checked."""
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.core.errors import InvalidSchema
    from schemathesis.specs.openapi import checks as openapi

    @st.composite
    def cases(draw: Any) -> Any:
        try:
            return draw(operation.as_strategy(generation_mode=GenerationMode(mode)))
        except InvalidSchema:  # a description broken in such a way that schemathesis finds nothing that fits it
            reject()

    checks = [not_a_server_error, openapi.status_code_conformance, openapi.content_type_conformance, openapi.response_schema_conformance]
    seen: Counter[int] = Counter()

    @given(case=cases())
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None)
    def examples(case: Any) -> None:
        response = case.call(headers=headers, timeout=120)
        seen[response.status_code] += 1
        case.validate_response(response, headers=headers, checks=checks)

    examples()
    return seen


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_operation(described: Any, live: Live, mode: str) -> None:
    """positive: what the description allows; negative: what it forbids, and that is refused properly."""
    headers, statuses = {"Authorization": f"Bearer {live.key}"}, {}
    for operation in (result.ok() for result in described.get_all_operations()):
        if mode == "positive" or operation.path not in ("/healthz", "/readyz"):  # nothing could be wrong about a request for those
            statuses[f"{operation.method} {operation.path}"] = statuses_of(operation, mode, headers)
    print(*(f"{name}: {dict(seen)}" for name, seen in statuses.items()), sep="\n")
    everything = sum(statuses.values(), Counter())
    if mode == "positive":
        assert everything[200] >= LEAST_GOOD * everything.total()
        for name in ("post /chat/completions", "post /completions", "post /v1/messages"):
            assert statuses[name][200] >= LEAST_GOOD * statuses[name].total(), name
    else:
        assert {400, 422} <= set(everything)
