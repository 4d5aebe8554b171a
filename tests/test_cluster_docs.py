"""Everything that docs/cluster.md and docs/kuberay.yaml name exists, and the latter is a RayJob."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components.params import load_params
from components.training.settings import ExecutionSettings, TrainingSettings

ROOT = Path(__file__).resolve().parents[1]
# The fields of KubeRay's v1 resources (ray-operator/config/crd/bases/ray.io_rayjobs.yaml). Others would be dropped.
FIELDS = {
    "job": """
        activeDeadlineSeconds backoffLimit clusterSelector deletionStrategy entrypoint entrypointNumCpus
        entrypointNumGpus entrypointResources jobId managedBy metadata preRunningDeadlineSeconds rayClusterSpec
        runtimeEnvYAML shutdownAfterJobFinishes submissionMode submitterConfig submitterPodTemplate suspend
        ttlSecondsAfterFinished""",
    "cluster": """
        authOptions autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions headGroupSpec
        headServiceAnnotations historyServerOptions managedBy networkPolicy rayVersion suspend tlsOptions
        upgradeStrategy workerGroupSpecs""",
    "head": "enableIngress headService ingressOptions labels rayStartParams resources serviceType template",
    "workers": """
        groupName idleTimeoutSeconds labels maxReplicas minReplicas numOfHosts priority rayStartParams replicas
        resources scaleStrategy suspend template""",
}


def unknown(part: dict[str, Any], kind: str) -> set[str]:
    return set(part) - set(FIELDS[kind].split())


@pytest.fixture(scope="module")
def job() -> Any:
    return YAML(typ="safe").load((ROOT / "docs" / "kuberay.yaml").read_text(encoding="utf-8"))


def groups(job: Any) -> list[Any]:
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_it_is_a_ray_job(job: Any) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    spec = job["spec"]
    assert unknown(spec, "job") == set()
    assert unknown(spec["rayClusterSpec"], "cluster") == set()
    assert spec["rayClusterSpec"]["authOptions"]["mode"] == "token"
    head, *workers = groups(job)
    assert unknown(head, "head") == set()
    for group in workers:
        assert unknown(group, "workers") == set()
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in groups(job):
        # Values on ray start's command line are strings.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_its_pods_have_what_they_mount(job: Any) -> None:
    for group in groups(job):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
    images = {container["image"] for group in groups(job) for container in group["template"]["spec"]["containers"]}
    assert len(images) == 1


def test_it_runs_the_ray_that_is_tested(job: Any) -> None:
    [locked] = re.findall(r"^ray\S*==(\S+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == locked
    assert f"rayproject/ray:{locked}-" in (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """The training commands of the two files, from ``python`` on."""
    entry = YAML(typ="safe").load((ROOT / "docs" / "kuberay.yaml").read_text(encoding="utf-8"))["spec"]["entrypoint"]
    text = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8").replace("\\\n", " ")
    shown = re.findall(r"^ +.*-- +(python .*)$", text, re.MULTILINE)
    assert len(shown) == 1
    return [shlex.split(entry), shlex.split(shown[0])]


@pytest.mark.parametrize("command", commands(), ids=["kuberay.yaml", "cluster.md"])
def test_its_command_exists(command: list[str]) -> None:
    script = ROOT / "pipelines" / Path(command[1]).name
    overrides = [word for word in command if "=" in word]
    assert load_params(ROOT / "params.yaml", overrides).execution.storage.startswith("s3://")
    options = [word for word in command if word.startswith("--")]
    declared = script.read_text(encoding="utf-8") + (ROOT / "components" / "cli.py").read_text(encoding="utf-8")
    assert [option for option in options if f'add_argument("{option}"' not in declared] == []
    assert f"execution.workers={gpus()}" in overrides


def gpus() -> int:
    """The GPUs of all worker pods."""
    job = YAML(typ="safe").load((ROOT / "docs" / "kuberay.yaml").read_text(encoding="utf-8"))
    limits = [group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in groups(job)]
    counts = [group.get("replicas", 1) for group in groups(job)]
    return sum(int(limit.get("nvidia.com/gpu", 0)) * count for limit, count in zip(limits, counts, strict=True))


def test_the_page_names_settings_that_exist() -> None:
    text = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    blocks = {"training": TrainingSettings, "execution": ExecutionSettings}
    named = set(re.findall(r"\b(training|execution)\.(\w+)", text))
    assert len(named) > 5
    assert named <= {(block, field.name) for block, cls in blocks.items() for field in fields(cls)}
