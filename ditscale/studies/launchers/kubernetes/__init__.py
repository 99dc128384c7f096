"""Runs as JobSets of a Kubernetes cluster, one per run, through ``kubectl``.

``<study>/kubernetes/`` has a manifest and a record for each run that was submitted. A run's JobSet has the same name each time, so that
it cannot exist twice. A JobSet is deleted only after its pods: it exists while they save a checkpoint, and no other is submitted meanwhile.
"""

import json
import shlex
import shutil
import time
from pathlib import Path

import yaml

from ditscale.rundir import write_json
from ditscale.studies.launchers.kubernetes.jobset import jobset_name, manifest, study_label
from ditscale.studies.launchers.kubernetes.site import KubernetesSite
from ditscale.studies.launchers.protocol import Job, ask, check_margin
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.spec import PlannedRun

LABEL, FOLDER = "Kubernetes", "kubernetes"
PENDING, SUSPENDED, RUNNING, TERMINATING = "PENDING", "SUSPENDED", "RUNNING", "TERMINATING"


class Launcher:
    """See protocol.Queue. A job's id is ``context/namespace/name``, the context left out where it is kubectl's current one."""

    settings, tool, label, folder = KubernetesSite, ("kubectl", LABEL), LABEL, FOLDER
    job_times = ("DITSCALE_JOB_START_TIME", "DITSCALE_JOB_END_TIME")           # set by pod.py

    def submit(self, spec, missing, site, prepare):
        folder, manifests = spec.directory / FOLDER, _manifests(spec, missing, site)
        there = {found["metadata"]["name"] for found in _jobsets(spec, site.context, site.namespace)} if missing else set()
        for planned, text in manifests:
            prepare(planned)
            name = jobset_name(spec, planned.run_id)
            (folder / f"{name}.yaml").write_text(text)
            write_json(folder / f"{name}.json", {"run": planned.run_id, "context": site.context, "namespace": site.namespace,
                                                 "site": site.name, "submitted": time.time()})
            if name in there:                                                  # it has ended: what has not is not missing
                ask(LABEL, *_kubectl(site.context, site.namespace), "delete", "jobset", name, "--ignore-not-found",
                    "--cascade=foreground")
            ask(LABEL, *_kubectl(site.context, site.namespace), "apply", "-f", "-", text=text)
            yield f"submitted {planned.run_id} as job {_job_id(site.context, site.namespace, name)}: {folder / name}.yaml"

    def live(self, spec) -> dict[str, Job]:
        if not shutil.which("kubectl"):
            return {}
        records = {path.stem: json.loads(path.read_text()) for path in sorted((spec.directory / FOLDER).glob("*.json"))}
        jobs = {}
        for context, namespace in dict.fromkeys((record["context"], record["namespace"]) for record in records.values()):
            for found in _jobsets(spec, context, namespace):
                name, state = found["metadata"]["name"], _state(found)
                record = records.get(name, {})
                if state and (record.get("context"), record.get("namespace")) == (context, namespace):
                    jobs[record["run"]] = Job(_job_id(context, namespace, name), state, self)
        return jobs

    def stop(self, job: Job) -> str:
        if job.state == TERMINATING:
            return f"job {job.id} is already ending"
        *context, namespace, name = job.id.rsplit("/", 2)
        ask(LABEL, *_kubectl(context[0] if context else None, namespace), "delete", "jobset", name, "--ignore-not-found",
            "--cascade=foreground", "--wait=false")
        return f"job {job.id} saves a checkpoint and ends" if job.state == RUNNING else f"job {job.id} is removed from the queue"

    def show(self, spec, missing, site, machine):
        folder = spec.directory / FOLDER
        for planned, text in _manifests(spec, missing, site):
            file = folder / f"{jobset_name(spec, planned.run_id)}.yaml"
            yield f"# {file}\n{text}"
            yield f"{shlex.join((*_kubectl(site.context, site.namespace), 'apply', '-f', str(file)))}\n"


def _manifests(spec: Spec, missing: list[PlannedRun], site: KubernetesSite) -> list[tuple[PlannedRun, str]]:
    """Each run's manifest, as YAML. An error in one is reported before any is submitted."""
    for folder in (spec.directory.absolute(), Path.cwd()):
        site.check_reaches(folder)
    for planned in missing:
        check_margin(60 * planned.config.resources.time_margin_minutes, site.time)
    return [(planned, yaml.safe_dump(manifest(spec, planned, site, Path.cwd()), sort_keys=False, width=130)) for planned in missing]


def _jobsets(spec: Spec, context: str | None, namespace: str) -> list[dict]:
    said = ask(LABEL, *_kubectl(context, namespace), "get", "jobsets", "--selector", f"ditscale/study={study_label(spec)}", "-o", "json")
    return json.loads(said)["items"]


def _state(jobset: dict) -> str | None:
    """The state of a JobSet; None if it has ended."""
    status = jobset.get("status", {})
    if jobset["metadata"].get("deletionTimestamp"):
        return TERMINATING
    ended = [one["type"] for one in status.get("conditions", []) if one["type"] in ("Completed", "Failed") and one["status"] == "True"]
    if status.get("terminalState") or ended:
        return None
    if jobset["spec"].get("suspend"):
        return SUSPENDED                                                       # Kueue's word for a waiting run
    return RUNNING if any(one.get("ready") for one in status.get("replicatedJobsStatus", [])) else PENDING


def _kubectl(context: str | None, namespace: str) -> tuple[str, ...]:
    return ("kubectl", *(("--context", context) if context else ()), "--namespace", namespace)


def _job_id(context: str | None, namespace: str, name: str) -> str:
    return "/".join(filter(None, (context, namespace, name)))
