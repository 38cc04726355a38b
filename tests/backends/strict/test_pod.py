"""Runs commands in a root of their own, as root and as anyone else."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from backends import resources
from backends.strict import pod as strict_pod
from backends.strict.pod import Pod
from backends.strict.values import BackendError

SANDBOX = Path(strict_pod.__file__).with_name("sandbox.py")
LOOK = "id -u; id -g; touch /x || true; echo new > /minio/made; cat /given/file; touch /usr/x || true; exit 3"


@pytest.mark.parametrize("user", [0, 1000], ids=["root", "anyone"])
def test_a_command_sees_only_its_folders_and_writes_only_to_them(tmp_path: Path, user: int) -> None:
    python = "/usr/bin/python3"  # that of the project may lie where only root can go
    if os.geteuid() != 0 or not Path(python).exists():
        pytest.skip("needs root, who can be anyone, and a Python that everyone has")
    # Anyone must reach these: pytest's own folders are root's.
    folder = Path(shutil.copytree(tmp_path, f"/tmp/{tmp_path.parent.name}-{tmp_path.name}-{user}"))
    try:
        for name in ("root", "tmp", "minio", "given"):
            (folder / name).mkdir()
            (folder / name).chmod(0o777)
        (folder / "given" / "file").write_text("given\n")
        folder.chmod(0o755)
        shutil.copy(SANDBOX, folder / "sandbox.py")
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user, user)
        settings = {
            "root": str(folder / "root"),
            "read_only": [path for path in ("/bin", "/lib", "/lib64", "/usr") if os.path.lexists(path)],
            "writable": {f"/{name}": str(folder / name) for name in ("tmp", "minio", "given")},
            "user": 65532,
            "group": 0,
            "directory": "/tmp",
            "environment": {"PATH": "/usr/bin:/bin"},
        }
        command = [python, "-I", "-S", str(folder / "sandbox.py"), json.dumps(settings), "sh", "-c", LOOK]
        done = subprocess.run(command, user=user, group=user, extra_groups=[], capture_output=True, text=True)
        if user and "cannot make a namespace" in done.stderr:
            pytest.skip("this machine lets only root make namespaces")
        assert done.stdout == "65532\n0\ngiven\n", done.stderr
        assert "cannot touch '/x': Read-only file system" in done.stderr
        assert "cannot touch '/usr/x'" in done.stderr
        assert done.returncode == 3
        assert (folder / "minio" / "made").read_text() == "new\n"
        assert not Path("/minio").exists()
        assert list((folder / "root").iterdir()) == []
    finally:
        shutil.rmtree(folder)


def test_a_killed_command_has_the_exit_code_of_a_shell(tmp_path: Path) -> None:
    pod = Pod(tmp_path, {"PATH": os.defpath})
    lines: list[str] = []
    assert pod.run(["sh", "-c", "echo before; kill -9 $$"], lines.append) == 137
    assert lines == ["before\n"]


def test_a_command_without_a_root_filesystem_still_has_its_own_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict_pod, "isolation_problem", lambda: "not allowed")
    pod = Pod(tmp_path, {"PATH": os.defpath, "HOME": "/tmp"})
    lines: list[str] = []
    assert pod.run(["sh", "-c", "pwd; echo $HOME $TMPDIR"], lines.append) == 0
    here = str(pod.host_path("/tmp"))
    assert "".join(lines).split() == [here] * 3
    assert pod.as_seen(f"{here}/x") == "/tmp/x"


def test_a_limit_alone_is_the_request() -> None:
    free = resources.node("1500m 6Gi")
    fits = {"resourceCpuLimit": "4", "resourceCpuRequest": "100m", "resourceMemoryLimit": "4Gi"}
    strict_pod.refuse_unschedulable("step", {"resources": fits}, free)
    with pytest.raises(
        BackendError, match=r"asks for 2 CPU and the largest node has 1\.5 CPU 6 Gi free"
    ) as raised:
        strict_pod.refuse_unschedulable("step", {"resources": {"resourceCpuLimit": "2"}}, free)
    assert raised.value.words == "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu."
