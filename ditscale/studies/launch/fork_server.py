"""The process that runs are forked from: ``python -m ditscale.studies.launch.fork_server DESCRIPTOR``, started by launchers/warm.py.

It imports what any run imports, and then only forks, tells the launcher which runs have ended, and ends when the launcher does. It
computes nothing, starts no thread (OpenBLAS does on import, and ends its own before a fork) and touches no device, so a child equals a
fresh process after its imports: a run's random numbers, threads, process groups, handlers, open files, compiled
code and memory are its own and end with it.

The socket carries one message each: from the launcher, with the run's open log,

    {"said": the command that does the same, "words": the worker's, "devices": [0]}

and to it ``{"loaded": true}`` at the beginning, ``{"pid": 17}`` after each fork (null if it failed), ``{"ended": 17, "code": 0}`` after each end.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import numpy as np

from ditscale.data.beton import BetonFile, write_beton
from ditscale.device import NVML_CHECK, is_bad_fork, may_fork
from ditscale.studies.launch import worker
from ditscale.studies.launchers import queues
from ditscale.studies.launchers.process import die_with_parent
from ditscale.studies.launchers.warm import MESSAGE
from ditscale.training.ports import free_port

OURS = ("ditscale.evaluation.evaluate", "ditscale.evaluation.extractors.digits_cnn", "ditscale.training.agreement",
        "ditscale.training.distributed", "ditscale.training.fit", "ditscale.training.guard", "ditscale.training.loop",
        "ditscale.training.zero.strategyfile")
LATER = ("torch.utils.tensorboard", "torch._dynamo", "torch._inductor.compile_fx", "deepspeed.module_inject.auto_ep_layer",
         "deepspeed.runtime.zero.muon.muon_optimizer")                         # imported by functions of torch and DeepSpeed when they are called
ALONE = {"MASTER_ADDR": "127.0.0.1", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1", "CROSS_RANK": "0", "CROSS_SIZE": "1"}
PAUSE = 0.02                                                                   # seconds between checks for ended runs


def main(descriptor: str, blank: str) -> int:
    """The exit code of the server, or in a child that of its run. ``blank`` reserves space for a child's name in ps."""
    worker.outlive_readers()
    worker.quiet_torch()
    with socket.socket(fileno=int(descriptor)) as channel:
        if not may_fork():
            return 1
        load()
        channel.send(json.dumps({"loaded": True}).encode())
        request = serve(channel)
    if request:
        leave(worker.main(*request["words"]))
    return 0


def load() -> None:
    """Imports what any run imports."""
    for name in OURS:
        importlib.import_module(name)
    for name in LATER:
        with suppress(ImportError):
            importlib.import_module(name)
    queues()
    _load_ffcv()
    gc.collect()
    gc.freeze()                                                                # a child's garbage collector does not touch these pages


def _load_ffcv() -> None:
    """Loads FFCV, if it is installed, and numba's compiler, which takes a second at a process's first batch.

    It avoids the threads that numba starts when their number is set, as a child would not have them.
    """
    from ditscale.data.ffcv_import import load_ffcv

    try:
        import numba
    except ImportError:
        return
    set_num_threads, numba.set_num_threads = numba.set_num_threads, lambda count: None
    try:
        backend, _ = load_ffcv()
        if backend:
            _decode_one(backend)
    finally:
        numba.set_num_threads = set_num_threads


def _decode_one(backend) -> None:
    with tempfile.TemporaryDirectory(prefix="ditscale-") as folder:
        path = Path(folder) / "one.beton"
        write_beton(path, {"image": np.zeros((2, 1, 2, 2), np.uint8), "label": np.zeros(2, np.int64)})
        source = backend.FfcvSource(BetonFile(path), "image", 2, False)
        for _ in source.batches(np.arange(2).reshape(1, 2), None):
            pass


def serve(channel: socket.socket) -> dict | None:
    """Forks for each request until the launcher is gone: None. In a child: its request, after the child was made like a fresh process."""
    parent, children = os.getpid(), set[int]()
    while True:
        if select.select([channel], [], [], PAUSE if children else None)[0]:
            message, descriptors, _, _ = socket.recv_fds(channel, MESSAGE, 1)
            if not message:
                return None
            ready, begun = os.pipe()
            pid = _fork()
            if pid == 0:
                channel.close()
                os.close(ready)
                become(request := json.loads(message), descriptors[0], parent)
                os.close(begun)
                return request
            os.close(descriptors[0])
            os.close(begun)
            os.read(ready, 1)                                                  # until the child leads its group: a stop is sent to that group
            os.close(ready)
            children |= {pid} if pid else set()
            channel.send(json.dumps({"pid": pid}).encode())
        for pid in tuple(children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                children.remove(pid)
                channel.send(json.dumps({"ended": pid, "code": os.waitstatus_to_exitcode(status)}).encode())


def _fork() -> int | None:
    """Like ``os.fork``; None if the system has no process or memory left: the other runs must go on."""
    try:
        return os.fork()
    except OSError:
        return None


def become(request: dict, log: int, parent: int) -> None:
    """In a child: sets up the state of a process that the ``deepspeed`` command starts for a run of one rank."""
    from deepspeed.accelerator import get_accelerator

    os.setsid()
    die_with_parent()
    _show_in_ps([sys.executable, "-u", "-m", worker.__name__, *request["words"]])
    if os.getppid() != parent:                                                 # the server died before that was requested
        os.kill(os.getpid(), signal.SIGTERM)
    for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
        os.dup2(log, descriptor)
    os.close(log)
    del os.environ[NVML_CHECK]
    os.environ.update({**ALONE, "MASTER_PORT": str(free_port())})
    accelerator = get_accelerator()
    accelerator.set_visible_devices_envs(os.environ, request["devices"])
    random.seed()                                                              # otherwise all children would draw the same numbers
    np.random.seed()
    if is_bad_fork(accelerator.device_name()):
        print(f"$ {request['said']}\na fresh process, as a GPU was touched in process {parent}", flush=True)
        os.execv(sys.executable, [sys.executable, "-u", "-m", worker.__name__, *request["words"]])
    print(f"$ {request['said']}\nforked from process {parent}, which has PyTorch and DeepSpeed loaded", flush=True)


def leave(code: int) -> NoReturn:
    """Ends a child like an interpreter, but without tearing down modules, which would copy the shared memory."""
    threading._shutdown()                                                      # type: ignore[attr-defined]  # as multiprocessing ends its children
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)
    os._exit(code)


def _show_in_ps(words: list[str]) -> None:
    """Linux: sets the process's command as ps shows it, as far as the kernel's buffer has space."""
    first, last = (int(field) for field in Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    if first and (room := last - first) > 0:                                   # zeros if the kernel does not report it
        ctypes.memmove(first, "\0".join(words).encode()[:room - 1].ljust(room, b"\0"), room)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
