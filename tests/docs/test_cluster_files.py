"""The files in conf/cluster: they agree with each other and with the code, and run as far as that can be done here."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import config
from pipeline.archive import Archive
from pipeline.run import SECRETS
from pipeline.status import status
from tests.small_archive import jpeg

ROOT = Path(__file__).parents[2]
FILES = ROOT / "conf/cluster"
HOME = "/home/ray/tintype"  # WORKDIR of the image

# Of ray.io/v1, as far as we use it: https://ray-project.github.io/kuberay/reference/api/
RAY_JOB = {"entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "rayClusterSpec"}
RAY_CLUSTER = {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"}
HEAD = {"rayStartParams", "template"}
WORKERS = HEAD | {"groupName", "replicas", "minReplicas", "maxReplicas"}


def manifest(name: str) -> dict[str, Any]:
    [document] = yaml.safe_load_all((FILES / name).read_text())
    return document


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    return manifest("rayjob.yaml")


@pytest.fixture(scope="module")
def cluster(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["rayClusterSpec"]


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def container(group: dict[str, Any]) -> dict[str, Any]:
    [only] = group["template"]["spec"]["containers"]
    return only


def test_the_keys_are_those_of_kuberay(job: dict[str, Any], cluster: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"].keys() == RAY_JOB and cluster.keys() == RAY_CLUSTER
    assert cluster["headGroupSpec"].keys() == HEAD
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() == WORKERS
        assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]
        # Else Ray may count the CPUs of the machine that the pod is on.
        assert group["rayStartParams"]["num-cpus"] == container(group)["resources"]["requests"]["cpu"]


def test_pods_are_what_kubernetes_takes(cluster: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for group in groups(cluster):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": group["template"]["spec"]}
        validate.validate(pod, validate.latest_version(), strict=True)


def test_both_manifests_make_the_same_cluster(cluster: dict[str, Any]) -> None:
    staying = manifest("raycluster.yaml")
    assert (staying["apiVersion"], staying["kind"]) == ("ray.io/v1", "RayCluster")
    assert staying["spec"] == cluster


def test_image_and_versions_agree(cluster: dict[str, Any]) -> None:
    dockerfile = (FILES / "Dockerfile").read_text()
    [version] = re.findall(r"^ray==(.*)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert cluster["rayVersion"] == version
    assert re.search(rf"^FROM rayproject/ray:{re.escape(version)}-py311$", dockerfile, re.MULTILINE)
    [tag] = re.findall(r"docker build -f conf/cluster/Dockerfile -t (\S+) \.", dockerfile)
    assert {container(group)["image"] for group in groups(cluster)} == {tag}
    assert f"WORKDIR {HOME}" in dockerfile
    for line in re.findall(r"^COPY --chown=\S+ (.*)$", dockerfile, re.MULTILINE):
        assert all((ROOT / source).exists() for source in line.split()[:-1])


def test_the_key_is_on_the_head_alone(cluster: dict[str, Any]) -> None:
    [secret] = container(cluster["headGroupSpec"])["envFrom"]
    told = (FILES / "rayjob.yaml").read_text()
    assert all(f"--from-literal={name}=" in told for name in SECRETS)
    assert f"kubectl create secret generic {secret['secretRef']['name']} " in told
    for group in cluster["workerGroupSpecs"]:
        names = [variable["name"] for variable in container(group)["env"]]
        assert "envFrom" not in container(group) and names and all(name.startswith("AWS_") for name in names)


def test_the_entrypoint_is_a_run_that_may_grow_as_far_as_the_cluster(job: dict[str, Any]) -> None:
    program, command, conf, *options = shlex.split(job["spec"]["entrypoint"])
    assert (program, command) == ("tintype", "run") and conf.startswith(HOME)
    settings = config.load(str(ROOT / Path(conf).relative_to(HOME)), [o for o in options if o != "--set"])
    _, annotate = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    gpus = int(container(annotate)["resources"]["limits"]["nvidia.com/gpu"])
    assert settings.run.gpus == annotate["maxReplicas"] * gpus
    assert settings.run.fetchers and settings.archive.startswith("s3://")


def test_the_slurm_script_runs(tmp_path: Path) -> None:
    """On one node, with Slurm's commands played by two small scripts."""
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    for name, does in {"scontrol": "echo 127.0.0.1", "srun": 'shift; exec "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        (tmp_path / f"pictures/{number}.jpg").write_bytes(jpeg((number, 0, 0)))
    (tmp_path / "conf.yaml").write_text("archive: elsewhere\nsources: [{kind: folder, path: pictures}]\n")
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "here", "SLURM_JOB_NUM_NODES": "1"}
    environment = {
        **os.environ,
        **slurm,
        "SLURM_CPUS_PER_TASK": "2",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "RAY_agent_register_timeout_ms": "120000",
        "PYTHONWARNINGS": "ignore",
    }
    command = [FILES / "slurm.sh", "conf.yaml", "--set", f"archive={tmp_path}/archive"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert status(Archive.open(f"{tmp_path}/archive"))["photos"]["live"] == 3
    assert "3 pictures fetched" in done.stdout
    # Without it the run would make a Ray of its own, on one node, and this test would not notice.
    assert 'env RAY_ADDRESS="$address" tintype run' in (FILES / "slurm.sh").read_text()
