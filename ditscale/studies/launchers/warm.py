"""A process with PyTorch and DeepSpeed loaded, from which the runs of a launch are forked: the launcher's side.

A fresh start of a run is three interpreters, two of them DeepSpeed's launcher, and 6 to 10 processor seconds of imports. A forked run
starts with all that in place and is a process of its own none the less: its memory, threads, random numbers, signals, environment,
open files and end are its own, and nothing passes from one run to the next. The other side is ``launch/fork_server.py``.
"""

import json
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ditscale.studies.launchers.process import Command, Process, die_with_parent, environment_of
from ditscale.writing import writing

MODULE = "ditscale.studies.launch.fork_server"
MESSAGE = 1 << 16                                                              # bytes of one, at most: the words of one run
TITLE = 256                                                                    # letters that ps may show of a run's command


class ForkServer:
    """The process that runs are forked from: made for the first of them, and gone when this object is closed or this process ends.

    Where it cannot be made, has died, or has another environment than a run needs, ``fork`` gives None, for good.
    """

    def __init__(self):
        self.process: subprocess.Popen | None = None
        self.channel: socket.socket | None = None
        self.environment: dict[str, str] = {}
        self.is_lost = False
        self.ended: dict[int, int] = {}                                        # exit codes, by process id

    def fork(self, request: dict, environment: dict[str, str], log: int) -> "Forked | None":
        """A run as ``request`` has it (see fork_server.py), its output at the end of the open file ``log``."""
        if self.process is None and not self.is_lost:
            self._open(environment)
        if self.is_lost or environment != self.environment:
            return None
        try:
            socket.send_fds(self._channel, [json.dumps(request).encode()], [log])
            while "pid" not in (said := self._receive()):
                self._note(said)
        except OSError:
            self.is_lost = True
            return None
        return Forked(self, said["pid"]) if said["pid"] else None

    def look(self) -> None:
        """Take in which runs have ended since."""
        while not self.is_lost:
            try:
                self._note(self._receive(socket.MSG_DONTWAIT))
            except BlockingIOError:
                return
            except OSError:
                self.is_lost = True

    def close(self) -> None:
        """End it, and fork no more. Runs that are still at work are asked to save a checkpoint and end."""
        self.is_lost = True
        if self.process:
            self.process.terminate()
            self.process.wait()
        if self.channel:
            self.channel.close()

    def _open(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self.process = subprocess.Popen([sys.executable, "-u", "-m", MODULE, str(other.fileno()), " " * TITLE], pass_fds=(other.fileno(),),
                                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                            env=environment, start_new_session=True, preexec_fn=die_with_parent)
        try:
            self._receive()                                                    # its word that all is loaded
        except OSError:
            self.is_lost = True                                                # a fresh process then says why, in the run's log

    @property
    def _channel(self) -> socket.socket:
        assert self.channel
        return self.channel

    def _receive(self, flags: int = 0) -> dict:
        """Raises ConnectionError where it has ended, BlockingIOError where nothing was said and ``flags`` ask not to wait."""
        message = self._channel.recv(MESSAGE, flags)
        if not message:
            raise ConnectionError
        return json.loads(message)

    def _note(self, said: dict) -> None:
        self.ended[said["ended"]] = said["code"]


class Forked:
    """A forked run, as far as ``ActiveRun`` asks a ``subprocess.Popen``. It leads a process group of its own."""

    def __init__(self, server: ForkServer, pid: int):
        self.server, self.pid = server, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it is at work. Where the server has died, the run was asked to stop."""
        if self.returncode is None:
            self.server.look()
            self.returncode = self.server.ended.pop(self.pid, -signal.SIGTERM if self.server.is_lost else None)
        return self.returncode


@dataclass(frozen=True)
class WarmCommand:
    """A run that is forked where that can be; else its command is started as any other.

    Args:
        server: forks it.
        cold: the command that does the same in a fresh process.
        worker: the words of the worker.
        devices: of this machine, for the run.
    """

    server: ForkServer
    cold: Command
    worker: tuple[str, ...]
    devices: tuple[int, ...]

    def __str__(self) -> str:
        return str(self.cold)

    def start(self, log: Path) -> Process:
        """As ``Command.start``."""
        with writing(log), open(log, "a") as file:
            request = {"said": str(self), "words": self.worker, "devices": self.devices}
            forked = self.server.fork(request, environment_of(self.cold.environment), file.fileno())
        return forked or self.cold.start(log)
