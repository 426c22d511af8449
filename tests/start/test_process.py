"""Threads on machines that this one is not, in simulated trees of `/proc` and `/sys`; INC without IPEX; errors."""

import math
import os
import subprocess
import sys
from types import ModuleType

import pytest
from conftest import ROOT
from tqdm.auto import tqdm

from qa.corrections.ipex import without_ipex
from qa.corrections.launchers import threads_were_chosen
from qa.start.command import command
from qa.start.errors import UsageError
from qa.start.process import cpu_quota, default_threads, go_offline_without_hub, physical_cores, prepare_process


def machine(root, cores, threads_per_core, cgroup="0::/", limits=()):
    """Write the files of a machine; hardware thread `t` of core `c` is processor `c + t * cores`, as on Xeons."""
    for core in range(cores):
        processors = [core + thread * cores for thread in range(threads_per_core)]
        for processor in processors:
            folder = root / f"sys/devices/system/cpu/cpu{processor}/topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(",".join(map(str, processors)) + "\n")
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup + "\n")
    for name, content in dict(limits).items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return range(cores * threads_per_core)


@pytest.mark.parametrize("cores", [2, 16, 128])
@pytest.mark.parametrize("threads_per_core", [1, 2])
def test_threads_are_the_physical_cores(cores, threads_per_core, tmp_path):
    cpus = machine(tmp_path, cores, threads_per_core)
    assert default_threads({}, cpus, tmp_path) == cores


def test_only_cores_that_the_process_may_run_on_count(tmp_path):
    machine(tmp_path, 16, 2)
    assert physical_cores({0, 1, 16, 17}, tmp_path) == 2
    assert default_threads({}, {3, 19}, tmp_path) == 1
    assert default_threads({}, {3, 4, 5}, tmp_path) == 3


def test_without_a_known_topology_every_processor_is_a_core(tmp_path):
    assert default_threads({}, range(6), tmp_path) == 6


@pytest.mark.parametrize(
    ("cgroup", "limits", "quota"),
    [
        ("0::/", {"cpu.max": "max 100000"}, math.inf),
        ("0::/", {"cpu.max": "400000 100000"}, 4),
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        # The tighter of a group and the one above it.
        ("0::/pod/box", {"pod/cpu.max": "200000 100000", "pod/box/cpu.max": "max 100000"}, 2),
        ("0::/pod/box", {"pod/cpu.max": "800000 100000", "pod/box/cpu.max": "300000 100000"}, 3),
        # The path is that of the machine outside, and the container sees its own group at the top.
        ("0::/docker/3f", {"cpu.max": "200000 100000"}, 2),
        ("4:cpu,cpuacct:/docker/3f", {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "50000"}, 5),
        ("4:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ("5:cpuset:/", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
    ],
)
def test_a_container_keeps_within_its_limit(cgroup, limits, quota, tmp_path):
    cpus = machine(tmp_path, 16, 2, cgroup, limits)
    assert cpu_quota(tmp_path) == quota
    assert default_threads({}, cpus, tmp_path) == min(16, int(quota) if quota < math.inf else 16)


def test_less_than_a_processor_is_one_thread(tmp_path):
    cpus = machine(tmp_path, 2, 1, limits={"cpu.max": "50000 100000"})
    assert default_threads({}, cpus, tmp_path) == 1


@pytest.mark.parametrize(("processes", "threads"), [(1, 16), (2, 8), (3, 5), (16, 1), (40, 1)])
def test_processes_of_torchrun_share_the_cores(processes, threads, tmp_path):
    cpus = machine(tmp_path, 16, 2)
    assert default_threads({"LOCAL_WORLD_SIZE": str(processes)}, cpus, tmp_path) == threads


@pytest.mark.parametrize(
    ("environ", "started_with", "chosen"),
    [
        ({}, b"", False),
        ({"OMP_NUM_THREADS": "7"}, b"", True),
        ({"OMP_NUM_THREADS": "1"}, b"", True),
        # torchrun's own 1, and one that it was given.
        ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}, b"HOME=/root\0PATH=/bin\0", False),
        ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}, b"HOME=/root\0OMP_NUM_THREADS=1\0", True),
        ({"OMP_NUM_THREADS": "3", "LOCAL_WORLD_SIZE": "2"}, b"HOME=/root\0", True),
    ],
)
def test_a_number_of_threads_that_the_user_chose_is_kept(environ, started_with, chosen, tmp_path):
    path = tmp_path / "environ"
    path.write_bytes(started_with)
    assert threads_were_chosen(environ, path) is chosen


def test_an_unreadable_parent_leaves_the_number_alone(tmp_path):
    assert threads_were_chosen({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}, tmp_path / "none")


@pytest.mark.recipe
def test_inc_sees_no_ipex_where_it_is_left_out():
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from qa.corrections.ipex import without_ipex
from qa.corrections.py_cpuinfo import ask_about_processor
ask_about_processor()
with without_ipex():
    from optimum.intel import INCModelForQuestionAnswering
import cpuinfo
assert "intel_extension_for_pytorch" not in sys.modules
assert cpuinfo.get_cpu_info()["arch"] == "X86_64"
assert cpuinfo.get_cpu_info() is cpuinfo.get_cpu_info(), "asked again"
import intel_extension_for_pytorch
"""
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stderr


def test_ipex_that_is_loaded_or_wanted_stays(monkeypatch):
    monkeypatch.setitem(sys.modules, "intel_extension_for_pytorch", module := ModuleType("ipex"))
    with without_ipex():
        assert sys.modules["intel_extension_for_pytorch"] is module
    monkeypatch.delitem(sys.modules, "intel_extension_for_pytorch")
    with without_ipex(hidden=False):
        assert "intel_extension_for_pytorch" not in sys.modules
    with without_ipex():
        assert sys.modules["intel_extension_for_pytorch"] is None
    assert "intel_extension_for_pytorch" not in sys.modules


def test_an_error_has_a_line_of_its_own_behind_a_progress_bar(capsys):
    bar = tqdm(total=3, delay=0)

    @command
    def main():
        bar.update()
        raise UsageError("three is too much")

    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err.splitlines()[-1] == "error: three is too much"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"WORLD_SIZE": "2"}, ["WORLD_SIZE is 2", "RANK is None", "torchrun"]),
        ({"RANK": "1"}, ["WORLD_SIZE is None", "RANK is 1", "unset both"]),
        ({"LOCAL_WORLD_SIZE": "0"}, ["LOCAL_WORLD_SIZE is '0'"]),
        ({"WORLD_SIZE": "two"}, ["WORLD_SIZE is 'two'"]),
        ({"WORLD_SIZE": "2", "RANK": "-"}, ["RANK is '-'"]),
        ({"OMP_NUM_THREADS": "many"}, ["OMP_NUM_THREADS is 'many'", "unset"]),
        ({"OMP_NUM_THREADS": "0"}, ["OMP_NUM_THREADS is '0'"]),
    ],
    ids=lambda value: " ".join(f"{name}={word}" for name, word in value.items()) if isinstance(value, dict) else "",
)
def test_an_environment_that_makes_no_sense_ends_in_a_line(environment, expected, tmp_path):
    script = "from qa.start.command import command\nfrom qa.start.process import prepare_process\n"
    script += "command(prepare_process)()"
    finished = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(ROOT), **environment}, capture_output=True, text=True
    )
    assert (finished.returncode, finished.stdout) == (2, "")
    assert len(finished.stderr.splitlines()) == 1
    assert finished.stderr.startswith("error: ")
    for part in expected:
        assert part in finished.stderr


def test_an_empty_number_of_threads_is_none(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    prepare_process()
    assert int(os.environ["OMP_NUM_THREADS"]) >= 1


KEEPING = """
import re
from pathlib import Path
from qa.start.process import keep_freed_memory, return_freed_memory

def occupied():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

keep_freed_memory()
before = occupied()
pairs = [(bytearray(b"1" * 2**20), b"2" * 100) for _ in range(200)]
pins = [pin for _, pin in pairs]
del pairs
kept = occupied() - before
return_freed_memory()
print(kept, occupied() - before)
"""


def test_freed_memory_is_kept_until_it_is_returned():
    # A process of its own: the allocator's settings cannot be taken back.
    done = subprocess.run([sys.executable, "-c", KEEPING], cwd=ROOT, capture_output=True, text=True, check=True)
    kept, left = map(int, done.stdout.split())
    assert kept > 190_000 and left < 0.2 * kept


def test_only_proxies_that_are_used_stand_for_a_hub_that_may_be_reached(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    go_offline_without_hub()
    assert "HF_HUB_OFFLINE" not in os.environ
    monkeypatch.delenv("https_proxy")
    monkeypatch.setenv("no_proxy", "localhost")
    go_offline_without_hub()
    assert os.environ.pop("HF_HUB_OFFLINE") == "1"
