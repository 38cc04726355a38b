"""Columns and classes may have any name, also one that JSON has to escape."""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from flowparts import models
from flowparts.evaluate import serving_check
from flowparts.models import agreement
from tests.flowparts.serving.conftest import Server, rows, same, start, train, wait
from tests.flowparts.serving.test_metrics import samples

NAMES = {"size (cm)": "size\n(cm)", "visits": 'a "q" col', "town": "back\\slash", "at": "at\ttime"}
CLASSES = {"basic": 'in "A"', "pro": "out\\B"}


def odd_rows() -> pl.DataFrame:
    return rows().rename(NAMES).with_columns(pl.col("plan").replace(CLASSES))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("odd") / "m", table=odd_rows())


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log")


@pytest.fixture(scope="module")
def odd_server(odd: Path, log: Path) -> Iterator[Server]:
    options = ("--name=plans", "--unknown-fields=reject", f"--prediction-log={log}")
    server = wait(start(odd, *options))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def sent() -> list[dict[str, Any]]:
    return agreement.to_records(odd_rows().drop("plan", "amount").head(40))


@pytest.fixture(scope="module")
def wanted(odd: Path) -> list[dict[str, Any]]:
    return models.load(odd).predict(odd_rows().head(40)).to_dicts()


def test_rows_as_json_get_the_offline_predictions(
    odd_server: Server, sent: list[dict[str, Any]], wanted: list[dict[str, Any]]
) -> None:
    assert list(wanted[0]) == ["prediction", 'probability_in "A"', "probability_out\\B"]
    rows = [*sent[:20], *(list(record.values()) for record in sent[20:])]
    status, body, _ = odd_server.call("/predict", {"instances": rows})
    assert status == 200, body
    same(body["predictions"], wanted)
    lacking = {name: value for name, value in sent[0].items() if name != "size\n(cm)"}
    same(odd_server.call("/predict", {"instances": [lacking]})[1]["predictions"], wanted[:1])


@pytest.mark.parametrize("header", [True, False])
def test_rows_as_csv_get_the_offline_predictions(
    odd_server: Server, sent: list[dict[str, Any]], wanted: list[dict[str, Any]], header: bool
) -> None:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(sent[0]))
    if header:
        writer.writeheader()
    writer.writerows(sent)
    status, body, _ = odd_server.call("/invocations", out.getvalue().encode(), {"content-type": "text/csv"})
    assert status == 200, body
    same(body["predictions"], wanted)


@pytest.mark.parametrize("library", [over_http, over_grpc])
def test_tensors_get_the_offline_predictions(
    odd_server: Server, sent: list[dict[str, Any]], wanted: list[dict[str, Any]], library: Any
) -> None:
    port = odd_server.port if library is over_http else odd_server.grpc_port
    with library.InferenceServerClient(f"127.0.0.1:{port}") as client:
        options = {"as_json": True} if library is over_grpc else {}
        described = client.get_model_metadata("plans", **options)
        assert [column["name"] for column in described["inputs"]] == list(sent[0])
        inputs = []
        for column in described["inputs"]:
            values = [record[column["name"]] for record in sent]
            dtype = {"FP64": np.float64, "BOOL": np.bool_, "BYTES": np.object_}[column["datatype"]]
            missing: Any = np.nan if dtype is np.float64 else ""
            array = np.array([missing if value is None else value for value in values], dtype)
            inputs.append(library.InferInput(column["name"], [len(sent)], column["datatype"]))
            inputs[-1].set_data_from_numpy(array)
        result = client.infer("plans", inputs)
    assert [value.decode() for value in result.as_numpy("prediction")] == [
        row["prediction"] for row in wanted
    ]
    found = result.as_numpy('probability_in "A"')
    np.testing.assert_allclose(found, [row['probability_in "A"'] for row in wanted], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({'a "q" col': "x"}, 'instances[1].a "q" col must be a number or null, not text'),
        ({"back\\slash": 7}, "instances[1].back\\slash must be text or null, not a whole number"),
        ({"other": 1}, "instances[1] has a field that the model doesn't know: 'other'"),
        ({"at\ttime": ...}, "instances[1] lacks the field 'at\\ttime'"),
    ],
    ids=["number", "text", "unknown", "left out"],
)
def test_rows_that_do_not_fit_get_the_usual_errors(
    odd_server: Server, sent: list[dict[str, Any]], change: dict[str, Any], message: str
) -> None:
    row = {name: value for name, value in (sent[1] | change).items() if value is not ...}
    status, body, _ = odd_server.call("/predict", {"instances": [sent[0], row]})
    assert (status, body["error"]) == (400, message)


def test_numbers_beyond_floating_point_are_refused(odd_server: Server, sent: list[dict[str, Any]]) -> None:
    for number in ("1e400", "1" + "0" * 400):
        body = json.dumps({"instances": [sent[0] | {'a "q" col': 77777}]}).replace("77777", number)
        status, answer, _ = odd_server.call("/predict", body.encode())
        assert status == 400
        assert "out of range" in answer["error"]


def test_the_document_and_the_page_have_the_names(
    odd_server: Server, sent: list[dict[str, Any]], browser: Any
) -> None:
    document = odd_server.call("/openapi.json")[1]
    schemas = document["components"]["schemas"]
    assert list(schemas["Row"]["properties"]) == list(sent[0])
    assert schemas["Row"]["properties"]["back\\slash"]["anyOf"] == [{"type": "string"}, {"type": "null"}]
    assert sorted(schemas["Row"]["required"]) == sorted(['a "q" col', "at\ttime", "born", "member"])
    assert schemas["Row"]["additionalProperties"] is False
    outputs = ["prediction", 'probability_in "A"', "probability_out\\B"]
    assert list(schemas["Prediction"]["properties"]) == outputs
    assert schemas["Prediction"]["required"] == outputs
    example = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert odd_server.call("/predict", example)[0] == 200
    browser.get(f"{odd_server.url}/docs")
    text = browser.find_element(By.TAG_NAME, "body").text
    for name in ('a "q" col', "back\\slash", 'probability_in "A"'):
        assert name in text
    browser.find_element(By.ID, "send").click()
    answer = browser.find_element(By.ID, "answer")
    WebDriverWait(browser, 10).until(lambda _: answer.text)
    assert answer.text.startswith("200 ")


def test_the_metrics_have_the_classes(odd_server: Server, sent: list[dict[str, Any]]) -> None:
    odd_server.call("/predict", {"instances": sent})
    found = samples(odd_server.call("/metrics")[1].decode())
    assert {name for name in found if re.match("flowparts_predictions_total", name)} == {
        f"flowparts_predictions_total{{class={name}}}" for name in CLASSES.values()
    }


def test_the_serving_check_finds_that_it_serves(odd: Path) -> None:
    verdict = serving_check.check(odd, odd_rows(), timeout_seconds=60)
    assert verdict.servable, verdict.reason


# Last, since the log is written when the server stops.
def test_the_prediction_log_has_the_names(
    odd_server: Server, log: Path, sent: list[dict[str, Any]], wanted: list[dict[str, Any]]
) -> None:
    odd_server.call("/v1/models/plans:predict", {"instances": sent})
    assert odd_server.stop() == 0
    found = pl.read_parquet(log / "**/*.parquet", hive_partitioning=False).filter(protocol="v1")
    assert found.select(NAMES["visits"], NAMES["town"]).rows() == [
        (record[NAMES["visits"]], record[NAMES["town"]]) for record in sent
    ]
    assert found['probability_in "A"'].to_list() == pytest.approx(
        [row['probability_in "A"'] for row in wanted], abs=1e-5
    )
