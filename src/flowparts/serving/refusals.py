"""The reasons for refusing a request, each with its HTTP status and gRPC code."""

from http import HTTPStatus

REASONS = {
    "malformed": (HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT"),
    "signature": (HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT"),
    "too_many_rows": (HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT"),
    "unauthorized": (HTTPStatus.UNAUTHORIZED, "UNAUTHENTICATED"),
    "not_found": (HTTPStatus.NOT_FOUND, "NOT_FOUND"),
    "method": (HTTPStatus.METHOD_NOT_ALLOWED, "UNIMPLEMENTED"),
    "slow": (HTTPStatus.REQUEST_TIMEOUT, "DEADLINE_EXCEEDED"),
    "too_large": (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "RESOURCE_EXHAUSTED"),
    "content_type": (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "INVALID_ARGUMENT"),
    "busy": (HTTPStatus.TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED"),
    "failed": (HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL"),
    "not_implemented": (HTTPStatus.NOT_IMPLEMENTED, "UNIMPLEMENTED"),
    "draining": (HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE"),
    "stuck": (HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE"),
    "deadline": (HTTPStatus.GATEWAY_TIMEOUT, "DEADLINE_EXCEEDED"),
    "version": (HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "UNIMPLEMENTED"),
    # The client has gone; this status, nginx' own, only appears in metrics.
    "cancelled": (499, "CANCELLED"),
}


class RequestError(Exception):
    """A request that gets an error message instead of a prediction.

    Attributes:
        reason: A key of `REASONS`.
        message: What is wrong and how to fix it.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(REASONS[self.reason][0])

    @property
    def grpc_code(self) -> str:
        """The name of the gRPC status code."""
        return REASONS[self.reason][1]
