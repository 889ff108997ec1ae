"""Which cores a process gets, on made machines, and that this one really is bound."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.training.process.affinity import (
    bind_process,
    choose_cores,
    core_siblings,
    format_cores,
    nearby_cores,
    parse_cores,
)

GPUS = ["0000:1a:00.0", "0000:3b:00.0", "0000:86:00.0", "0000:af:00.0"]


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """Two nodes of four physical cores, two threads each: 0-3 and 8-11, 4-7 and 12-15; two GPUs at each."""
    for core in range(16):
        folder = tmp_path / f"devices/system/cpu/cpu{core}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{core % 8},{core % 8 + 8}\n")
    for index, address in enumerate(GPUS):
        folder = tmp_path / "bus/pci/devices" / address
        folder.mkdir(parents=True)
        (folder / "local_cpulist").write_text("0-3,8-11\n" if index < 2 else "4-7,12-15\n")
    return tmp_path


def shares(addresses: list[str | None], allowed: set[int], sysfs: Path) -> list[list[int]]:
    nearby = nearby_cores(addresses, allowed, sysfs)
    siblings = core_siblings(allowed, sysfs)
    return [choose_cores(rank, nearby, siblings) for rank in range(len(addresses))]


def test_each_process_gets_whole_cores_near_its_gpu(sysfs: Path) -> None:
    found = shares(list(GPUS), set(range(16)), sysfs)
    assert found == [[0, 1, 8, 9], [2, 3, 10, 11], [4, 5, 12, 13], [6, 7, 14, 15]]


def test_gpus_in_another_order_keep_their_nodes(sysfs: Path) -> None:
    found = shares([GPUS[3], GPUS[0], GPUS[2], GPUS[1]], set(range(16)), sysfs)
    assert found == [[4, 5, 12, 13], [0, 1, 8, 9], [6, 7, 14, 15], [2, 3, 10, 11]]


def test_only_allowed_cores_are_given(sysfs: Path) -> None:
    """A job that may use two cores of the first node and three of the second."""
    found = shares([GPUS[0], GPUS[2]], {1, 3, 4, 5, 12}, sysfs)
    assert found == [[1, 3], [4, 5, 12]]


def test_a_node_without_an_allowed_core_is_not_nearby(sysfs: Path) -> None:
    assert shares([GPUS[0], GPUS[2]], {0, 1, 2, 3}, sysfs) == [[0, 1], [2, 3]]


@pytest.mark.parametrize("addresses", [[None] * 3, [GPUS[0], None, GPUS[2]], ["0000:ff:00.0"] * 3])
def test_without_knowledge_of_gpus_all_get_equal_shares(
    addresses: list[str | None], sysfs: Path
) -> None:
    found = shares(addresses, set(range(16)), sysfs)
    assert found == [[0, 1, 2, 8, 9, 10], [3, 4, 5, 11, 12, 13], [6, 7, 14, 15]]


def test_gpus_whose_cores_overlap_are_not_told_apart(sysfs: Path) -> None:
    """A GPU without a node lists all cores."""
    (sysfs / "bus/pci/devices" / GPUS[1] / "local_cpulist").write_text("0-15\n")
    assert shares([GPUS[0], GPUS[1]], {0, 1, 4, 5}, sysfs) == [[0, 1], [4, 5]]


def test_a_machine_that_tells_nothing_is_shared_out_by_numbers(tmp_path: Path) -> None:
    assert shares([None, None], {0, 1, 2, 3, 4}, tmp_path) == [[0, 1, 2], [3, 4]]


def test_few_cores(sysfs: Path) -> None:
    """Three processes on two physical cores of two threads; five processes on four threads."""
    allowed = {0, 1, 8, 9}
    assert shares([None] * 3, allowed, sysfs) == [[0, 1], [8], [9]]
    assert shares([None] * 5, allowed, sysfs) == [[0, 1, 8, 9]] * 5


@pytest.mark.parametrize("num_processes", range(1, 9))
def test_no_core_is_given_twice_and_none_is_left(num_processes: int, sysfs: Path) -> None:
    found = shares([None] * num_processes, set(range(16)), sysfs)
    assert sorted(core for share in found for core in share) == list(range(16))
    assert max(map(len, found)) - min(map(len, found)) <= 2


@pytest.mark.parametrize(
    ("text", "cores"), [("0-2,8\n", [0, 1, 2, 8]), ("5", [5]), ("", []), ("0,2-3", [0, 2, 3])]
)
def test_lists_of_cores(text: str, cores: list[int]) -> None:
    assert sorted(parse_cores(text)) == cores
    assert format_cores(cores) == text.strip()


def test_a_list_that_cannot_be_read_is_as_good_as_none(sysfs: Path) -> None:
    (sysfs / "bus/pci/devices" / GPUS[0] / "local_cpulist").write_text("what?\n")
    assert nearby_cores([GPUS[0]], {0, 1}, sysfs) == [{0, 1}]


def test_nothing_is_done_where_it_is_not_wanted_or_not_possible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert bind_process(enabled=False) is None
    monkeypatch.delattr(os, "sched_setaffinity")
    assert bind_process() is None


def test_a_rank_beyond_the_processes_is_refused() -> None:
    with pytest.raises(ConfigError, match="process 2 cannot be one of 2"):
        bind_process(local_rank=2, local_world_size=2)


PROGRAM = """
import json, os, threading, time
import torch
torch.ones(400, 400) @ torch.ones(400, 400)
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
from dynunet_bundle.training.process.affinity import bind_process
cores = bind_process("cpu")
threads = {tuple(sorted(os.sched_getaffinity(int(t)))) for t in os.listdir("/proc/self/task")}
print(json.dumps([cores, sorted(threads), torch.get_num_threads()]))
"""


@pytest.mark.parametrize(("given", "num_threads"), [("1", 1), ("2", 2)])
def test_all_threads_of_a_process_are_bound(given: str, num_threads: int) -> None:
    allowed = sorted(os.sched_getaffinity(0))[:2]
    if len(allowed) < 2:
        pytest.skip("this machine lends one core only")
    done = subprocess.run(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {allowed})\n{PROGRAM}"],
        env={**os.environ, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": given},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    cores, threads, found = json.loads(done.stdout)
    # one physical core for each of both, or one thread of the only physical core
    assert cores == [allowed[1]]
    assert threads == [[allowed[1]]]
    assert found == num_threads
