"""The Kubernetes manifests and the Slurm script in examples/: schemas, commands, and consistent numbers."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import ROOT
from tests.test_docs import Command, understood
from tganv2_tf import cli
from tganv2_tf.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig
from tganv2_tf.training.distribution import cluster_resolver, per_replica_batch_size
from tganv2_tf.training.ray_training import Cluster

FOLDER = ROOT / "examples" / "kubernetes"
MANIFESTS = {path.name: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}
RAY_JOBS = [name for name, manifest in MANIFESTS.items() if manifest["kind"] == "RayJob"]
SCHEMAS = json.loads((ROOT / "tests" / "data" / "kubernetes" / "schemas.json").read_text())


def faults(manifest: dict[str, Any]) -> list[str]:
    schema = {"$ref": f"#/$defs/{manifest['kind']}", "$defs": SCHEMAS["$defs"]}
    jsonschema.Draft202012Validator.check_schema(schema)
    return [error.json_path for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest)]


def worker_spec() -> dict[str, Any]:
    return MANIFESTS["tfjob.yaml"]["spec"]["tfReplicaSpecs"]["Worker"]


def pods(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the pod templates of a manifest; for a RayJob the head's first."""
    spec = manifest["spec"]
    if manifest["kind"] == "TFJob":
        return [replica["template"]["spec"] for replica in spec["tfReplicaSpecs"].values()]
    groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def commands(manifest: dict[str, Any]) -> list[Command]:
    if manifest["kind"] == "RayJob":
        return [Command.parse(manifest["spec"]["entrypoint"])]
    return [Command.parse(" ".join(pod["containers"][0]["command"])) for pod in pods(manifest)]


def options(command: Command) -> tuple[Config, Cluster]:
    option_types = (ModelConfig, DataConfig, TrainConfig, EvalConfig, Cluster)
    *of_run, cluster = cli.parse(command.arguments, *option_types)
    return Config(*of_run), cluster


def test_there_are_the_manifests_that_the_documents_name() -> None:
    assert {name: manifest["kind"] for name, manifest in MANIFESTS.items()} == {
        "rayjob.yaml": "RayJob",
        "rayjob_data_prep.yaml": "RayJob",
        "tfjob.yaml": "TFJob",
    }


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_keep_to_the_schemas(name: str) -> None:
    assert faults(MANIFESTS[name]) == []


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("tfjob.yaml", "$.spec.tfReplicaSpecs.Worker.restartPolicy", "OnError"),
        ("tfjob.yaml", "$.spec.runPolicy.backoffLimit", "64"),
        ("tfjob.yaml", "$.spec.tfReplicaSpecs.Worker.template.spec.containers[0].image", None),
        ("rayjob.yaml", "$.spec.rayClusterSpec.headGroupSpec.rayStartParams['num-cpus']", 0),
        ("rayjob.yaml", "$.spec.rayClusterSpec.workerGroupSpecs[0].replicas", -1),
        ("rayjob.yaml", "$.apiVersion", "ray.io/v1alpha1"),
    ],
)
def test_the_schemas_notice_what_is_wrong(name: str, path: str, value: object) -> None:
    manifest = json.loads(json.dumps(MANIFESTS[name]))
    *way, last = [int(part) if part.isdigit() else part for part in re.split(r"[.\[\]']+", path.strip("$.")) if part]
    place = manifest
    for part in way:
        place = place[part]
    assert last in place
    place[last] = value
    assert faults(manifest) == [path]
    unknown = copy.deepcopy(MANIFESTS[name])
    unknown["spec"]["restartpolicy"] = "Never"
    assert faults(unknown) == ["$.spec"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_their_commands_are_real_ones(name: str) -> None:
    for command in commands(MANIFESTS[name]):
        assert command.module in ("tganv2_tf.train", "data_prep.ucf101")
        understood(command)


@pytest.mark.parametrize("name", MANIFESTS)
def test_what_a_pod_mounts_is_there_and_is_where_its_command_looks(name: str) -> None:
    (command,) = commands(MANIFESTS[name])
    paths = [value for value in command.flags.values() if value.startswith("/")]
    for pod in pods(MANIFESTS[name]):
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        mounts = pod["containers"][0].get("volumeMounts", [])
        assert {mount["name"] for mount in mounts} == volumes
        assert all(any(path.startswith(f"{mount['mountPath']}/") for mount in mounts) for path in paths)
        secrets = {source["secretRef"]["name"] for source in pod["containers"][0].get("envFrom", [])}
        assert secrets == ({"bucket"} if any("s3://" in value for value in command.flags.values()) else set())
    images = {pod["containers"][0]["image"] for manifest in MANIFESTS.values() for pod in pods(manifest)}
    assert len(images) == 1
    assert f"-t {images.pop()} ." in (ROOT / "Dockerfile").read_text()


def test_the_workers_of_the_tfjob_share_their_batch_and_start_again_when_they_fail() -> None:
    worker, (command,) = worker_spec(), commands(MANIFESTS["tfjob.yaml"])
    config, _ = options(command)
    (container,) = worker["template"]["spec"]["containers"]
    replicas = worker["replicas"] * container["resources"]["limits"]["nvidia.com/gpu"]
    assert config.train.distribution == "multi_worker"
    assert per_replica_batch_size(config, replicas) == 16
    # For all failures: ExitCode would give up at status 1, which a worker also returns when it loses another one.
    assert worker["restartPolicy"] == "OnFailure"
    assert MANIFESTS["tfjob.yaml"]["spec"]["runPolicy"]["backoffLimit"] >= 10 * worker["replicas"]
    # The operator expects this name.
    assert container["name"] == "tensorflow"
    assert container["ports"] == [{"name": "tfjob-port", "containerPort": 2222}]


def test_the_names_that_the_operator_gives_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [f"tganv2-worker-{index}.default.svc:2222" for index in range(worker_spec()["replicas"])]
    said = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": 3}, "environment": "cloud"}
    monkeypatch.setenv("TF_CONFIG", json.dumps(said))
    resolver = cluster_resolver()
    assert resolver.cluster_spec().as_dict() == {"worker": addresses}
    assert (resolver.task_type, resolver.task_id) == ("worker", 3)


def test_the_ray_cluster_has_room_for_the_workers() -> None:
    (group,) = MANIFESTS["rayjob.yaml"]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    config, cluster = options(*commands(MANIFESTS["rayjob.yaml"]))
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert config.train.distribution == "ray"
    assert group["replicas"] * limits["nvidia.com/gpu"] == cluster.num_workers * cluster.gpus_per_worker
    assert cluster.gpus_per_worker <= limits["nvidia.com/gpu"]
    assert cluster.cpus_per_worker * limits["nvidia.com/gpu"] <= int(limits["cpu"])
    assert per_replica_batch_size(config, cluster.num_workers * cluster.gpus_per_worker) == 16
    assert cluster.worker_restarts > 0
    pinned = re.search(r"^ray\[.*\]==([\d.]+)", (ROOT / "requirements-ray.txt").read_text(), re.MULTILINE)
    for name in RAY_JOBS:
        spec = MANIFESTS[name]["spec"]
        assert pinned and spec["rayClusterSpec"]["rayVersion"] == pinned[1]
        assert spec["backoffLimit"] > 0 and spec["shutdownAfterJobFinishes"]
        head = pods(MANIFESTS[name])[0]
        assert "--ray_address=auto" in spec["entrypoint"]
        assert "nvidia.com/gpu" not in head["containers"][0]["resources"]["limits"]
        for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
            assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]


def test_the_script_for_slurm_starts_as_many_workers_as_share_the_batch() -> None:
    text = (ROOT / "examples" / "slurm" / "train.sbatch").read_text()
    script = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", text, re.MULTILINE))
    (line,) = re.findall(r"^srun .*$", text.replace("\\\n", " "), re.MULTILINE)
    command = Command.parse(line)
    understood(command)
    config, _ = options(command)
    tasks = int(script["nodes"]) * int(script["ntasks-per-node"])
    assert config.train.distribution == "multi_worker"
    assert per_replica_batch_size(config, tasks * int(script["gpus-per-task"])) == 8
    assert script["signal"] == "TERM@120"
