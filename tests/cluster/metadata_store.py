"""A run's artifacts as the UI gets them: from MLMD by gRPC-Web, and their content from its own server."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, struct_pb2

_SERVICE = "ml_metadata.MetadataStoreService"
_FIELD = descriptor_pb2.FieldDescriptorProto
_LENGTH = struct.Struct(">BI")  # of a frame: whether it holds trailers, and its bytes
# The fields of MLMD's messages that are read here, by their numbers in its .proto files.
_MESSAGES: dict[str, dict[str, tuple[int, Any]]] = {
    "Value": {
        "int_value": (1, _FIELD.TYPE_INT64),
        "double_value": (2, _FIELD.TYPE_DOUBLE),
        "string_value": (3, _FIELD.TYPE_STRING),
        "struct_value": (4, ".google.protobuf.Struct"),
        "bool_value": (6, _FIELD.TYPE_BOOL),
    },
    "Property": {"key": (1, _FIELD.TYPE_STRING), "value": (2, ".flowparts_test.Value")},
    "Artifact": {
        "type_id": (2, _FIELD.TYPE_INT64),
        "uri": (3, _FIELD.TYPE_STRING),
        "custom_properties": (5, [".flowparts_test.Property"]),
        "type": (8, _FIELD.TYPE_STRING),
    },
    "Context": {"id": (1, _FIELD.TYPE_INT64)},
    "ArtifactType": {"id": (1, _FIELD.TYPE_INT64), "name": (2, _FIELD.TYPE_STRING)},
    "GetContextByTypeAndNameRequest": {
        "type_name": (1, _FIELD.TYPE_STRING),
        "context_name": (2, _FIELD.TYPE_STRING),
    },
    "GetContextByTypeAndNameResponse": {"context": (1, ".flowparts_test.Context")},
    "GetArtifactsByContextRequest": {"context_id": (1, _FIELD.TYPE_INT64)},
    "GetArtifactsByContextResponse": {"artifacts": (1, [".flowparts_test.Artifact"])},
    "GetArtifactTypesRequest": {},
    "GetArtifactTypesResponse": {"artifact_types": (1, [".flowparts_test.ArtifactType"])},
}


@dataclass(frozen=True)
class Artifact:
    """An artifact of a run, as the UI shows it."""

    name: str  # on its node
    type: str  # such as system.HTML
    uri: str
    metadata: Mapping[str, Any]


class MetadataStore:
    """Reads artifacts through the address of the UI."""

    def __init__(self, endpoint: str, token: str) -> None:
        self._endpoint = endpoint
        self._session = requests.Session()
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def artifacts(self, run: str) -> list[Artifact]:
        """Return the artifacts of a run by its ID.

        Raises:
            LookupError: The address answers no questions about artifacts, as that of the API alone.
        """
        found = self._ask("GetContextByTypeAndName", type_name="system.PipelineRun", context_name=run)
        types = {kind.id: kind.name for kind in self._ask("GetArtifactTypes").artifact_types}
        return [
            Artifact(
                name=str(metadata.pop("display_name", "")),
                type=artifact.type or types.get(artifact.type_id, ""),
                uri=artifact.uri,
                metadata=metadata,
            )
            for artifact in self._ask("GetArtifactsByContext", context_id=found.context.id).artifacts
            for metadata in [{each.key: _value(each.value) for each in artifact.custom_properties}]
        ]

    def read(self, artifact: Artifact, namespace: str) -> bytes:
        """Return the content of an artifact that is one file."""
        place = urlsplit(artifact.uri)
        asked = {
            "source": place.scheme,
            "namespace": namespace,
            "bucket": place.netloc,
            "key": place.path.lstrip("/"),
        }
        answer = self._session.get(f"{self._endpoint}/artifacts/get", params=asked, timeout=60)
        answer.raise_for_status()
        return answer.content

    def _ask(self, method: str, **given: Any) -> Any:
        request = _MODELS[f"{method}Request"](**given).SerializeToString()
        answer = self._session.post(
            f"{self._endpoint}/{_SERVICE}/{method}",
            data=_LENGTH.pack(0, len(request)) + request,
            headers={"Content-Type": "application/grpc-web+proto", "X-Grpc-Web": "1"},
            timeout=60,
        )
        if not answer.headers.get("content-type", "").startswith("application/grpc-web"):
            raise LookupError(
                f"{self._endpoint} doesn't say what artifacts a run has; give the address of the UI"
            )
        said = {}
        response = None
        for trailers, content in _frames(answer.content):
            if trailers:
                said = dict(line.split(":", 1) for line in content.decode().split("\r\n") if ":" in line)
            else:
                response = _MODELS[f"{method}Response"].FromString(content)
        assert said.get("grpc-status", "0").strip() == "0", f"{method}: {said}"
        return response if response is not None else _MODELS[f"{method}Response"]()


def _frames(content: bytes) -> Iterator[tuple[bool, bytes]]:
    while content:
        flags, length = _LENGTH.unpack_from(content)
        yield bool(flags & 0x80), content[_LENGTH.size : _LENGTH.size + length]
        content = content[_LENGTH.size + length :]


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    held = getattr(value, kind) if kind else None
    return json_format.MessageToDict(held) if kind == "struct_value" else held


def _models() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="flowparts_test.proto",
        package="flowparts_test",
        syntax="proto3",
        dependency=[struct_pb2.DESCRIPTOR.name],
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        alternatives = {"oneof_index": 0} if name == "Value" else {}
        if alternatives:
            message.oneof_decl.add(name="value")
        for field, (number, kind) in fields.items():
            repeated = isinstance(kind, list)
            kind = kind[0] if repeated else kind
            label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            if isinstance(kind, str):
                described = {"type": _FIELD.TYPE_MESSAGE, "type_name": kind}
            else:
                described = {"type": kind}
            message.field.add(name=field, number=number, label=label, **described, **alternatives)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(descriptor_pb2.FileDescriptorProto.FromString(struct_pb2.DESCRIPTOR.serialized_pb))
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"flowparts_test.{name}"))
        for name in _MESSAGES
    }


_MODELS = _models()
