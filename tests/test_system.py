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
