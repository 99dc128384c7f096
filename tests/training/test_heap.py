"""What glibc's heap does with memory that is freed, in a process of its own."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys, torch
from pathlib import Path
from ditscale.training import heap

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def kept():
    before, tensors = resident(), [torch.ones(2**22) for _ in range(8)]           # 16 MiB each
    held = resident() - before
    del tensors
    return (resident() - before) / held

heap.give_back_freed()
goes = kept()
heap.keep_freed()
print(goes, kept())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tunes glibc's heap, and this Python has another C library")
def test_freed_memory_goes_or_stays():
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    goes, stays = map(float, ran.stdout.split())
    assert goes < 0.3 and stays > 0.9
