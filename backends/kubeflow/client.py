"""kfp's client of Kubeflow Pipelines, with timeouts and one-line errors."""

import contextlib
import dataclasses
import io
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import urllib3
from kfp.client import KF_PIPELINES_SA_TOKEN_PATH
from kfp.client.client import Client
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials
from kfp_server_api.api_client import ApiClient
from kfp_server_api.exceptions import ApiException
from kfp_server_api.models.v2beta1_get_healthz_response import V2beta1GetHealthzResponse

from backends import faults
from backends.profiles import Kubeflow
from flowparts.util.shortening import shorten

# To connect, and to wait for an answer.
TIMEOUT_SECONDS = (10, 60)
_IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
_HINTS = {
    401: "set FLOWPARTS_TOKEN or FLOWPARTS_COOKIE anew, as docs/kubeflow.md says; both expire",
    403: "ask for the role kubeflow-edit in the namespace, or set the namespace that is yours",
    404: "check the endpoint; it ends where /apis would follow",
}
# The server also answers 500 for these permanent errors.
_LASTING = re.compile(
    r"not found|Invalid input|BadRequestError|failed to resolve|Failed to validate workflow"
)
_Answer = TypeVar("_Answer")


class KubeflowClient:
    """Sends requests to Kubeflow Pipelines, with retries.

    Attributes:
        endpoint: The server's address.
        api: kfp's client.
    """

    def __init__(self, settings: Kubeflow, environment: Mapping[str, str] = os.environ) -> None:
        """Connect.

        Args:
            settings: Settings with the endpoint.
            environment: FLOWPARTS_TOKEN (bearer token) or FLOWPARTS_COOKIE (of a session behind Dex or
                another OIDC log-in); without them the pod's projected token is used, or none, as behind
                kubectl port-forward.

        Raises:
            ValueError: There is no endpoint.
        """
        in_cluster = "KUBERNETES_SERVICE_HOST" in environment
        self.endpoint = (settings.endpoint or (_IN_CLUSTER if in_cluster else "")).rstrip("/")
        if not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(
                f"endpoint {settings.endpoint!r} must be the address of Kubeflow Pipelines, such as "
                "http://localhost:8080; give --endpoint, FLOWPARTS_ENDPOINT or a profile in flowparts.toml"
            )
        token_file = environment.get("KF_PIPELINES_SA_TOKEN_PATH", KF_PIPELINES_SA_TOKEN_PATH)
        projected = not environment.get("FLOWPARTS_TOKEN") and Path(token_file).is_file()
        self.api = _Client(
            host=self.endpoint,
            namespace=settings.namespace or None,
            existing_token=environment.get("FLOWPARTS_TOKEN"),
            cookies=environment.get("FLOWPARTS_COOKIE"),
            credentials=ServiceAccountTokenVolumeCredentials(token_file) if projected else None,
            ssl_ca_cert=settings.ca_certificate or None,
        )

    def ask(
        self,
        ask: Callable[[], _Answer],
        made: Callable[[], _Answer | None] | None = None,
        starts: bool = False,
    ) -> _Answer:
        """Send a request with retries; see `faults.with_retries`.

        Args:
            ask: Sends the request.
            made: Looks for the object of an earlier attempt.
            starts: Whether the request starts a workflow. After a 500 the server may have started it without
                recording the run, so a retry would do the work twice.
        """

        def fault_of(error: Exception) -> faults.Fault | None:
            fault = self._fault(error)
            if starts and fault and fault.status == 500 and fault.transient:
                sentence = f"{fault.message.partition('; try again')[0]}; its workflow may run all the same: "
                return dataclasses.replace(
                    fault,
                    transient=False,
                    message=sentence + "look into the cluster before you start it again",
                )
            return fault

        # The client prints links to the objects that it creates.
        with contextlib.redirect_stdout(io.StringIO()):
            return faults.with_retries(ask, fault_of, made)

    def read(self, path: str) -> Any:
        """Get JSON from a path without a method in kfp's client.

        Raises:
            faults.Fault: It doesn't exist, or there is no answer.
        """
        return self.ask(lambda: self._get(path, {}))

    def read_log(self, path: str, **query: str) -> Any:
        """Get a path with a log: parsed JSON, else text.

        Raises:
            faults.Fault: It doesn't exist. There are no retries, because a deleted pod is a 500, too.
        """
        try:
            return self._get(path, query)
        except Exception as error:
            if fault := self._fault(error):
                raise fault from None
            raise

    def _get(self, path: str, query: Mapping[str, str]) -> Any:
        return self.api.api_client.call_api(
            path,
            "GET",
            query_params=list(query.items()),
            auth_settings=["Bearer"],
            response_type="object",
            _return_http_data_only=True,
        )

    def _fault(self, error: Exception) -> faults.Fault | None:
        service = f"Kubeflow Pipelines at {self.endpoint}"
        if isinstance(error, ApiException) and error.status:
            said = _said(error.body or error.reason)
            fault = faults.from_status(service, error.status, said, _HINTS)
            if error.status == 500 and _LASTING.search(said):
                hint = (
                    "; Argo evaluates {{…}} in parameters and in components' source: take it out"
                    if "failed to resolve" in said
                    else ""
                )
                sentence = f"{service} refused the request (500): {' '.join(said.split()).rstrip('.')}{hint}"
                return faults.Fault(sentence, 500)
            return fault
        if isinstance(error, _LogInPageError):
            return faults.from_status(service, 401, "it sent its log-in page", _HINTS)
        cause = (
            getattr(error, "reason", error) if isinstance(error, urllib3.exceptions.MaxRetryError) else error
        )
        if isinstance(cause, urllib3.exceptions.SSLError | ApiException):
            return faults.Fault(f"{service} has no certificate to trust: {cause}; give --ca-certificate")
        if isinstance(cause, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError):
            return faults.Fault(
                f"{service} can't be reached; is the address right, and kubectl port-forward running?",
                transient=True,
            )
        if isinstance(cause, urllib3.exceptions.HTTPError):
            return faults.Fault(
                f"{service} gave no answer ({type(cause).__name__}); try again, and see what it has done",
                transient=True,
                may_be_done=True,
            )
        return None


class _LogInPageError(Exception):
    """The server answered with an HTML page."""


class _Client(Client):
    """The client with a timeout for every request, and without its own retries."""

    def __init__(self, **given: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # only servers of version 2 are supported
            super().__init__(**given)
        self.api_client: ApiClient = self._run_api.api_client
        rest = self.api_client.rest_client
        request = rest.request

        def limited(*args: Any, **more: Any) -> Any:
            answer = request(*args, **{**more, "_request_timeout": TIMEOUT_SECONDS})
            # Behind an OIDC log-in, unknown users are redirected to an HTML page with a success status.
            if "text/html" in answer.urllib3_response.headers.get("content-type", ""):
                raise _LogInPageError
            return answer

        rest.request = limited

    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:  # noqa: ARG002 the client's own signature
        """Return without a request: the client would try five times and log a traceback each."""
        return V2beta1GetHealthzResponse(multi_user=False)

    def _load_config(self, *given: Any) -> Any:
        config = super()._load_config(*given)
        # Retries are decided by the caller, who knows what the request does.
        config.retries = urllib3.Retry(0, redirect=5)
        return config


def _said(body: str) -> str:
    """Return the message in an error's body, which is JSON unless it comes from a gateway."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return shorten(body, 300)
    if not isinstance(parsed, dict):
        return body
    return str(parsed.get("message") or parsed.get("error_message") or parsed.get("error") or body)
