"""Runs as JobSets: manifests against golden files and the API's rules, kubectl by a double that keeps objects, pods as processes here.

No cluster is here. ``kubectl`` alone is a double; what a pod does is run as its manifest says it, by bash, with real ranks.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.errors import UserError
from ditscale.rundir import DONE, FAILED, PREEMPTED, read_lines
from ditscale.studies.launch.launch import run_record
from ditscale.studies.launch.start import load_site
from ditscale.studies.launchers.kubernetes.jobset import jobset_name, manifest
from ditscale.studies.spec.spec import expand, load_spec
from ditscale.training.ports import free_port

pytestmark = pytest.mark.usefixtures("in_repository")
GOLDEN = Path(__file__).parent / "golden"

KUBECTL = '''\
#!{python}
"""Keeps JobSets in a file, as the API server does: get, apply and delete of what ditscale asks for."""
import json, sys
from pathlib import Path
import yaml

store, words = Path("{store}"), sys.argv[1:]
with open("{store}.calls", "a") as calls:
    calls.write(" ".join(words) + "\\n")
if Path("{store}.refuse").exists():
    sys.exit('Error from server (Forbidden): jobsets.jobset.x-k8s.io is forbidden')
objects = json.loads(store.read_text()) if store.exists() else {{}}
namespace = words[words.index("--namespace") + 1]
if "apply" in words:
    new = yaml.safe_load(sys.stdin)
    key = f"{{namespace}}/{{new['metadata']['name']}}"
    assert new["metadata"]["namespace"] == namespace
    print("unchanged" if key in objects else "created")
    objects.setdefault(key, {{**new, "status": {{"restarts": 0}}}})
elif "get" in words:
    key, value = words[words.index("--selector") + 1].split("=")
    print(json.dumps({{"apiVersion": "v1", "kind": "List", "items": [
        one for name, one in objects.items() if name.startswith(namespace + "/") and one["metadata"]["labels"].get(key) == value]}}))
elif "delete" in words:
    name = f"{{namespace}}/{{words[words.index('jobset') + 1]}}"
    if "--wait=false" in words:
        objects[name]["metadata"]["deletionTimestamp"] = "2026-11-29T00:00:00Z"
    else:
        objects.pop(name)
store.write_text(json.dumps(objects))
'''


@pytest.fixture
def in_repository(repository, monkeypatch):
    monkeypatch.chdir(repository)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The double on the PATH; returns the file of its objects."""
    (tmp_path / "bin").mkdir()
    file = tmp_path / "bin" / "kubectl"
    file.write_text(KUBECTL.format(python=sys.executable, store=tmp_path / "objects"))
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path / "objects"


@pytest.fixture
def write(tmp_path):
    """Write a YAML file; returns its path."""
    def write(name, values):
        (tmp_path / name).write_text(yaml.safe_dump(values))
        return str(tmp_path / name)
    return write


@pytest.fixture
def study(write, tmp_path, digits_values):
    """A study of two runs; returns its spec's path and its runs."""
    spec = write("spec.yaml", {"version": 1, "name": "My_study", "metric": {"name": "fd_digits_cnn"}, "config": digits_values,
                               "parameters": {"seed": {"values": [0, 1]}}, "runs_dir": str(tmp_path / "runs")})
    return spec, [planned.run for planned in expand(load_spec(spec), spec)]


@pytest.fixture
def site(write):
    """Write a site with these keys besides the needed ones; returns its path."""
    def site(**values):
        return write("site.yaml", {"name": "kube", "launcher": "kubernetes", "image": "ditscale:1",
                                   "volumes": [{"claim": "shared", "path": "/"}], **values})
    return site


def ditscale(*arguments, code=0):
    done = CliRunner().invoke(main, [str(word) for word in arguments])
    assert done.exit_code == code, done.output
    return done.output


def rendered(spec_path, site_path, *overrides, folder=Path("/shared/work"), runs_dir=None):
    spec = load_spec(spec_path, overrides)
    if runs_dir:
        spec = spec.model_copy(update={"runs_dir": runs_dir})
    planned = expand(spec, spec_path)[0]
    return manifest(spec, planned, load_site(site_path), folder)


CASES = {
    "kubernetes_two_nodes": ({"gpus_per_node": 8, "queue": "team", "time": 60, "memory": "800Gi", "shared_memory": "64Gi",
                              "namespace": "research", "gpu_resource": "amd.com/gpu", "node_selector": {"gpu": "mi300"},
                              "tolerations": ["amd.com/gpu"], "cpus_per_task": 4, "environment": {"WORD": "$(HOME) $x"},
                              "setup": ["module load rocm"]},
                             ("resources.accelerators_per_run=16", "resources.time_margin_minutes=5")),
    "kubernetes_cpu": ({}, ("resources.evaluate=separately", "resources.time_margin_minutes=0")),
}


@pytest.mark.parametrize("case", CASES)
def test_the_manifest_is_the_golden_file(study, site, case):
    """To write it anew: delete the file, and look at what comes."""
    values, overrides = CASES[case]
    made = rendered(study[0], site(**{"volumes": [{"claim": "shared", "path": "/shared"}], **values}), *overrides,
                    runs_dir="/shared/runs")
    file = GOLDEN / f"{case}.yaml"
    if not file.exists():
        file.write_text(yaml.safe_dump(made, sort_keys=False, width=130))
        pytest.fail(f"{file} was not there; it is now")
    assert made == yaml.safe_load(file.read_text())


# What the API takes, in our words: a mapping of fields to kinds; a field with ! must be there. From the JobSet API (v1alpha2) and its
# webhook, batch/v1 Job and core/v1 Pod.
TEXT, WHOLE, MAP, YES_NO = str, int, dict, bool
POD = {"!restartPolicy": {"Never"}, "!terminationGracePeriodSeconds": WHOLE, "nodeSelector": MAP, "tolerations": [{"!key": TEXT, "!operator": {"Exists"}}],
       "!containers": [{"!name": TEXT, "!image": TEXT, "!command": [TEXT], "env": [{"!name": TEXT, "!value": TEXT}],
                        "resources": {"requests": MAP, "limits": MAP}, "volumeMounts": [{"!name": TEXT, "!mountPath": TEXT}]}],
       "volumes": [{"!name": TEXT, "emptyDir": {"medium": {"Memory"}, "sizeLimit": TEXT}, "persistentVolumeClaim": {"!claimName": TEXT}}]}
JOB = {"!completionMode": {"Indexed"}, "!completions": WHOLE, "!parallelism": WHOLE, "!backoffLimit": WHOLE, "activeDeadlineSeconds": WHOLE,
       "podFailurePolicy": {"!rules": [{"!action": {"FailJob", "Ignore", "Count", "FailIndex"},
                                        "onExitCodes": {"containerName": TEXT, "!operator": {"In", "NotIn"}, "!values": [WHOLE]},
                                        "onPodConditions": [{"!type": TEXT, "status": TEXT}]}]},
       "!template": {"metadata": {"labels": MAP}, "!spec": POD}}
REASONS = {"BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy"}
ACTIONS = {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts", "RestartJob", "RestartJobAndIgnoreMaxRestarts"}
JOBSET = {"!apiVersion": {"jobset.x-k8s.io/v1alpha2"}, "!kind": {"JobSet"},
          "!metadata": {"!name": TEXT, "!namespace": TEXT, "labels": MAP, "annotations": MAP},
          "!spec": {"network": {"enableDNSHostnames": YES_NO, "subdomain": TEXT, "publishNotReadyAddresses": YES_NO},
                    "failurePolicy": {"maxRestarts": WHOLE, "rules": [{"!name": TEXT, "!action": ACTIONS, "onJobFailureReasons": [REASONS]}]},
                    "!replicatedJobs": [{"!name": TEXT, "replicas": WHOLE, "!template": {"!spec": JOB}}]}}


def faults(value, rule, where="") -> list[str]:
    """Where a value departs from what the API takes."""
    if isinstance(rule, dict):
        if not isinstance(value, dict):
            return [f"{where}: no mapping"]
        known = {name.lstrip("!"): inner for name, inner in rule.items()}
        found = [f"{where}.{name}: unknown" for name in value if name not in known]
        found += [f"{where}.{name[1:]}: missing" for name in rule if name[0] == "!" and name[1:] not in value]
        return found + [fault for name in value if name in known for fault in faults(value[name], known[name], f"{where}.{name}")]
    if isinstance(rule, list):
        return [fault for number, one in enumerate(value) for fault in faults(one, rule[0], f"{where}[{number}]")]
    is_right = value in rule if isinstance(rule, set) else type(value) is rule
    return [] if is_right else [f"{where}: {value!r}"]


@pytest.mark.parametrize("case", CASES)
def test_the_manifest_holds_to_the_api(study, site, case):
    values, overrides = CASES[case]
    made = rendered(study[0], site(**values), *overrides)
    assert faults(made, JOBSET) == []
    name, spec = made["metadata"]["name"], made["spec"]
    [ranks] = spec["replicatedJobs"]
    job = ranks["template"]["spec"]
    pod = job["template"]["spec"]
    longest = f"{name}-{ranks['name']}-0-{job['completions'] - 1}-abcde"       # a pod's, with the five signs that its Job appends
    for label in (longest, name, spec["network"]["subdomain"]):
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", label) and len(label) <= 63
    for label in [*made["metadata"]["labels"].values(), *job["template"]["metadata"]["labels"].values()]:
        assert re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?", label) and len(label) <= 63
    rules = [rule["name"] for rule in spec["failurePolicy"]["rules"]]
    assert len(set(rules)) == len(rules) and all(re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule) for rule in rules)
    assert all(("onExitCodes" in rule) != ("onPodConditions" in rule) for rule in job["podFailurePolicy"]["rules"])
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    resources = pod["containers"][0]["resources"]
    assert all(resources["requests"][key] == value for key, value in resources.get("limits", {}).items())
    assert len({mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}) == len(pod["volumes"])


def test_the_check_finds_faults(study, site):
    made = rendered(study[0], site())
    del made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]["image"]
    made["spec"]["failurePolicy"]["rules"][0]["action"] = "Restart"
    made["spec"]["suspended"] = True
    assert faults(made, JOBSET) == [".spec.suspended: unknown", ".spec.failurePolicy.rules[0].action: 'Restart'",
                                    ".spec.replicatedJobs[0].template.spec.template.spec.containers[0].image: missing"]


def test_print_shows_all_and_touches_nothing(study, site, store, tmp_path):
    spec, runs = study
    shown = ditscale("launch", spec, "--site", site(gpus_per_node=8, gpu="H100", price_per_gpu_hour=2, context="far/cluster"), "--launcher", "print")
    assert "GPU-hours" in shown and "at 2 per hour" in shown and "2 to start" in shown
    printed = [yaml.safe_load(text) for text in re.findall(r"^apiVersion: .*?(?=^kubectl)", shown, re.MULTILINE | re.DOTALL)]
    assert [one["metadata"]["annotations"]["ditscale/run"] for one in printed] == [run.run_id for run in runs]
    assert shown.count("\nkubectl --context far/cluster --namespace default apply -f ") == 2
    assert not (tmp_path / "runs").exists() and not store.exists()


def test_no_run_is_submitted_twice(study, site, store):
    spec, runs = study
    launch = ("launch", spec, "--site", site(namespace="research", context="far/cluster"))
    assert "0 waiting or running, 2 submitted" in ditscale(*launch)
    assert "2 waiting or running, 0 submitted" in ditscale(*launch)
    objects = json.loads(store.read_text())
    names = [f"research/{jobset_name(load_spec(spec), run.run_id)}" for run in runs]
    assert list(objects) == names and all(run.record.exists() for run in runs)
    shown = ditscale("status", spec)
    assert "pending" in shown and f"job far/cluster/{names[0]}" in shown
    assert ditscale("launch", spec, code=1).count("has a job in Kubernetes") == 2  # nor does this machine take them

    objects[names[0]]["spec"]["suspend"] = True
    store.write_text(json.dumps(objects))
    assert "suspended" in ditscale("status", spec)
    for name, word in zip(names, ("Completed", "Failed")):
        objects[name]["status"] = {"conditions": [{"type": word, "status": "True"}], "terminalState": word}
    store.write_text(json.dumps(objects))
    runs[0].set_status(DONE, images_seen=640)
    runs[1].set_status(FAILED, images_seen=64, reason="no memory")
    assert "1 done, 0 waiting or running, 1 submitted" in ditscale(*launch)    # its old JobSet goes first
    objects = json.loads(store.read_text())
    assert "terminalState" in objects[names[0]]["status"] and "terminalState" not in objects[names[1]]["status"]
    assert all(line.startswith("--context far/cluster --namespace research ") for line in Path(f"{store}.calls").read_text().splitlines())


def test_stop_deletes_and_launch_waits_until_it_is_gone(study, site, store):
    spec, runs = study
    ditscale("launch", spec, "--site", site())
    objects = json.loads(store.read_text())
    at_work, waits = (f"default/{jobset_name(load_spec(spec), run.run_id)}" for run in runs)
    objects[at_work]["status"]["replicatedJobsStatus"] = [{"name": "ranks", "ready": 1}]
    store.write_text(json.dumps(objects))
    shown = ditscale("stop", spec)
    assert f"{runs[0].run_id}: job {at_work} saves a checkpoint and ends\n" in shown
    assert f"{runs[1].run_id}: job {waits} is removed from the queue\n" in shown
    assert "is already ending" in ditscale("stop", spec)
    assert "2 waiting or running, 0 submitted" in ditscale("launch", spec, "--site", site())  # its pods still save


def test_a_refusal_and_a_missing_kubectl_are_one_line(study, site, store, monkeypatch, tmp_path):
    spec, runs = study
    Path(f"{store}.refuse").touch()
    assert ditscale("launch", spec, "--site", site(), code=2) == (
        "error: kubectl failed: Error from server (Forbidden): jobsets.jobset.x-k8s.io is forbidden\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ditscale("launch", spec, "--site", site(), code=2) == (
        "error: the 'kubectl' command is not found; Kubernetes is not installed here. --launcher print shows what would be submitted\n")
    assert "2 queued" in ditscale("status", spec)


@pytest.mark.parametrize("values, words", [
    ({"image": "a b"}, "'image' is 'a b'"),
    ({"volumes": []}, "at least one claim"),
    ({"volumes": [{"claim": "a", "path": "/x"}, {"claim": "b", "path": "/x/"}]}, "a path of its own"),
    ({"volumes": [{"claim": "a", "path": "x"}]}, "give an absolute path"),
    ({"namespace": "My"}, "'namespace' is 'My'"),
    ({"memory": "64 GB"}, "'memory' is '64 GB'"),
    ({"queue": "a b"}, "'queue' is 'a b'"),
    ({"partition": "gpu"}, "partition is for launcher: slurm"),
    ({"nodeselector": {}}, "did you mean 'node_selector'"),
    ({"launcher": "kubernets"}, "'launcher' is 'kubernets': should be 'deepspeed' or 'slurm' or 'kubernetes'"),
])
def test_a_wrong_site_is_one_clear_line(site, values, words):
    with pytest.raises(UserError) as error:
        load_site(site(**values))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_what_the_pods_cannot_reach_or_finish_is_refused(study, site, store):
    spec, _ = study
    far = site(volumes=[{"claim": "shared", "path": "/elsewhere"}])
    assert "is on none of the site's volumes (shared at /elsewhere)" in ditscale("launch", spec, "--site", far, code=2)
    assert "leaves no time of the site's time 3" in ditscale("launch", spec, "--site", site(time=3), code=2)
    assert not store.exists()


@pytest.fixture
def pods(study, site):
    """Start the pods of the first run, as its manifest says it but for the address of the first; returns the processes."""
    def start(*overrides, **values):
        spec, [run, _] = study
        made = rendered(spec, site(python=sys.executable, gpus_per_node=1, **values), "resources.accelerators_per_run=2", *overrides,
                        folder=Path.cwd())
        job = made["spec"]["replicatedJobs"][0]["template"]["spec"]
        [container] = job["template"]["spec"]["containers"]
        variables = {one["name"]: one["value"].replace("$$", "$") for one in container["env"]}
        assert re.fullmatch(r"(ditscale-my-study-\w{10})-ranks-0-0\.\1", variables["MASTER_ADDR"])
        here = {**os.environ, **variables, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "DS_ACCELERATOR": "cpu"}
        command = [word.replace("$$", "$") for word in container["command"]]
        return [subprocess.Popen(command, env={**here, "JOB_COMPLETION_INDEX": str(index)}, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True) for index in range(job["completions"])]
    processes = []

    def kept(*overrides, **values):
        processes[:] = start(*overrides, **values)
        return processes
    yield kept
    for process in processes:
        process.kill()


def test_pods_train_a_run_are_stopped_and_go_on(study, pods, tmp_path):
    """Two pods of a rank each; a pod is asked to end, as by a drain, and all leave with 75; as new ones they finish."""
    spec, _ = study
    long = ("train.images=6400", "evaluation=null")
    [planned, _] = expand(load_spec(spec, (*long, "resources.accelerators_per_run=2")), spec)
    run = planned.run
    run.create(run_record(load_spec(spec, long), planned))
    both = pods(*long, environment={"WORD": "$(touch gone)"})
    end = time.monotonic() + 120
    while not run.metrics.exists() and time.monotonic() < end:
        time.sleep(0.2)
    both[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [75, 75], (said, run.log.read_text())
    assert run.status()["state"] == PREEMPTED and 0 < run.status()["images_seen"] < 6400
    assert "pod 0 of 2" in run.log.read_text() and said[1].startswith("pod 1 of 2")
    both = pods(*long)
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], (said, run.log.read_text())
    assert run.status()["state"] == DONE and read_lines(run.metrics)[-1]["images_seen"] == 6400 and not Path("gone").exists()


def test_a_pod_without_the_study_says_so(pods):
    for process in pods():
        assert "is the volume with the study mounted" in process.communicate(timeout=60)[0] and process.returncode == 2
