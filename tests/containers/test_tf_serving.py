"""What a pod of TensorFlow Serving runs before its server, in the image that it runs in."""

import subprocess
from pathlib import Path

from backends.local import containers as docker
from flowparts.deploy.tf_serving_pod import Batching, TensorFlowServingPod
from tests.components.train.test_train_keras_tabular import LABELS, Trained


def test_a_network_on_a_volume_is_laid_out_by_any_user_without_a_network(
    containers: docker.Containers, tmp_path: Path
) -> None:
    model = Path(Trained(tmp_path / "churn" / "1", **LABELS["classification"], epochs=1).model.path)
    image = containers.reference("flowparts-base")
    address = "pvc://models/churn/1/model"
    server = "registry.example/serving:1"
    pod = TensorFlowServingPod(address, "churn", server, "1", "1Gi", "", "", image, Batching(0, 0, 1, 1))
    (first,) = pod.spec()["initContainers"]
    laid_out = tmp_path / "laid-out"
    laid_out.mkdir()
    # The test's folders are closed to other users.
    tmp_path.chmod(0o755)
    laid_out.chmod(0o777)
    places = {"tmp": ["--tmpfs=/tmp"], "models": [f"--volume={tmp_path}:/mnt/models:ro"]}
    places["saved-model"] = [f"--volume={laid_out}:/models"]
    mounts = [option for mount in first["volumeMounts"] for option in places[mount["name"]]]
    limits = ["--read-only", "--cap-drop=ALL", "--user=4711:4711", "--network=none"]
    subprocess.run(
        ["docker", "run", "--rm", *limits, *mounts, first["image"], *first["command"], *first["args"]],
        check=True,
    )
    version = laid_out / "churn" / "1"
    stored = model / "saved_model"
    for file in filter(Path.is_file, stored.rglob("*")):
        assert (version / file.relative_to(stored)).read_bytes() == file.read_bytes()
