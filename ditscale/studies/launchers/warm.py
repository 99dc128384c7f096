"""A process with PyTorch and DeepSpeed loaded, from which the runs of a launch are forked: the launcher's side.

A fresh start of a run takes three interpreters, two of them DeepSpeed's launcher, and 6 to 10 processor seconds of imports. A forked run
skips these and is still a separate process: it has its own memory, threads, random numbers, signals, environment
and open files, and nothing passes from one run to the next. The other side is ``launch/fork_server.py``.
"""

import json
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ditscale.studies.launchers.process import Command, Process, environment_of, started
from ditscale.writing import writing

MODULE = "ditscale.studies.launch.fork_server"
MESSAGE = 1 << 16                                                              # most bytes of a message: the words of one run
TITLE = 256                                                                    # most characters of a run's command in ps


class ForkServer:
    """The process that runs are forked from: started for the first run, ended when this object is closed or this process ends.

    If it cannot be started, has died, or has another environment than a run needs, ``fork`` returns None from then on.
    """

    def __init__(self):
        self.process: subprocess.Popen | None = None
        self.channel: socket.socket | None = None
        self.environment: dict[str, str] = {}
        self.is_lost = False
        self.ended: dict[int, int] = {}                                        # exit codes, by process id

    def fork(self, request: dict, environment: dict[str, str], log: int) -> "Forked | None":
        """Starts the run in ``request`` (see fork_server.py); its output is appended to the open file ``log``."""
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
        """Records which runs have ended since."""
        while not self.is_lost:
            try:
                self._note(self._receive(socket.MSG_DONTWAIT))
            except BlockingIOError:
                return
            except OSError:
                self.is_lost = True

    def close(self) -> None:
        """Ends the server. Running runs are asked to save a checkpoint and end."""
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
            self.process = started([sys.executable, "-u", "-m", MODULE, str(other.fileno()), " " * TITLE], pass_fds=(other.fileno(),),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        try:
            self._receive()                                                    # the message that everything is loaded
        except OSError:
            self.is_lost = True                                                # a fresh process then reports the reason in the run's log

    @property
    def _channel(self) -> socket.socket:
        assert self.channel
        return self.channel

    def _receive(self, flags: int = 0) -> dict:
        """Raises ConnectionError if it has ended, BlockingIOError if there is no message and ``flags`` say not to wait."""
        message = self._channel.recv(MESSAGE, flags)
        if not message:
            raise ConnectionError
        return json.loads(message)

    def _note(self, said: dict) -> None:
        self.ended[said["ended"]] = said["code"]


class Forked:
    """A forked run, with the part of ``subprocess.Popen`` that ``ActiveRun`` uses. It leads its own process group."""

    def __init__(self, server: ForkServer, pid: int):
        self.server, self.pid = server, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs. If the server has died, the run was asked to stop."""
        if self.returncode is None:
            self.server.look()
            self.returncode = self.server.ended.pop(self.pid, -signal.SIGTERM if self.server.is_lost else None)
        return self.returncode


@dataclass(frozen=True)
class WarmCommand:
    """A run that is forked if possible; otherwise its command is started normally.

    Args:
        server: forks it.
        cold: the command that does the same in a fresh process.
        worker: the worker's arguments.
        devices: this machine's devices for the run.
    """

    server: ForkServer
    cold: Command
    worker: tuple[str, ...]
    devices: tuple[int, ...]

    def __str__(self) -> str:
        return str(self.cold)

    def start(self, log: Path) -> Process:
        """Like ``Command.start``."""
        with writing(log), open(log, "a") as file:
            request = {"said": str(self), "words": self.worker, "devices": self.devices}
            forked = self.server.fork(request, environment_of(self.cold.environment), file.fileno())
        return forked or self.cold.start(log)
