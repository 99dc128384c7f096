"""``ditscale doctor``: what this machine can do, what is missing, and the command that fixes it."""

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from ditscale import terminal
from ditscale.cost.hardware import this_machine
from ditscale.studies.launchers import launchers
from ditscale.studies.spec.templates import CHECKOUT
from ditscale.training.zero.private import PINNED, version_note

FFCV_PACKAGES = "pkg-config libturbojpeg0-dev libopencv-dev"
SETUP = "make setup" if CHECKOUT else "pip install --force-reinstall ditscale"
OK, OPTIONAL, MISSING = "ok", "optional", "missing"


@dataclass(frozen=True)
class Finding:
    """One check; ``mend`` is the command or step that would fix it."""

    name: str
    state: str
    detail: str
    mend: str = ""


def examine() -> list[Finding]:
    """Runs all checks; never raises."""
    looks: tuple[Callable[[], Finding], ...] = (_python, _torch, _accelerator, _deepspeed, _ffcv, _compiler, _disk)
    return [look() for look in looks] + [_tool(*one.tool) for one in launchers() if one.tool]


def show(findings: list[Finding]) -> bool:
    """Prints them; True if nothing that ditscale needs is missing."""
    console = terminal.console()
    marks = {OK: "[green]ok[/]      ", OPTIONAL: "[yellow]optional[/]", MISSING: "[red]missing[/] "}
    for finding in findings:
        console.print(f"{marks[finding.state]}  {finding.name:<14} {finding.detail}", soft_wrap=True)
        if finding.mend and finding.state != OK:
            console.print(f"          {'':<14} fix: {finding.mend}", soft_wrap=True, markup=False)
    return all(finding.state != MISSING for finding in findings)


def _python() -> Finding:
    version = sys.version.split()[0]
    state = OK if sys.version_info >= (3, 10) else MISSING
    return Finding("Python", state, version, "install Python 3.10 or newer")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch() -> Finding:
    version = _version("torch")
    return Finding("torch", OK if version else MISSING, version or "not installed", SETUP)


def _accelerator() -> Finding:
    machine = this_machine()
    detail = f"{machine.devices} x {machine.name}" + (f", {machine.peak_flops / 1e9:.0f} GFLOP/s per core (fp32, measured)"
                                                      if machine.kind == "cpu" else "")
    return Finding("accelerator", OK, f"{detail}" + ("; no GPU: runs train on CPU with gloo" if machine.kind == "cpu" else ""))


def _deepspeed() -> Finding:
    version = _version("deepspeed")
    if version and (note := version_note(version)):
        return Finding("DeepSpeed", OPTIONAL, note, PINNED)
    return Finding("DeepSpeed", OK if version else MISSING, version or "not installed", SETUP)


def _ffcv() -> Finding:
    """FFCV must import, not only be installed: its shared libraries may be missing."""
    if importlib.util.find_spec("ffcv") is None:
        detail = "not installed; the memory-mapped loader reads the same files"
    else:
        done = subprocess.run([sys.executable, "-c", "import ffcv"], capture_output=True, text=True)
        if done.returncode == 0:
            return Finding("FFCV", OK, _version("ffcv") or "")
        detail = "does not import: " + (done.stderr.strip().splitlines() or ["?"])[-1]
    return Finding("FFCV", OPTIONAL, detail, f"apt-get install -y {FFCV_PACKAGES} && {sys.executable} -m pip install "
                   "--no-build-isolation --force-reinstall --no-deps ffcv")


def _compiler() -> Finding:
    found = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    return Finding("C++ compiler", OK if found else OPTIONAL,
                   found or "none found: needed by FFCV, and by resources.compile on a CPU", "apt-get install -y g++")


def _disk() -> Finding:
    free = shutil.disk_usage(".").free / 2**30
    return Finding("disk", OK if free > 5 else OPTIONAL, f"{free:.0f} GiB free here", "free some space: checkpoints need it")


def _tool(command: str, what: str) -> Finding:
    path = shutil.which(command)
    return Finding(command, OK if path else OPTIONAL, path or f"not found: {what} is not available", f"only if you use {what}")
