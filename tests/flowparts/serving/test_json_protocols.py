"""Plain JSON, KServe's protocol V1, Vertex AI's and SageMaker's contracts: what they have in common."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.flowparts.serving.conftest import Server, same, train

ADDRESSES = ["/predict", "/v1/models/plans:predict", "/invocations"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_rows_get_the_offline_predictions(server: Server, records: Any, expected: Any, address: str) -> None:
    for count in (1, 40):
        status, body, headers = server.call(address, {"instances": records[:count]})
        assert status == 200, body
        same(body["predictions"], expected[:count])
        assert headers["content-type"] == "application/json"
        assert headers["date"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_rows_may_be_lists_in_the_order_of_the_columns(
    server: Server, records: Any, expected: Any, address: str
) -> None:
    lists = [list(record.values()) for record in records]
    assert list(records[0]) == ["size (cm)", "visits", "member", "town", "at", "born"]
    status, body, _ = server.call(address, {"instances": [*lists[:9], *records[9:]]})
    assert status == 200, body
    same(body["predictions"], expected)


def test_a_list_holds_null_for_a_column_that_an_object_may_leave_out(server: Server, records: Any) -> None:
    lacking = {name: value for name, value in records[1].items() if name != "size (cm)"}
    listed = [None, *lacking.values()]
    _, body, _ = server.call("/predict", {"instances": [lacking, listed]})
    assert body["predictions"][0] == body["predictions"][1]


def test_no_rows_get_no_predictions(server: Server) -> None:
    assert server.call("/predict", {"instances": []})[:2] == (200, {"predictions": []})


def test_columns_that_training_lacked_values_of_may_be_left_out_and_any_may_be_null(
    server: Server, records: Any
) -> None:
    lacking = {name: value for name, value in records[1].items() if name not in ("town", "size (cm)")}
    null = dict(records[1], town=None, **{"size (cm)": None})
    _, body, _ = server.call("/predict", {"instances": [lacking, null, dict.fromkeys(records[0])]})
    assert body["predictions"][0] == body["predictions"][1]
    assert len(body["predictions"]) == 3


def test_unknown_fields_are_ignored_unless_the_server_rejects_them(server: Server, records: Any) -> None:
    status, _, _ = server.call("/predict", {"instances": [records[0] | {"key": 7}], "parameters": {}})
    assert status == 200


def test_kserve_asks_which_models_there_are(server: Server) -> None:
    assert server.call("/v1/models")[:2] == (200, {"models": ["plans"]})
    assert server.call("/v1/models/plans")[:2] == (200, {"name": "plans", "ready": True})
    assert server.call("/")[:2] == (200, {"status": "alive"})
    status, body, _ = server.call("/v1/models/other")
    assert (status, list(body)) == (404, ["error"])


def test_a_regression_predicts_numbers(serve: Callable[..., Server], tmp_path: Path, records: Any) -> None:
    server = serve(train(tmp_path / "m", "regression"))
    status, body, _ = server.call("/predict", {"instances": records[:3]})
    assert status == 200
    assert [list(row) for row in body["predictions"]] == [["prediction"]] * 3
    assert all(isinstance(row["prediction"], float) for row in body["predictions"])
    answer = server.call("/invocations", b"", {"content-type": "text/csv", "accept": "text/csv"})
    assert answer[:2] == (200, b"")


def test_head_is_answered_without_a_body(server: Server) -> None:
    status, body, headers = server.call("/v2/health/ready", method="HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) == len(json.dumps({"ready": True}))
