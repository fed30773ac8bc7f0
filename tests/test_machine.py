from georsr import machine


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_CGROUPS", (tmp_path / "none", limit))
    limit.write_text("max\n")
    whole = machine.memory_limit()
    assert whole > 2**28
    limit.write_text("1000000\n")
    assert machine.memory_limit() == 1000000
    limit.write_text(str(2**62))
    assert machine.memory_limit() == whole
