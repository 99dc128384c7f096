"""The command of a pod: starts this node's ranks, forwards signals, and ends with the exit code that decides what is next.

``python -m ditscale.studies.launchers.kubernetes.pod RUN_DIR NODES RANKS_PER_NODE MINUTES STEP...``; steps as of ``protocol.steps``,
0 minutes for no limit. The pod's number is its Job's completion index. The first pod writes into the run's ``log.txt``, the others say
what they have to say to ``kubectl logs``: appending from several nodes would mix lines.
"""

import os
import signal
import socket
import subprocess
import sys
import time

from ditscale.rundir import STOPPED, RunDir
from ditscale.studies.launch.settle import main as settle
from ditscale.studies.launchers.kubernetes import Launcher
from ditscale.training.preemption import EXIT_CODE

LEAVE_SECONDS = 60                                                             # for ranks to follow the first that left
NAME_SECONDS = 600                                                             # for the first pod to have an address


class Ranks:
    """The ranks of one node, while they run."""

    def __init__(self):
        self.processes, self.was_asked = [], False
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):         # the first process of a container has no other handlers
            signal.signal(number, self._on_signal)

    def work(self, command: list[str], node: int, nodes: int, per_node: int, log) -> int:
        """Start them and wait for all; 0, or the exit code of the first that left with another. Then the rest is asked to leave."""
        self.processes = []
        for local in range(per_node):
            numbers = {"RANK": node * per_node + local, "LOCAL_RANK": local, "WORLD_SIZE": nodes * per_node}
            variables = {**os.environ, **{name: str(value) for name, value in numbers.items()}}
            self.processes.append(subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        if self.was_asked:                                                     # while they were being started
            self._send(signal.SIGTERM)
        code, deadline = 0, None
        while any(process.poll() is None for process in self.processes):
            failed = [process.returncode for process in self.processes if process.returncode]
            if failed and not code:
                code, deadline = failed[0], time.monotonic() + LEAVE_SECONDS
                self._send(signal.SIGTERM)
            if deadline and time.monotonic() > deadline:
                self._send(signal.SIGKILL)
            time.sleep(0.1)
        code = code or next((process.returncode for process in self.processes if process.returncode), 0)
        return 128 - code if code < 0 else code                                # as a shell says that a signal ended it

    def _on_signal(self, number, frame) -> None:
        self.was_asked = True
        self._send(number)

    def _send(self, number: int) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)


def main(run_path: str, nodes: str, per_node: str, minutes: str, *steps: str) -> int:
    """The exit code: 0 done, 75 to go on, others failed."""
    ranks, started, node = Ranks(), time.time(), int(os.environ["JOB_COMPLETION_INDEX"])
    if not RunDir(run_path).path.is_dir():
        print(f"error: {run_path} is not there; is the volume with the study mounted at the path that it has outside?")
        return 2
    if int(minutes):
        os.environ.update(zip(Launcher.job_times, (str(started), str(started + 60 * int(minutes)))))
    log = open(RunDir(run_path).log, "a") if node == 0 else sys.stdout
    print(f"pod {node} of {nodes} on {socket.gethostname()}", file=log, flush=True)
    if int(nodes) > 1 and not _has_address(os.environ["MASTER_ADDR"], ranks):
        print(f"error: {os.environ['MASTER_ADDR']} has no address after {NAME_SECONDS} s", file=log, flush=True)
        return EXIT_CODE if ranks.was_asked else 1
    code = 0
    for step in steps:
        words = [word for word in (run_path, step) if word]
        code = ranks.work([sys.executable, "-m", "ditscale.studies.launch.worker", *words], node, int(nodes), int(per_node), log)
        if code:
            break
        if ranks.was_asked:                                                    # between two steps
            return EXIT_CODE
    if node == 0:
        return settle(run_path, str(code), str(started))
    return EXIT_CODE if ranks.was_asked and code in STOPPED else code          # stopped before Python listened


def _has_address(name: str, ranks: Ranks) -> bool:
    """Whether the first pod's name leads to it by now; the record in the DNS comes a little after the pod."""
    end = time.monotonic() + NAME_SECONDS
    while time.monotonic() < end and not ranks.was_asked:
        try:
            socket.getaddrinfo(name, None)
            return True
        except socket.gaierror:
            time.sleep(1)
    return False


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
