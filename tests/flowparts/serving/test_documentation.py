"""The OpenAPI document says what the server does, and the server does no more and no less."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.flowparts.serving.conftest import Server


def test_the_document_holds_the_columns_with_their_types(server: Server) -> None:
    document = server.call("/openapi.json")[1]
    row = document["components"]["schemas"]["Row"]
    kinds = {name: [part["type"] for part in column["anyOf"]] for name, column in row["properties"].items()}
    assert kinds == {
        "size (cm)": ["number", "null"], "visits": ["number", "null"], "member": ["boolean", "null"],
        "town": ["string", "null"], "at": ["string", "null"], "born": ["string", "null"],
    }  # fmt: skip
    assert set(row["required"]) == {"visits", "member", "at", "born"}
    example = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert server.call("/predict", example)[0] == 200


# Schemathesis and hypothesis warn about themselves.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", ["/predict", "/v1/models/plans:predict", "/invocations"])
def test_made_up_requests_get_what_the_document_promises(server: Server, path: str) -> None:
    schema = schemathesis.openapi.from_dict(server.call("/openapi.json")[1])
    operation = schema[path]["POST"]
    modes = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
    statuses = set()

    for mode in modes:

        @settings(
            max_examples=60, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            answer = case.call(base_url=server.url, timeout=20)
            statuses.add(answer.status_code)
            assert answer.status_code < 500
            if answer.status_code >= 400:
                assert isinstance(answer.json()["error"], str)
            assert str(answer.status_code) in {"404", "405", *operation.definition.raw["responses"]}

        check()
    assert 200 in statuses


def test_a_person_can_read_and_try_it(server: Server, browser: Any) -> None:
    browser.get(f"{server.url}/docs")
    assert "plans" in browser.title
    text = browser.find_element(By.TAG_NAME, "body").text
    for name in ("size (cm)", "visits", "may be left out", "probability_pro"):
        assert name in text
    browser.find_element(By.ID, "send").click()
    answer = browser.find_element(By.ID, "answer")
    WebDriverWait(browser, 10).until(lambda _: answer.text)
    assert answer.text.startswith("200 ")
    assert '"prediction"' in answer.text
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_a_person_with_the_token_can_read_and_try_it(
    serve: Callable[..., Server], model: Path, browser: Any
) -> None:
    server = serve(model, environment={"FLOWPARTS_SERVING_TOKEN": "geheim"})
    browser.get(f"{server.url}/docs")
    assert "visits" not in browser.page_source
    wait = WebDriverWait(browser, 10, ignored_exceptions=[WebDriverException])
    field = browser.find_element(By.ID, "token")
    field.send_keys("falsch", Keys.ENTER)
    wait.until(lambda found: "another token" in found.find_element(By.ID, "answer").text)
    field.clear()
    field.send_keys("geheim", Keys.ENTER)
    wait.until(lambda found: found.title == "model")
    wait.until(lambda found: found.find_element(By.ID, "send")).click()
    wait.until(lambda found: found.find_element(By.ID, "answer").text)
    assert browser.find_element(By.ID, "answer").text.startswith("200 ")
    # The refusals stand in there, and the browser is the other tests' too.
    browser.get_log("browser")
