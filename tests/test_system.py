import subprocess
import sys

import pytest

from georsr import system


def test_memory_limit_of_a_container_counts(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(system, "CGROUP_LIMITS", (tmp_path / "none", limit))
    limit.write_text("max\n")
    whole = system.memory_limit()
    assert whole > 2**28
    limit.write_text("1000000\n")
    assert system.memory_limit() == 1000000
    limit.write_text(str(2**62))
    assert system.memory_limit() == whole


@pytest.mark.parametrize(
    ("line", "limit"),
    [
        ("0::/slurm/job_7/step_0", "slurm/job_7/memory.max"),
        ("0::/slurm/job_7/step_0", "slurm/job_7/step_0/memory.max"),
        ("5:memory:/job_7", "memory/job_7/memory.limit_in_bytes"),
    ],
)
def test_memory_limit_of_a_cgroup_counts(line, limit, tmp_path, monkeypatch):
    groups = ("memory.max", "memory/memory.limit_in_bytes")
    monkeypatch.setattr(system, "CGROUP_LIMITS", tuple(tmp_path / name for name in groups))
    monkeypatch.setattr(system, "PROCESS_CGROUPS", tmp_path / "cgroup")
    whole = system.memory_limit()
    (tmp_path / "cgroup").write_text(f"12:cpuset:/other\n{line}\nnonsense\n")
    assert system.memory_limit() == whole
    (tmp_path / limit).parent.mkdir(parents=True)
    (tmp_path / limit).write_text("123456\n")
    assert system.memory_limit() == 123456


SLOW_MODULE = """
import time
time.sleep(1)
threads = [2]
def get_num_threads(): return threads[0]
def set_num_threads(count): threads[0] = count
def get_worker(): raise ValueError
"""
DURING_THE_IMPORT = """
import sys, threading, time
import georsr.device as device
from georsr.inference.model_cache import threads_of_worker
for name in ("torch", "distributed"):
    importing = threading.Thread(target=__import__, args=(name,))
    importing.start()
    while name not in sys.modules:
        time.sleep(0.01)
    if name == "torch":
        assert device.num_threads() == 2
        with device.cpu_threads(1):
            assert sys.modules["torch"].threads == [1]
        assert sys.modules["torch"].threads == [2]
    else:
        assert threads_of_worker() is None
    importing.join()
"""


def test_num_threads_while_another_thread_imports_torch_waits(tmp_path):
    for name in ("torch", "distributed"):
        (tmp_path / f"{name}.py").write_text(SLOW_MODULE)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}){DURING_THE_IMPORT}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
