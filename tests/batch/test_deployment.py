"""The manifest for KubeRay: it can be read, and its command is one of ours."""

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from minicpmv.cli import parse

ROOT = Path(__file__).parents[2]


def test_the_manifest_gives_the_command_as_many_workers_as_there_are_gpus() -> None:
    job = yaml.safe_load((ROOT / "deploy/kuberay.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    words = shlex.split(job["spec"]["entrypoint"])
    args = argparse.Namespace()
    assert words[:2] == ["minicpmv", "batch"]
    parse(words[1:], args)
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert args.workers == group["replicas"] == group["maxReplicas"]
    pods: list[Any] = [cluster["headGroupSpec"]["template"]["spec"], group["template"]["spec"]]
    images = {pod["containers"][0]["image"] for pod in pods}
    assert len(images) == 1
    for pod in pods:
        (container,) = pod["containers"]
        (mount,) = container["volumeMounts"]
        assert mount["name"] == pod["volumes"][0]["name"]
        assert args.source.startswith(f"{mount['mountPath']}/")
        assert args.out.startswith(f"{mount['mountPath']}/")
    resources = group["template"]["spec"]["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == args.gpus_per_worker


def test_the_image_of_the_manifest_can_be_built() -> None:
    text = (ROOT / "deploy/kuberay.yaml").read_text(encoding="utf-8")
    (extras,) = re.findall(r"EXTRAS=(\S+)", text)
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in extras.split(","):
        assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE)
