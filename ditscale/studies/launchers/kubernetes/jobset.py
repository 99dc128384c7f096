"""The manifest of a run: a JobSet with one indexed Job, one pod per node, all ranks of a node in its pod.

The JobSet controller makes the headless service; the first pod is ``<jobset>-ranks-0-0.<jobset>`` in it. A run that ends with exit code
75 has saved a checkpoint and is to go on: the pod failure policy fails its Job at once, for a reason that the JobSet's failure policy
answers with a restart, however many there were. So does a pod that a drain, a preemption or a lost node took, and the time limit. Any
other exit code fails the JobSet, and the next ``launch`` starts it again. Leaving 75 to ``launch`` too would have a preempted study stand
still until somebody looks; counting such restarts would end a long run after so many time limits.

Fields: the JobSet API, jobset.x-k8s.io/v1alpha2, and batch/v1 Job.
"""

import hashlib
import math
import re
import shlex
from pathlib import Path
from typing import Any

from ditscale.studies.launchers.kubernetes.site import KubernetesSite
from ditscale.studies.launchers.protocol import Shape, shape_of, steps
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.spec import PlannedRun
from ditscale.training.preemption import EXIT_CODE

CONTAINER = JOB = "ranks"                                                      # names in the JobSet
MASTER_PORT = 29500                                                            # each pod has an address of its own
LEAST_GRACE_SECONDS = 30                                                       # Kubernetes' default
RESTART = "RestartJobSetAndIgnoreMaxRestarts"


def study_label(spec: Spec) -> str:
    """Tells this study's JobSets from those of another of its name."""
    return hashlib.sha256(str(spec.directory.absolute()).encode()).hexdigest()[:10]


def jobset_name(spec: Spec, run_id: str) -> str:
    """A DNS label that leaves room for what JobSet and Job append, to 63 characters. The same run has the same name each time."""
    readable = re.sub("[^a-z0-9]+", "-", spec.name.lower())[:24].strip("-")
    return f"ditscale-{readable or 'study'}-{hashlib.sha256(f'{study_label(spec)}/{run_id}'.encode()).hexdigest()[:10]}"


def manifest(spec: Spec, planned: PlannedRun, site: KubernetesSite, folder: Path) -> dict:
    """The JobSet of a run that works in ``folder``."""
    shape, name = shape_of(planned.config, site.gpus_per_node), jobset_name(spec, planned.run_id)
    labels = {"app.kubernetes.io/managed-by": "ditscale", "ditscale/study": study_label(spec)}
    queued = {"kueue.x-k8s.io/queue-name": site.queue} if site.queue else {}
    job: dict[str, Any] = {"completionMode": "Indexed", "completions": shape.nodes, "parallelism": shape.nodes, "backoffLimit": 0}
    if site.time is not None:
        job["activeDeadlineSeconds"] = 60 * site.time
    job["podFailurePolicy"] = {"rules": [
        {"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [EXIT_CODE]}},
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]}
    job["template"] = {"metadata": {"labels": labels}, "spec": _pod(planned, site, shape, name, folder)}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet",
        "metadata": {"name": name, "namespace": site.namespace, "labels": {**labels, **queued},
                     "annotations": {"ditscale/run": planned.run_id}},
        "spec": {
            "network": {"enableDNSHostnames": True, "subdomain": name, "publishNotReadyAddresses": True},
            "failurePolicy": {"maxRestarts": 0, "rules": [
                {"name": "goesOn", "action": RESTART, "onJobFailureReasons": ["PodFailurePolicy", "DeadlineExceeded"]},
                {"name": "failed", "action": "FailJobSet"}]},
            "replicatedJobs": [{"name": JOB, "replicas": 1, "template": {"spec": job}}]}}


def _pod(planned: PlannedRun, site: KubernetesSite, shape: Shape, name: str, folder: Path) -> dict:
    asked: dict[str, str | int] = {"cpu": str(site.cpus_per_task * shape.ranks_per_node)}
    limits: dict[str, str | int] = {}
    if site.memory:
        asked["memory"] = limits["memory"] = site.memory
    if site.gpus_per_node:
        asked[site.gpu_resource] = limits[site.gpu_resource] = shape.ranks_per_node
    shared = {"medium": "Memory", **({"sizeLimit": site.shared_memory} if site.shared_memory else {})}
    claims = list(dict.fromkeys(volume.claim for volume in site.volumes))
    volume_of = {claim: f"claim-{number}" for number, claim in enumerate(claims)}
    container = {
        "name": CONTAINER, "image": site.image, "command": ["/bin/bash", "-c", _literal(_script(planned, site, shape, folder))],
        "env": [{"name": key, "value": _literal(str(value))} for key, value in _variables(site, shape, name).items()],
        "resources": {"requests": asked, **({"limits": limits} if limits else {})},
        "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"},
                         *({"name": volume_of[volume.claim], "mountPath": volume.path} for volume in site.volumes)]}
    pod: dict[str, Any] = {"restartPolicy": "Never",
           "terminationGracePeriodSeconds": max(LEAST_GRACE_SECONDS, math.ceil(60 * planned.config.resources.time_margin_minutes))}
    if site.node_selector:
        pod["nodeSelector"] = dict(site.node_selector)
    if site.tolerations:
        pod["tolerations"] = [{"key": key, "operator": "Exists"} for key in site.tolerations]
    return {**pod, "containers": [container],
            "volumes": [{"name": "shared-memory", "emptyDir": shared},
                        *({"name": volume_of[claim], "persistentVolumeClaim": {"claimName": claim}} for claim in claims)]}


def _variables(site: KubernetesSite, shape: Shape, name: str) -> dict:
    """Of every rank; a pod's ranks get their numbers from pod.py."""
    variables = {"MASTER_ADDR": f"{name}-{JOB}-0-0.{name}" if shape.nodes > 1 else "127.0.0.1", "MASTER_PORT": MASTER_PORT,
                 "OMP_NUM_THREADS": site.cpus_per_task, "PYTHONUNBUFFERED": 1}
    if not site.gpus_per_node:
        variables["DS_ACCELERATOR"] = "cpu"
    return {**variables, **site.environment}


def _script(planned: PlannedRun, site: KubernetesSite, shape: Shape, folder: Path) -> str:
    """What the shell of a pod does: the site's lines, then it becomes the starter of the ranks, which hears signals itself."""
    words = (site.python, "-m", "ditscale.studies.launchers.kubernetes.pod", str(planned.run.path.absolute()), str(shape.nodes),
             str(shape.ranks_per_node), str(site.time or 0), *steps(planned))
    return "\n".join([f"cd {shlex.quote(str(folder.absolute()))} || exit 1", *site.setup, f"exec {shlex.join(words)}"])


def _literal(text: str) -> str:
    """Kubernetes replaces $(NAME) in commands and values, and takes $$ for a dollar sign."""
    return text.replace("$", "$$")
