"""A training on a CPU keeps freed memory in the process; elsewhere nothing changes."""

import platform
import subprocess
import sys

import pytest

from dynunet_bundle.training.process import numerics
from dynunet_bundle.training.process.numerics import keep_freed_memory

PROGRAM = """
import resource, sys
import torch
from dynunet_bundle.training.process.numerics import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory("cpu")
def step():
    first = torch.zeros(2**22)  # 16 MiB
    second = torch.zeros(2**24)
    return second[: len(first)] + first
for _ in range(20):  # until it holds all that it needs
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_memory_is_not_taken_from_the_system_again():
    kept, fresh = (
        int(subprocess.check_output([sys.executable, "-c", PROGRAM, word], text=True))
        for word in ("keep", "leave")
    )
    assert kept < fresh / 10


def test_on_a_gpu_and_with_other_allocators_nothing_changes(monkeypatch):
    monkeypatch.setattr(numerics.ctypes, "CDLL", lambda name: pytest.fail("called"))
    assert not keep_freed_memory("cuda:0")
    monkeypatch.setattr(numerics.platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory("cpu")
