"""A stand-in for Secret Manager's REST API, and for the server that gives tokens to service accounts."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt

from flowparts.util import secrets

TOKEN = "projects/p/secrets/token/versions/3"
VALUE = "s3cr3t-value-that-must-not-show"
AUDIENCE = "https://oauth2.googleapis.com/token"


class SecretManager(ThreadingHTTPServer):
    """Gives access tokens for signed requests and, with a token, secrets."""

    daemon_threads = True

    def __init__(self, public_key: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.public_key = public_key
        self.held: dict[str, bytes] = {TOKEN: VALUE.encode()}
        self.failures = 0  # requests still to be answered with 503
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self, account: Path) -> dict[str, str]:
        """Give what a step finds: its credentials, and a variable that refers to a secret."""
        return {
            "GOOGLE_APPLICATION_CREDENTIALS": str(account),
            secrets.ENDPOINT: self.url,
            "MY_TOKEN": secrets.SCHEME + TOKEN,
            "PLAIN": "as it is",
        }


class Handler(BaseHTTPRequestHandler):
    server: SecretManager

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        claims = jwt.decode(form["assertion"][0], self.server.public_key, audience=AUDIENCE)
        assert claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
        self.answer(200, {"access_token": "granted", "expires_in": 3600, "token_type": "Bearer"})

    def do_GET(self) -> None:
        name = self.path.removeprefix("/v1/").removesuffix(":access")
        if self.headers.get("Authorization") != "Bearer granted":
            self.refuse(401, "Request had invalid authentication credentials.")
        elif self.server.failures:
            self.server.failures -= 1
            self.refuse(503, "The service is currently unavailable.")
        elif name not in self.server.held:
            self.refuse(403, f"Permission 'secretmanager.versions.access' denied for resource '{name}'.")
        else:
            data = base64.b64encode(self.server.held[name]).decode()
            self.answer(200, {"name": name, "payload": {"data": data}})

    def refuse(self, status: int, message: str) -> None:
        self.answer(status, {"error": {"code": status, "message": message}})

    def answer(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(account: Path) -> Iterator[SecretManager]:
    """Run the stand-in, and write the key of a service account to a file."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with SecretManager(public) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        held = {
            "type": "service_account",
            "client_email": "step@p.iam.gserviceaccount.com",
            "private_key": private.decode(),
            "token_uri": f"{server.url}/token",
        }
        account.write_text(json.dumps(held))
        yield server
        server.shutdown()
