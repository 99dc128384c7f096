"""Two hosts on this machine: the ``deepspeed`` launcher over pdsh and ssh, gloo between them, kills and signals.

A host is a set of Linux namespaces: its own network, host name, processes and mounts, with an sshd. All of it is gone when its
first process is killed, and nothing outside is touched: the ssh config lies over the system's in the hosts' mounts only.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ditscale.rundir import DONE, FAILED, PREEMPTED, QUEUED, RUNNING, RunDir, read_lines
from ditscale.training.checkpoint.checkpoint import list_checkpoints
from ditscale.training.loop import train

pytestmark = pytest.mark.usefixtures("in_repository")

TOOLS = ("ip", "unshare", "nsenter", "ssh-keygen", "sshd", "pdsh")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
ADDRESSES = ("10.77.0.1", "10.77.0.2")
STEPS = 60
FP32 = {"train.images": STEPS * 64, "train.checkpoint_every_images": 10 * 64, "train.precision": "fp32", "evaluation": None,
        "resources.deepspeed": "ds_configs/zero2.json"}
BOTH = {**FP32, "resources.accelerators_per_run": 2}
HOST = """
set -e
hostname "$1"
ip link set lo up
mount -t tmpfs none /run && mkdir /run/sshd
mount --bind ssh_config /etc/ssh/ssh_config
echo up
read cable
ip address add "$2/24" dev eth0
ip link set eth0 up
exec sshd_path -D -e -f sshd_config -o ListenAddress="$2" 2>"$1.log"
"""
SSH_CONFIG = """
Host *
  IdentityFile {folder}/key
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""
SSHD_CONFIG = """
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
PermitRootLogin yes
UsePAM no
PidFile none
"""


class Host:
    """One of the hosts, without its cable."""

    def __init__(self, name: str, address: str, folder: Path):
        script = HOST.replace("sshd_path", shutil.which("sshd", path=PATH))      # sshd wants to be called by its whole path
        self.first = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc", "bash", "-c", script, "bash",
             name, address], cwd=folder, env={**os.environ, "PATH": PATH}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.first.stdout.readline() == "up\n"

    def connected(self) -> None:
        """The cable is in."""
        self.first.stdin.write("cable\n")
        self.first.stdin.flush()

    def start(self, command: list[str], **options) -> subprocess.Popen:
        """A command in this host, as a process group of its own."""
        enter = ["nsenter", "--target", str(_child(self.first.pid)), "--net", "--mount", "--pid", "--uts",
                 f"--wd={os.getcwd()}"]
        return subprocess.Popen([*enter, *command], start_new_session=True, text=True, **options)

    def said_by(self, command: list[str]) -> str:
        process = self.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return process.communicate(timeout=60)[0]

    def kill_worker(self) -> None:
        """kill -9 of this host's rank, and of nothing else."""
        [pid] = self.said_by(["pgrep", "-f", "--", "-m ditscale.studies.launch.worker"]).split()
        self.said_by(["kill", "-9", pid])

    def switch_off(self) -> None:
        self.first.kill()
        self.first.communicate()


class Hosts:
    """Both, and a launcher in the first."""

    def __init__(self, folder: Path):
        self.folder, self.log, self.hosts, self.launchers = folder, folder / "launcher.log", [], []

    def switch_on(self) -> None:
        folder = self.folder
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
        (folder / "ssh_config").write_text(SSH_CONFIG.format(folder=folder))
        (folder / "sshd_config").write_text(SSHD_CONFIG.format(folder=folder))
        (folder / "hosts").write_text("".join(f"{address} slots=1\n" for address in ADDRESSES))
        (folder / "env").write_text("GLOO_SOCKET_IFNAME=eth0\nDS_ACCELERATOR=cpu\nOMP_NUM_THREADS=1\n")
        for number, address in enumerate(ADDRESSES, start=1):
            self.hosts.append(Host(f"host{number}", address, folder))
        first, second = (str(host.first.pid) for host in self.hosts)
        subprocess.run(["ip", "link", "add", "eth0", "netns", first, "type", "veth", "peer", "name", "eth0", "netns", second],
                       check=True, env={**os.environ, "PATH": PATH})
        for host in self.hosts:
            host.connected()
        _wait(lambda: all(self.hosts[0].said_by(["ssh", address, "hostname"]) == f"host{number}\n"
                          for number, address in enumerate(ADDRESSES, start=1)), seconds=20)

    def launch(self, run) -> subprocess.Popen:
        """The documented command."""
        command = [str(Path(sys.executable).with_name("deepspeed")), "--hostfile", str(self.folder / "hosts"), "--master_addr",
                   ADDRESSES[0], "--no_local_rank", "--module", "ditscale.studies.launch.worker", str(run.path)]
        env = {**os.environ, "DS_ENV_FILE": str(self.folder / "env"), "DS_ACCELERATOR": "cpu"}
        with open(self.log, "w") as log:
            self.launchers.append(self.hosts[0].start(command, env=env, stdout=log, stderr=subprocess.STDOUT))
        return self.launchers[-1]

    def launch_study(self, *arguments) -> str:
        """``ditscale launch`` in the first host, to its end; what it says."""
        launcher = self.start_study(*arguments)
        said, _ = launcher.communicate(timeout=300)
        assert launcher.returncode == 0, said
        return said

    def start_study(self, *arguments) -> subprocess.Popen:
        command = [sys.executable, "-c", "from ditscale.cli import main; main()", "launch", *map(str, arguments)]
        env = {**os.environ, "DS_ENV_FILE": str(self.folder / "env"), "DS_ACCELERATOR": "cpu"}
        self.launchers.append(self.hosts[0].start(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        return self.launchers[-1]

    def terminate(self, launcher: subprocess.Popen) -> None:
        """SIGTERM to the ``deepspeed`` command itself."""
        os.kill(_child(launcher.pid), signal.SIGTERM)
        launcher.wait(timeout=60)

    def train(self, run) -> None:
        assert self.launch(run).wait(timeout=300) == 0, self.log.read_text()

    def switch_off(self) -> None:
        for host in self.hosts:
            host.switch_off()
        for launcher in self.launchers:
            launcher.wait(timeout=10)


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _wait(condition, seconds: float = 200) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    missing = [tool for tool in TOOLS if not shutil.which(tool, path=PATH)]
    if missing or os.getuid():
        pytest.skip(f"two hosts need {'root' if os.getuid() else ' and '.join(missing)}")
    if subprocess.run(["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "true"], capture_output=True).returncode:
        pytest.skip("two hosts need namespaces, and this machine forbids them")
    both = Hosts(tmp_path_factory.mktemp("hosts"))
    try:
        try:
            both.switch_on()
        except (subprocess.CalledProcessError, AssertionError) as error:       # no veth or mount in this machine's kernel or jail
            pytest.skip(f"two hosts cannot be made on this machine: {error!r}")
        yield both
    finally:
        both.switch_off()


def losses(run):
    return [line["loss/generative"] for line in read_lines(run.metrics)]


def test_two_hosts_give_the_losses_of_one_rank(hosts, make_run, world):
    few = {"train.images": 20 * 64}
    _, run = make_run("both", {**BOTH, **few})
    hosts.train(run)
    assert run.status()["state"] == DONE and run.status()["host"] == "host1"
    config, alone = make_run("alone", {**FP32, **few})
    train(config, alone, world)
    assert len(losses(alone)) == 20 and losses(run) == pytest.approx(losses(alone), abs=2e-6)


@pytest.fixture
def study(digits_values, tmp_path):
    """Write the spec of a study of some seeds, in a folder of its own."""
    def write(name, images, seeds=(0, 1)):
        digits_values.update(evaluation=None, resources={"log_every_images": 64, "deepspeed": "ds_configs/zero2.json"})
        digits_values["train"].update(images=images, precision="fp32")
        spec = {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": digits_values,
                "parameters": {"seed": {"values": list(seeds)}}, "runs_dir": str(tmp_path / name)}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(spec))
        return tmp_path / f"{name}.yaml"
    return write


@pytest.fixture
def pair(hosts, tmp_path):
    """What launches a study over both hosts."""
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({"name": "pair", "launcher": "deepspeed", "hostfile": str(hosts.folder / "hosts")}))
    return "--site", tmp_path / "site.yaml", "resources.accelerators_per_run=2"


@pytest.mark.slow
def test_a_launch_over_two_hosts_that_is_stopped_saves_a_checkpoint(hosts, study, pair, tmp_path):
    launcher = hosts.start_study(study("stopped", 640_000, seeds=[0]), *pair)
    _wait(lambda: any(losses(RunDir(path)) for path in tmp_path.glob("stopped/study/*/")))
    os.kill(_child(launcher.pid), signal.SIGTERM)
    said, _ = launcher.communicate(timeout=120)
    [run] = [RunDir(path) for path in tmp_path.glob("stopped/study/*/")]
    assert "stopped; run the same command to continue" in said, said
    assert run.status()["state"] == PREEMPTED and list_checkpoints(run) and not run.is_locked()
    assert 0 < run.status()["images_seen"] < 640_000


@pytest.mark.slow
def test_a_study_over_two_hosts_is_the_study_on_this_machine(hosts, study, pair, tmp_path):
    """``ditscale launch --site``: the run ids of one rank here, its losses up to the order of sums, and done is done in both."""
    found = {}
    for name, arguments in (("here", ()), ("pair", pair)):
        study(name, images=20 * 64)
        said = hosts.launch_study(tmp_path / f"{name}.yaml", *arguments)
        assert said.count("done: DiT-atto-4-baseline-flow-s") == 2
        assert "2 done, 0 to run" in hosts.launch_study(tmp_path / f"{name}.yaml", *arguments)
        found[name] = {path.name: RunDir(path) for path in (tmp_path / name / "study").iterdir()}
    assert found["here"].keys() == found["pair"].keys() and len(found["here"]) == 2
    for run_id, run in found["pair"].items():
        log = run.log.read_text()
        assert run.status()["host"] == "host1" and all(address in log for address in ADDRESSES)
        assert len(losses(run)) == 20 and losses(run) == pytest.approx(losses(found["here"][run_id]), abs=2e-6)


@pytest.mark.slow
def test_a_killed_host_and_a_stopped_launcher_cost_nothing(hosts, make_run):
    """One rank is killed; the next launch gets SIGTERM; the last one ends with the losses of the run that nobody touched."""
    _, whole = make_run("whole", BOTH)
    hosts.train(whole)
    _, run = make_run("disturbed", BOTH)
    launcher = hosts.launch(run)
    _wait(lambda: list_checkpoints(run))
    hosts.hosts[1].kill_worker()
    assert launcher.wait(timeout=60)
    assert run.status()["state"] == FAILED and ADDRESSES[1] in run.status()["reason"]

    saved, seen = len(list_checkpoints(run)), len(losses(run))
    launcher = hosts.launch(run)
    _wait(lambda: len(losses(run)) > seen + 2)
    hosts.terminate(launcher)
    _wait(lambda: run.status()["state"] != RUNNING)
    assert run.status()["state"] == PREEMPTED and run.status()["reason"] == "SIGTERM"
    assert len(list_checkpoints(run)) > saved and len(losses(run)) < STEPS

    _wait(lambda: not run.is_locked())
    hosts.train(run)
    assert losses(run) == losses(whole) and len(losses(whole)) == STEPS


@pytest.mark.slow
def test_what_keeps_one_host_from_starting_ends_both(hosts, make_run):
    _, run = make_run("unseen", BOTH)
    with run.lock():
        assert hosts.launch(run).wait(timeout=60)
    assert f"rank 0 (on host1): {run.path} is being worked on by another process" in hosts.log.read_text()
    assert run.status()["state"] == QUEUED

    hosts.hosts[1].said_by(["mount", "-t", "tmpfs", "none", str(run.path)])
    assert hosts.launch(run).wait(timeout=60)
    assert run.status()["state"] == FAILED
    assert run.status()["reason"] == f"rank 1 (on host2): {run.path} is not a run directory: it has no run.json"
