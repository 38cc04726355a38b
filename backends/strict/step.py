"""One step of a strict run: cache, pod, and the work of KFP's launcher."""

import hashlib
import json
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.local.runner import Task
from backends.resources import Resources
from backends.strict import pod as strict_pod
from backends.strict import values as strict_values
from backends.strict.driver import Execution
from backends.strict.pod import Pod
from backends.strict.store import BUCKET, SESSION, MetadataStore, ObjectStore, local_path
from backends.strict.values import BackendError, through_json
from flowparts.util.masking import masked

LOGS = "executor-logs"
_OUTPUTS = "/tmp/kfp/outputs"  # noqa: S108 where a step writes parameters


@dataclass(frozen=True)
class Backend:
    """The common context of a run's steps.

    Attributes:
        pipeline: The pipeline's name.
        run_id: The run's id.
        objects: The object store.
        metadata: ML Metadata and the cache.
        use_cache: Whether to use the cache.
        overlay: The second document of the compiled pipeline, for Kubernetes; may be empty.
        environment: Variables for every step.
        volumes: Writable folders of every step, by path.
        node: Free resources of the largest node, as limits.
    """

    pipeline: str
    run_id: str
    objects: ObjectStore
    metadata: MetadataStore
    use_cache: bool
    overlay: Mapping[str, Any]
    environment: Mapping[str, str]
    volumes: Mapping[str, Path]
    node: Resources

    @property
    def workflow(self) -> str:
        """The name of the run's Argo workflow."""
        return f"{self.pipeline}-{self.run_id[:5]}"

    @property
    def bucket_prefix(self) -> str:
        """The URI prefix of the run's artifacts."""
        return f"{BUCKET}/v2/artifacts/{self.pipeline}/{self.run_id}"


@dataclass
class Step:
    """One step: the end of its driver, its launcher, and the program."""

    backend: Backend
    name: str
    task: Mapping[str, Any]
    component: Mapping[str, Any]
    container: Mapping[str, Any]
    execution: Execution
    recorded: Task

    def run(self) -> None:
        """Serve the step from the cache, or run it; raise BackendError if it fails."""
        given = self._executor_input()
        caching = self.task.get("cachingOptions", {})
        fingerprint = ""
        if self.backend.use_cache and caching.get("enableCache"):
            fingerprint = self._fingerprint(given, caching.get("cacheKey", ""))
            if known := self.backend.metadata.remembered(fingerprint, self.backend.pipeline):
                self.execution.outputs, numbers = known
                self.execution.output_artifacts = {
                    port: self.backend.metadata.artifact(number) for port, number in numbers.items()
                }
                self.execution.state, self.recorded.state = "CACHED", "cached"
                return
        strict_pod.refuse_unschedulable(self.name, self.container, self.backend.node)
        variables = self._variables()
        self._refuse_values(given)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            pod = Pod(Path(folder), variables, self.backend.volumes)
            try:
                self._launch(pod, given)
                self.execution.state, self.recorded.state = "COMPLETE", "succeeded"
            except BackendError:
                self.execution.state = "FAILED"
                raise
            finally:
                assert self.execution.parent
                self.execution.parent.update()
                strict_pod.remove(pod.folder / "volumes")
        if fingerprint:
            numbers = {port: stored.id for port, stored in self.execution.output_artifacts.items()}
            self.backend.metadata.remember(
                fingerprint, self.backend.pipeline, self.execution.outputs, numbers
            )

    def _executor_input(self) -> dict[str, Any]:
        """Return the executor input from the driver."""
        root = f"{self.backend.bucket_prefix}/{self.name}/{uuid.uuid4()}"
        inputs: dict[str, Any] = {}
        if self.execution.input_artifacts:
            inputs["artifacts"] = {
                port: {
                    "artifacts": [
                        {
                            "name": str(item.id),
                            "type": {"instanceSchema": ""},
                            "uri": item.uri,
                            "metadata": strict_values.read_back(item.properties),
                        }
                        for item in items
                    ]
                }
                for port, items in sorted(self.execution.input_artifacts.items())
            }
        if self.execution.inputs:
            inputs["parameterValues"] = dict(sorted(self.execution.inputs.items()))
        defined = self.component.get("outputDefinitions", {})
        outputs: dict[str, Any] = {}
        if parameters := defined.get("parameters"):
            outputs["parameters"] = {
                port: {"outputFile": f"{_OUTPUTS}/{port}"} for port in sorted(parameters)
            }
        kinds = {port: details["artifactType"] for port, details in defined.get("artifacts", {}).items()}
        kinds[LOGS] = {"schemaTitle": "system.Artifact"}
        outputs["artifacts"] = {
            port: {"artifacts": [{"name": port, "type": kind, "uri": f"{root}/{port}"}]}
            for port, kind in sorted(kinds.items())
        }
        outputs["outputFile"] = f"{local_path(root)}/output_metadata.json"
        return {"inputs": inputs, "outputs": outputs}

    def _fingerprint(self, given: Mapping[str, Any], key: str) -> str:
        """Return the cache key: everything but the outputs' location; or the pipeline's own key."""
        artifacts = given["inputs"].get("artifacts", {})
        defined = self.component.get("outputDefinitions", {})
        content = key or {
            "inputArtifacts": {
                port: [item["name"] for item in entry["artifacts"]] for port, entry in artifacts.items()
            },
            "inputParameters": given["inputs"].get("parameterValues", {}),
            "outputArtifacts": {
                port: entry["artifacts"][0]["type"] for port, entry in given["outputs"]["artifacts"].items()
            },
            "outputParameters": {
                port: details["parameterType"] for port, details in defined.get("parameters", {}).items()
            },
            "image": self.container["image"],
            "command": [*self.container.get("command", []), *self.container.get("args", [])],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _variables(self) -> dict[str, str]:
        """Return the step's environment; secrets of the overlay must be in the given one."""
        own = {entry["name"]: entry["value"] for entry in self.container.get("env", [])}
        if "retryPolicy" in self.task:
            own["KFP_RETRY_INDEX"] = "0"
        kubernetes = self.backend.overlay.get("platforms", {}).get("kubernetes", {})
        executors = kubernetes.get("deploymentSpec", {}).get("executors", {})
        asked = executors.get(self.component["executorLabel"], {}).get("secretAsEnv", [])
        of_others = {
            key["envVar"]
            for executor in executors.values()
            for secret in executor.get("secretAsEnv", [])
            for key in secret["keyToEnv"]
        } - {key["envVar"] for secret in asked for key in secret["keyToEnv"]}
        for secret in asked:
            name = secret.get("secretName") or secret["secretNameParameter"]["runtimeValue"]["constant"]
            for key in secret["keyToEnv"]:
                if key["envVar"] not in self.backend.environment and not secret.get("optional"):
                    raise BackendError(
                        f"the pod waits for ever for the secret {name!r}: its key {key['secretKey']!r} "
                        f"is not here; give {key['envVar']} in --env-file",
                        f'CreateContainerConfigError: secret "{name}" not found',
                    )
        visible = {name: value for name, value in self.backend.environment.items() if name not in of_others}
        pod = f"{self.backend.workflow}-{self.execution.id}"
        return strict_pod.variables(self.container["image"], pod, {**own, **visible}.items())

    def _refuse_values(self, given: Mapping[str, Any]) -> None:
        """Raise BackendError for values that wouldn't reach the program unchanged."""
        ports = {
            **{f"input {port!r}": value for port, value in self.execution.inputs.items()},
            **{
                f"metadata of input {port!r}": strict_values.read_back(item.properties)
                for port, items in self.execution.input_artifacts.items()
                for item in items
            },
        }
        for port, value in ports.items():
            if found := strict_values.template_in(value):
                raise BackendError(
                    f"{port} of {self.name!r} holds {found!r}, which Argo evaluates on the way; keep {{{{ "
                    "out of parameters and metadata, above all in text that comes from data"
                )
        for what, content in (("inputs", given), ("component's description", self.component)):
            # The backend's JSON may have a space after each comma; its builds differ.
            text = json.dumps(content, ensure_ascii=False, separators=(", ", ":"))
            size = len(text.encode())
            if size >= strict_values.MAX_ARGUMENT_BYTES:
                raise BackendError(
                    f"the {what} of {self.name!r} take {size:,} bytes and travel in one argument of a "
                    f"program, which holds {strict_values.MAX_ARGUMENT_BYTES:,}; pass long values in files",
                    "exec /var/run/argo/argoexec: argument list too long",
                )

    def _launch(self, pod: Pod, given: dict[str, Any]) -> None:
        """Download the inputs, run the program, and store its outputs."""
        self._download(pod)
        logs = given["outputs"]["artifacts"][LOGS]["artifacts"][0]
        logs["uri"] += "-0"  # the number of the try
        for entry in given["outputs"]["artifacts"].values():
            folder = pod.host_path(local_path(entry["artifacts"][0]["uri"])).parent
            folder.mkdir(parents=True, exist_ok=True)
        if "parameters" in given["outputs"]:
            pod.host_path(_OUTPUTS).mkdir(parents=True)
        executor_input = json.loads(json.dumps(given))
        self._add_defaults(executor_input)
        paths = {
            item["uri"]: path for item in _artifacts(executor_input) if (path := self._path(pod, item["uri"]))
        }
        if strict_pod.isolation_problem():
            # Without its own root the program has nothing at /minio; the SDK accepts a path as a URI.
            for item in _artifacts(executor_input):
                item["uri"] = paths.get(item["uri"], item["uri"])
            paths = {path: path for path in paths.values()}
            for output in (
                *executor_input["outputs"].get("parameters", {}).values(),
                executor_input["outputs"],
            ):
                output["outputFile"] = str(pod.host_path(output["outputFile"]))
        values = executor_input["inputs"].get("parameterValues", {})
        command = strict_values.arguments(
            [*self.container.get("command", []), *self.container.get("args", [])],
            values,
            strict_values.placeholders(executor_input, paths),
        )
        log_artifact = pod.host_path(local_path(logs["uri"]))
        code = self._execute(pod, command)
        log_artifact.write_bytes(self.recorded.log.read_bytes())
        if code:
            self._store(pod, given, {}, only=LOGS)
            self.recorded.exit_code = code
            raise BackendError("", f"failed to execute component: exit status {code}")
        written = self._read_output(pod, given)
        self._collect(pod, given, written)
        self._store(pod, given, written["artifacts"])
        self.execution.outputs = written["parameterValues"]

    def _path(self, pod: Pod, uri: str) -> str:
        """Return the program's path for a URI; empty for a URI without a bucket."""
        path = local_path(uri)
        return str(pod.host_path(path)) if path and strict_pod.isolation_problem() else path

    def _add_defaults(self, executor_input: dict[str, Any]) -> None:
        """Add the component's defaults for parameters that the pipeline doesn't set."""
        for key, details in self.component.get("inputDefinitions", {}).get("parameters", {}).items():
            if "defaultValue" in details:
                values = executor_input["inputs"].setdefault("parameterValues", {})
                values.setdefault(key, through_json(details["defaultValue"]))

    def _download(self, pod: Pod) -> None:
        for port, items in self.execution.input_artifacts.items():
            for item in items:
                if not local_path(item.uri):
                    raise BackendError(
                        f"input {port!r} lies at {item.uri!r}, which is in no bucket: the step before wrote "
                        "it outside of its output's path",
                        "failed to execute component: failed to fetch non default buckets: failed to "
                        f'parse bucketConfig for output artifact "{port}" with uri "{item.uri}": '
                        "parse bucket config failed: unrecognized uri format",
                    )
                self.backend.objects.download(item.uri, pod.host_path(local_path(item.uri)))

    def _execute(self, pod: Pod, command: list[str]) -> int:
        with self.recorded.log.open("w", encoding="utf-8") as log:

            def say(line: str) -> None:
                log.write(masked(pod.as_seen(line)))
                log.flush()
                self.recorded.last_line = line.strip() or self.recorded.last_line

            try:
                return pod.run(command, say)
            except OSError as error:
                say(f"OSError: {error}\n")
                return 1

    def _read_output(self, pod: Pod, given: Mapping[str, Any]) -> dict[str, Any]:
        file = pod.host_path(given["outputs"]["outputFile"])
        if not file.exists():
            return {"parameterValues": {}, "artifacts": {}}
        text = file.read_text(encoding="utf-8")
        if strict_pod.isolation_problem():
            for item in _artifacts(given):
                text = text.replace(self._path(pod, item["uri"]), item["uri"])
        return strict_values.executor_output(text, given["outputs"]["outputFile"])

    def _collect(self, pod: Pod, given: Mapping[str, Any], written: dict[str, Any]) -> None:
        """Add the output parameters that the program wrote to separate files."""
        for port, entry in given["outputs"].get("parameters", {}).items():
            if port in written["parameterValues"]:
                continue
            kind = self.component["outputDefinitions"]["parameters"][port]["parameterType"]
            file = entry["outputFile"]
            words = (
                f'failed to execute component: failed to read output parameter name="{port}" type="{kind}" '
                f'path="{file}": '
            )
            try:
                content = pod.host_path(file).read_text(encoding="utf-8")
                written["parameterValues"][port] = strict_values.from_text(content, kind)
            except FileNotFoundError:
                raise BackendError(
                    f"output {port!r} was not written; a step must return every output parameter, and None "
                    "isn't a value",
                    f"{words}open {file}: no such file or directory",
                ) from None
            except ValueError as error:
                raise BackendError(f"output {port!r}: {error}", f"{words}{error}") from None

    def _store(self, pod: Pod, given: Mapping[str, Any], written: Mapping[str, Any], only: str = "") -> None:
        """Upload the outputs and register them, even if their files are missing."""
        for port, entry in given["outputs"]["artifacts"].items():
            if only not in ("", port):
                continue
            item = entry["artifacts"][0]
            named = written.get(port, {}).get("artifacts", []) if port != LOGS else []
            uri, metadata = item["uri"], {}
            if named:
                uri = named[0].get("uri") or uri
                metadata = named[0].get("metadata", {})
            # A path that the step chose itself; the SDK only writes it if it differs from the URI's.
            path = (named[0].get("customPath") or named[0].get("custom_path")) if named else ""
            if path := path or local_path(uri):
                self._upload(pod, pod.host_path(path), uri, port)
            properties = strict_values.stored(metadata, port, SESSION)
            schema = item["type"].get("schemaTitle", "system.Artifact")
            self.execution.output_artifacts[port] = self.backend.metadata.record(schema, uri, properties)

    def _upload(self, pod: Pod, source: Path, uri: str, port: str) -> None:
        prefix = self.backend.bucket_prefix
        if not uri.startswith(f"{prefix}/"):
            raise BackendError(
                f"output {port!r} was given the address {uri!r}; a step writes where its output's path says, "
                "and other places itself",
                f'failed to execute component: failed to upload output artifact "{port}": URI "{uri}" '
                f'does not have expected bucket prefix "{prefix}"',
            )
        try:
            lost = self.backend.objects.upload(source, uri, port)
        except BackendError as failure:
            raise BackendError(pod.as_seen(str(failure)), pod.as_seen(failure.words)) from None
        if lost:
            raise BackendError(f"{pod.as_seen(lost)}, and the backend says nothing")


def _artifacts(executor_input: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the input and output artifacts of an executor input."""
    ports = [executor_input["inputs"].get("artifacts", {}), executor_input["outputs"]["artifacts"]]
    return [item for entries in ports for entry in entries.values() for item in entry["artifacts"]]
