"""What the stand-ins for Google Cloud's services share: log-in, errors, and messages of the client's."""

import json
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from tests.stand_in import Answer, Request, StandIn


class GoogleService(StandIn):
    routes = (("POST", "/token", "give_token"),)

    def credentials_file(self, folder: Path) -> Path:
        """Write what a CI job logs in with, without a key: its own token is exchanged for one from here."""
        (folder / "job-token").write_text("of-the-job")
        described = {
            "type": "external_account",
            "audience": "ci",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"{self.url}/token",
            "credential_source": {"file": str(folder / "job-token")},
        }
        file = folder / "credentials.json"
        file.write_text(json.dumps(described))
        return file

    def error(self, status: int, message: str) -> Answer:
        return Answer({"error": {"code": status, "message": message}}, status)

    def give_token(self, request: Request) -> Answer:
        assert b"subject_token=of-the-job" in request.body
        token = {"access_token": "from-the-server", "expires_in": 3600, "token_type": "Bearer"}
        return Answer({**token, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"})


def read(message: Any, request: Request) -> Any:
    """Read a body into one of the client's messages; a field that it hasn't is refused, as by the server."""
    return message.wrap(json_format.Parse(request.body, message.pb(message())))


def written(message: Any) -> Answer:
    return Answer(type(message).to_json(message))
