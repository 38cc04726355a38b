"""The server's OpenAPI document, derived from the model's signature, and a page to read it and try it out."""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from typing import Any

import msgspec

import flowparts
from flowparts.serving.served_model import ServedModel

_ANSWERS = {
    "400": "The body is malformed or doesn't fit the model's signature.",
    "408": "The body took too long to arrive.",
    "413": "The body is too large.",
    "415": "The content type of the body isn't supported.",
    "429": "Too many rows are waiting; send the request again later.",
    "500": "The model failed.",
    "504": "There was no prediction in time.",
}


def document(model: ServedModel, needs_token: bool) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.0)."""
    signature: Any = model.signature
    (request, response), schemas = msgspec.json.schema_components(
        [signature.request_type, signature.response_type], ref_template="#/components/schemas/{name}"
    )
    _name(schemas["Row"], list(signature.features))
    _name(schemas["Prediction"], signature.outputs)
    schemas["Error"] = {
        "type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"],
    }  # fmt: skip
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    timeout = {
        "name": "X-Request-Timeout-Ms", "in": "header", "required": False,
        "description": "Milliseconds after which the client no longer needs the prediction.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
    }  # fmt: skip
    answers = _ANSWERS | ({"401": "The token is missing or wrong."} if needs_token else {})

    def operation(summary: str, name: str) -> dict[str, Any]:
        responses: dict[str, Any] = {
            "200": {"description": "A prediction for each row.",
                    "content": {"application/json": {"schema": response}}}
        }  # fmt: skip
        responses |= {code: {"description": text, "content": error} for code, text in answers.items()}
        body = {"schema": request, "example": {"instances": model.example[:1]}}
        return {
            "post": {
                "summary": summary, "operationId": name, "parameters": [timeout], "responses": responses,
                "requestBody": {"required": True, "content": {"application/json": body}},
            }
        }  # fmt: skip

    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": model.name,
            "version": model.version,
            "description": f"A {model.engine.task} model, served by flowparts {flowparts.__version__} "
            f"with the engine {model.engine.name}.",
        },
        "paths": {
            "/predict": operation("Predict", "predict"),
            f"/v1/models/{model.name}:predict": operation("Predict, by KServe's protocol V1", "predict_v1"),
            "/invocations": operation("Predict, by SageMaker's contract", "invocations"),
            "/v2/health/live": _check("Whether the server is alive", "live", {}),
            "/v2/health/ready": _check("Whether it is ready to predict", "ready", {"503": "It can't."}),
        },
        "components": {"schemas": schemas},
    }
    if needs_token:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path in found["paths"].values():
            for each in path.values():
                each["security"] = [{"token": []}] if "requestBody" in each else []
    return found


def page(model: ServedModel) -> bytes:
    """Return a self-contained HTML page with the columns, and an example request to edit and send."""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(kind)}</td>"
        f"<td>{'may be left out' if name in model.signature.optional else 'needed; may be null'}</td></tr>"
        for name, kind in model.signature.features.items()
    )
    example = html.escape(json.dumps({"instances": model.example[:1]}, indent=2, ensure_ascii=False))
    outputs = ", ".join(html.escape(name) for name in model.signature.outputs)
    return _PAGE.format(
        name=html.escape(model.name), version=html.escape(model.version), engine=model.engine.name,
        task=html.escape(model.engine.task), rows=rows, example=example, outputs=outputs,
    ).encode()  # fmt: skip


def _name(schema: dict[str, Any], names: Sequence[str]) -> None:
    """Set the names of an object's properties, which its type's fields can't always have."""
    named = dict(zip(schema["properties"], names, strict=True))
    schema["properties"] = {named[field]: described for field, described in schema["properties"].items()}
    schema["required"] = [named[field] for field in schema["required"]]


def _hash(page: str) -> str:
    """Return a page's script as a content security policy names it."""
    script = page.partition("<script>")[2].partition("</script>")[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _check(summary: str, name: str, further: dict[str, str]) -> dict[str, Any]:
    responses = {"200": "It does." if not further else "It can."} | further
    return {
        "get": {
            "summary": summary,
            "operationId": name,
            "responses": {
                code: {"description": text, "content": {"application/json": {"schema": {"type": "object"}}}}
                for code, text in responses.items()
            },
        }
    }


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{name}</title><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1b1f24;
  max-width: 50rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
td, th {{ text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #d8dee4 }}
textarea, pre {{ width: 100%; box-sizing: border-box; font: 14px/1.4 ui-monospace, monospace; padding: .6rem;
  border: 1px solid #8c959f; border-radius: 4px; background: #f6f8fa; overflow-x: auto }}
button {{ font: inherit; padding: .4rem 1.2rem; margin: .6rem 0 }}
</style></head><body>
<h1>{name}</h1>
<p>A {task} model, version {version}, engine {engine}. It answers with {outputs}.
The machine-readable description is <a href="openapi.json">openapi.json</a>.</p>
<h2>Columns</h2>
<table><thead><tr><th>column</th><th>type</th><th></th></tr></thead><tbody>{rows}</tbody></table>
<h2>Try it</h2>
<label for="body">POST predict</label>
<textarea id="body" rows="14">{example}</textarea>
<button id="send">Send</button>
<pre id="answer" aria-live="polite"></pre>
<script>
document.getElementById("send").onclick = async () => {{
  const answer = document.getElementById("answer");
  const headers = {{"content-type": "application/json"}};
  try {{
    const token = sessionStorage.getItem("token");
    if (token) headers.authorization = "Bearer " + token;
    const body = document.getElementById("body").value;
    const response = await fetch("predict", {{method: "POST", headers, body}});
    answer.textContent = response.status + " " + JSON.stringify(await response.json(), null, 2);
  }} catch (error) {{ answer.textContent = error; }}
}};
</script>
</body></html>
"""

# Shown instead of the page until the user has entered the token.
TOKEN_PAGE = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Token</title><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width">
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24;
  max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
</style>
</head><body>
<form id="form"><label for="token">The server's token</label>
<input id="token" type="password" autocomplete="off" required> <button id="open">Open</button></form>
<p id="answer" role="status"></p>
<script>
document.getElementById("form").onsubmit = async (event) => {
  event.preventDefault();
  const answer = document.getElementById("answer");
  const token = document.getElementById("token").value;
  try {
    const response = await fetch("docs", {headers: {authorization: "Bearer " + token}});
    const page = await response.text();
    if (!response.ok) { answer.textContent = "The server takes another token."; return; }
    sessionStorage.setItem("token", token);
    document.open();
    document.write(page);
    document.close();
  } catch (error) { answer.textContent = error; }
};
</script>
</body></html>
"""

# Only the pages' own scripts run; the token page is replaced by the other page under its own policy.
CONTENT_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'; "
    f"img-src data:; style-src 'unsafe-inline'; "
    f"script-src {_hash(_PAGE.replace('{{', '{').replace('}}', '}'))} {_hash(TOKEN_PAGE.decode())}"
).encode()
