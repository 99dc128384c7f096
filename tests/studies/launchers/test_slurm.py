"""A real SLURM on this machine: arrays, a preemption, a stop, a cancelled job, and the launch that completes what is missing.

The cluster is one node; its daemons, key, state and ports are its own and end with the test. Nothing outside is touched.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ditscale.rundir import DONE, PREEMPTED, QUEUED, RunDir, read_lines
from ditscale.training.ports import free_port

PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue")
DITSCALE = [sys.executable, "-c", "from ditscale.cli import main; main()"]
STEPS = 600
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """SLURM's daemons in a folder, and what is asked of them."""

    def __init__(self, folder: Path):
        self.folder, self.daemons, self.is_up = folder, [], False
        self.environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}

    def switch_on(self) -> None:
        folder = self.folder
        for name in ("state", "spool", "munge"):
            (folder / name).mkdir(mode=0o700)
        (folder / "munge" / "key").write_bytes(os.urandom(128))
        (folder / "munge" / "key").chmod(0o400)
        conf = folder / "slurm.conf"
        conf.write_text(CONF.format(folder=folder, host=socket.gethostname(), ports=(free_port(), free_port())))
        parts = ("key-file", "pid-file", "log-file", "seed-file")
        self._start("munged", "--force", "--foreground", "--socket", f"{folder}/munge.socket",
                    *(f"--{part}={folder}/munge/{part.removesuffix('-file')}" for part in parts))
        wait_for((folder / "munge.socket").exists, 20)
        self._start("slurmctld", "-D", "-f", conf)
        self._start("slurmd", "-D", "-f", conf)
        wait_for(lambda: "idle" in self.said("sinfo", "--noheader"), 30)
        self.is_up = True

    def _start(self, *command) -> None:
        with open(self.folder / f"{command[0]}.out", "w") as out:
            self.daemons.append(subprocess.Popen([shutil.which(command[0], path=PATH), *map(str, command[1:])], stdout=out,
                                                 stderr=subprocess.STDOUT, env=self.environment))

    def said(self, *command) -> str:
        try:
            return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60).stdout
        except subprocess.TimeoutExpired:                                      # slurmctld has died, or never came
            return ""

    def last_words(self) -> str:
        """The last line of each daemon, for who wants to know why there is no cluster."""
        lines = {out.stem: out.read_text(errors="replace").splitlines()[-1:] for out in sorted(self.folder.glob("*.out"))}
        return "; ".join(f"{name}: {line}" for name, found in lines.items() for line in found)

    def queue(self) -> dict[str, str]:
        """Jobs and their states."""
        return dict(line.split("|") for line in self.said("squeue", "--noheader", "--array", "--format=%i|%T").splitlines())

    def ditscale(self, repository, *arguments) -> str:
        done = subprocess.run([*DITSCALE, *map(str, arguments)], cwd=repository, env=self.environment, capture_output=True,
                              text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def switch_off(self) -> None:
        if self.is_up:
            self.said("scancel", f"--user={os.getuid()}")
            ends = time.monotonic() + 40
            while self.queue() and time.monotonic() < ends:
                time.sleep(0.5)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def wait_for(condition, seconds: float = 200) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "waited too long"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    missing = [tool for tool in TOOLS if not shutil.which(tool, path=PATH)]
    if missing or os.getuid():
        pytest.skip(f"a SLURM of one's own needs {'root' if os.getuid() else ' and '.join(missing) + ' (slurm-wlm, munge)'}")
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        try:
            cluster.switch_on()
        except (AssertionError, OSError) as error:                             # a jail without what its daemons need
            pytest.skip(f"a SLURM of one's own cannot be set up on this machine: {error!r}; {cluster.last_words()}")
        yield cluster
    finally:
        cluster.switch_off()


@pytest.fixture
def study(tmp_path, digits_values):
    """Write the spec of some runs into a folder of its own; returns its path and the study's directory."""
    config = {**digits_values, "resources": {"log_every_images": 64}}
    config["train"].update(images=64 * STEPS, checkpoint_every_images=64 * STEPS // 2, precision="fp32")
    config["evaluation"]["every_images"] = 64 * STEPS // 2                            # not the checkpoints of early stops

    def write(name, runs=3, **changes):
        for key, value in changes.items():
            config[key] = value
        parameters = {"model.name": {"value": "DiT-atto/8"}, "seed": {"values": list(range(runs))}}
        spec = {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": config, "parameters": parameters,
                "runs_dir": str(tmp_path / name)}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(spec))
        return path, tmp_path / name / "study"
    return write


def runs_of(folder: Path) -> dict[int, RunDir]:
    """The runs by seed."""
    runs = [RunDir(path.parent) for path in folder.glob("*/run.json")]
    return {run.read_record()["config"]["seed"]: run for run in runs}


def losses(run: RunDir) -> list[float]:
    return [line["loss/generative"] for line in read_lines(run.metrics)]


def scores(run: RunDir) -> list[float]:
    return [line["score"] for line in read_lines(run.evals)]


@pytest.fixture
def site(tmp_path):
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({"name": "here", "environment": {"GLOO_SOCKET_IFNAME": "lo"}}))
    return tmp_path / "site.yaml"


def test_launch_completes_what_a_preemption_and_a_cancellation_left(cluster, study, site, repository):
    """Two runs on two cores. One is preempted and goes on by itself; the other is cancelled at work, and waits for the next launch."""
    spec, folder = study("short", runs=2, evaluation=None)
    launch = ("launch", spec, "--site", site)
    assert "2 runs, 0 done, 0 waiting or running, 2 submitted" in cluster.ditscale(repository, *launch)
    runs, [preempted, cancelled] = runs_of(folder), sorted(cluster.queue())
    wait_for(lambda: losses(runs[0]) and losses(runs[1]))
    cluster.said("scancel", "--signal=USR1", preempted)
    cluster.said("scancel", cancelled)
    wait_for(lambda: cancelled not in cluster.queue() and not runs[1].is_locked())
    assert 0 < len(losses(runs[1])) < STEPS and runs[1].status()["reason"] == "SIGTERM"

    assert "2 runs, 0 done, 1 waiting or running, 1 submitted" in cluster.ditscale(repository, *launch)
    wait_for(lambda: not cluster.queue())
    starts = {seed: re.findall(r"^job (\S+) on", run.log.read_text(), re.MULTILINE) for seed, run in runs.items()}
    assert starts[0] == [preempted, preempted] and len(starts[1]) == 2 and starts[1][0] == cancelled != starts[1][1]
    for run in runs.values():
        assert run.status()["state"] == DONE
        assert [line["images_seen"] for line in read_lines(run.metrics)] == [64 * step for step in range(1, STEPS + 1)]
    assert "2 runs, 2 done, 0 waiting or running, 0 submitted" in cluster.ditscale(repository, *launch)


@pytest.mark.slow
def test_a_study_on_slurm_is_the_study_on_this_machine(cluster, study, site, repository):
    local, local_folder = study("local")
    spec, folder = study("some where $(touch gone)")
    launch = ("launch", spec, "--site", site)

    assert "3 runs, 0 done, 0 waiting or running, 3 submitted" in cluster.ditscale(repository, *launch)
    assert "3 runs, 0 done, 3 waiting or running, 0 submitted" in cluster.ditscale(repository, *launch)
    runs, ids = runs_of(folder), sorted(cluster.queue())
    assert len(ids) == 3
    job = {seed: ids[seed] for seed in runs}

    wait_for(lambda: losses(runs[0]) and losses(runs[1]))                      # on two cores, so that the third waits
    assert f"job {job[2]} is removed from the queue" in cluster.ditscale(repository, "stop", spec, "seed=2")
    cluster.said("scancel", "--signal=USR1", job[0])                           # as --signal does before the time limit
    assert f"job {job[1]} saves a checkpoint and ends" in cluster.ditscale(repository, "stop", spec, "seed=1")
    wait_for(lambda: cluster.queue().keys() == {job[0]})
    wait_for(lambda: not cluster.queue())
    assert runs[0].status()["state"] == DONE and runs[0].log.read_text().count(f"job {job[0]} on") == 2
    assert runs[1].status()["state"] == PREEMPTED and runs[1].status()["reason"] == "SIGUSR1"
    assert runs[2].status()["state"] == QUEUED and not runs[2].log.exists()

    assert "3 runs, 1 done, 0 waiting or running, 2 submitted" in cluster.ditscale(repository, *launch)
    wait_for(lambda: not cluster.queue())
    assert {run.status()["state"] for run in runs.values()} == {DONE}
    assert "3 runs, 3 done, 0 waiting or running, 0 submitted" in cluster.ditscale(repository, *launch)

    cluster.ditscale(repository, "launch", local)
    for seed, run in runs_of(local_folder).items():
        assert run.run_id == runs[seed].run_id and losses(run) == losses(runs[seed]) and scores(run) == scores(runs[seed])
        assert len(losses(run)) == STEPS and len(scores(run)) == 2
    assert not (repository / "gone").exists()
