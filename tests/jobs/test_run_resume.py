"""A run that ends early goes on later, and nobody can tell from the output."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

import georsr.writer.writer as writer_module
from georsr import _files
from georsr.api import super_resolve
from georsr.config import SRConfig
from georsr.errors import InputError, InterruptedRunError, ModelError, ResourceError, UsageError
from georsr.models.io import Model
from georsr.models.spec import ModelSpec
from georsr.writer.paths import TempPaths

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = {"blocksize": 32, "tile_size": 32, "halo": 2, "overlap": 4}


@pytest.fixture(autouse=True)
def every_block_is_noted(monkeypatch):
    monkeypatch.setattr(writer_module, "SYNC_SECONDS", -1.0)


@pytest.fixture
def source(make_raster, texture):
    mask = (np.random.default_rng(5).random((100, 90)) < 0.8).astype("uint8") * 255
    return make_raster(texture(3, 100, 90), after=lambda d: d.write_mask(mask))


class After:
    """Says stop after so many tiles; it is asked once before the work and once as it begins."""

    def __init__(self, tiles):
        self.count = tiles + 1

    def __call__(self):
        self.count -= 1
        return self.count < 0


class Counting(torch.nn.Module):
    """Nearest that counts its tiles, and fails after some."""

    def __init__(self, error=None, after=0):
        super().__init__()
        self.calls, self.error, self.after = 0, error, after

    def forward(self, x):
        self.calls += 1
        if self.error is not None and self.calls > self.after:
            raise self.error
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def model_of(network, sha256="0" * 64):
    spec = ModelSpec("test", "test", 2, bands=0, band_names=(), tile=32, halo=2, overlap=4)
    return Model(spec, network.eval(), sha256, "test")


def interrupt(source, out, model, after=9, **options):
    with pytest.raises(InterruptedRunError) as caught:
        super_resolve(source, out, model, should_stop=After(after), **SMALL | options)
    return caught.value


def hidden(folder):
    return sorted(path.name for path in Path(folder).iterdir() if path.name.startswith("."))


# -- going on ---------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 3, 7, 12, 15])
def test_resume_after_a_stop_anywhere_gives_the_same_bytes(after, lite_model, source, tmp_path):
    whole = super_resolve(source, tmp_path / "whole.tif", lite_model, **SMALL)
    out = tmp_path / "out.tif"
    interrupt(source, out, lite_model, after)
    assert not out.exists()
    report = super_resolve(source, out, lite_model, num_threads=1 + after % 2, **SMALL)
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert report.checksum == whole.checksum
    assert (report.blocks_resumed > 0) == (after > 0)
    assert whole.blocks_resumed == 0
    assert hidden(tmp_path) == []


def test_resume_after_many_stops_gives_the_same_bytes(lite_model, source, tmp_path):
    super_resolve(source, tmp_path / "whole.tif", lite_model, **SMALL)
    out = tmp_path / "out.tif"
    # how much of the last row was written is a matter of time: there are always tiles left
    for after in (5, 9, 3, 3):
        interrupt(source, out, lite_model, after)
    found = super_resolve(source, out, lite_model, **SMALL).blocks_resumed
    assert found >= 8
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_resume_does_not_compute_finished_rows(source, tmp_path):
    network = Counting()
    whole = super_resolve(source, tmp_path / "whole.tif", model_of(network), **SMALL)
    tiles, network.calls = network.calls, 0
    rows = whole.tiles // 4
    assert tiles == whole.tiles == 4 * rows
    interrupt(source, tmp_path / "out.tif", model_of(network), after=12)
    first, network.calls = network.calls, 0
    report = super_resolve(source, tmp_path / "out.tif", model_of(network), **SMALL)
    assert first == 12
    # the three rows that were done are left out, but for one that reaches into unfinished blocks
    assert network.calls <= tiles - 8
    assert report.tiles == tiles


def test_resume_after_an_exception_gives_the_same_bytes(source, tmp_path):
    super_resolve(source, tmp_path / "whole.tif", model_of(Counting()), **SMALL)
    out = tmp_path / "out.tif"
    failing = model_of(Counting(KeyboardInterrupt(), after=11))
    with pytest.raises(KeyboardInterrupt) as caught:
        super_resolve(source, out, failing, **SMALL)
    (note,) = caught.value.__notes__
    assert ".out.tif.part.tif: rerun the same call to resume" in note
    assert hidden(tmp_path) == [".out.tif.part.jsonl", ".out.tif.part.tif"]
    assert super_resolve(source, out, model_of(Counting()), **SMALL).blocks_resumed > 0
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_resume_of_a_cog_uses_the_finished_part(moment, source, tmp_path, monkeypatch):
    options = SMALL | {"cog": True, "blocksize": 128}
    network = Counting()
    super_resolve(source, tmp_path / "whole.tif", model_of(network), **options)
    original, out = writer_module.write_cog, tmp_path / "out.tif"

    def die(part, target, layout):
        if moment == "after":
            original(part, target, layout)
        raise SystemExit(137)

    with monkeypatch.context() as patch:
        patch.setattr(writer_module, "write_cog", die)
        with pytest.raises(SystemExit):
            super_resolve(source, out, model_of(network), **options)
    assert ".out.tif.part.tif" in hidden(tmp_path)
    network.calls = 0
    report = super_resolve(source, out, model_of(network), **options)
    assert network.calls == 0
    assert report.blocks_resumed == report.blocks
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert hidden(tmp_path) == []


def test_cog_conversion_can_be_cancelled(source, tmp_path, monkeypatch):
    import threading

    begun, let_go = threading.Event(), threading.Event()

    def slow(part, target, layout):
        begun.set()
        let_go.wait(30)

    monkeypatch.setattr(writer_module, "write_cog", slow)
    with pytest.raises(InterruptedRunError):
        super_resolve(
            source,
            tmp_path / "out.tif",
            model_of(Counting()),
            should_stop=begun.is_set,
            cog=True,
            **SMALL | {"blocksize": 128},
        )
    let_go.set()
    assert ".out.tif.part.tif" in hidden(tmp_path)


def test_resume_after_a_kill_before_cleaning_up_recognises_the_output(
    source, tmp_path, monkeypatch
):
    from georsr.writer.resumable_tiff import Journal

    out = tmp_path / "out.tif"
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "remove", lambda journal: journal.close())  # as if killed before
        patch.setattr(TempPaths, "leftovers", lambda paths: [])
        first = super_resolve(source, out, model_of(Counting()), **SMALL)
    content = out.read_bytes()
    assert hidden(tmp_path) == [".out.tif.part.jsonl"]
    failing = model_of(Counting(RuntimeError("must not run")))
    again = super_resolve(source, out, failing, **SMALL)
    assert (again.checksum, again.file_bytes) == (first.checksum, first.file_bytes)
    assert again.blocks_resumed == again.blocks
    assert out.read_bytes() == content
    assert hidden(tmp_path) == []
    with pytest.raises(UsageError, match="overwrite=True"):
        super_resolve(source, out, failing, **SMALL)


def test_resume_after_a_kill_before_unlocking_removes_the_lock(source, tmp_path):
    """Between removing the journal and the lock: the refusal takes the lock away."""
    out = tmp_path / "out.tif"
    super_resolve(source, out, model_of(Counting()), **SMALL)
    lock = tmp_path / ".out.tif.part.lock"
    lock.write_text("{}")
    with pytest.raises(UsageError, match="overwrite=True"):
        super_resolve(source, out, model_of(Counting()), **SMALL)
    assert hidden(tmp_path) == []


def test_resume_with_another_file_in_place_of_the_output_starts_over(source, tmp_path, monkeypatch):
    from georsr.writer.resumable_tiff import Journal

    out = tmp_path / "out.tif"
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "remove", lambda journal: journal.close())
        super_resolve(source, out, model_of(Counting()), **SMALL)
    out.write_bytes(out.read_bytes())  # the same bytes, but not the file that was published
    with pytest.raises(UsageError, match="overwrite=True"):
        super_resolve(source, out, model_of(Counting()), **SMALL)


# -- not going on ------------------------------------------------------------------------------


def starts_over(caplog, *words):
    said = [r.message for r in caplog.records if "ignoring an unfinished run" in r.message]
    assert len(said) == 1
    assert all(word in said[0] for word in words), said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stretch": "0,200"}, ("stretch", '"auto"', '"0,200"')),
        ({"overlap": 6}, ("overlap",)),
        ({"creation_options": {"COMPRESS": "LZW"}}, ("creation_options", "LZW")),
        ({"dst_nodata": "7"}, ("dst_nodata",)),
        ({"blocksize": 64}, ("blocksize was 32, is 64",)),
        ({"tta": True}, ("tta was false, is true",)),
        ({"indexes": (3, 2, 1)}, ("indexes",)),
    ],
)
def test_resume_with_other_options_starts_over(options, words, source, tmp_path, caplog):
    other = SMALL | options
    super_resolve(source, tmp_path / "whole.tif", model_of(Counting()), **other)
    out = tmp_path / "out.tif"
    interrupt(source, out, model_of(Counting()), 12)
    report = super_resolve(source, out, model_of(Counting()), **other)
    assert report.blocks_resumed == 0
    starts_over(caplog, *words)
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert hidden(tmp_path) == []


def test_resume_with_options_without_influence_continues(source, tmp_path):
    out = tmp_path / "out.tif"
    interrupt(source, out, model_of(Counting()), 12)
    options = {
        "num_threads": 2,
        "verify": False,
        "overwrite": True,
        "max_pixels": 10**6,
        "batch_size": 5,
    }
    assert super_resolve(source, out, model_of(Counting()), **SMALL, **options).blocks_resumed > 0


def test_resume_with_another_model_or_precision_starts_over(lite_model, source, tmp_path, caplog):
    out = tmp_path / "out.tif"
    interrupt(source, out, model_of(Counting()), 12)
    other = model_of(Counting(), sha256="1" * 64)
    assert super_resolve(source, out, other, **SMALL).blocks_resumed == 0
    starts_over(caplog, "model was test 0000000000000000, is test 1111111111111111")
    caplog.clear()
    interrupt(source, out, lite_model, 12, overwrite=True)
    options = SMALL | {"precision": "bf16", "overwrite": True}
    assert super_resolve(source, out, lite_model, **options).blocks_resumed == 0
    starts_over(caplog, "arithmetic was fp32 on cpu, is bf16 on cpu")


def test_resume_with_a_changed_source_starts_over(make_raster, texture, source, tmp_path, caplog):
    out = tmp_path / "out.tif"
    interrupt(source, out, model_of(Counting()), 12)
    changed = texture(3, 100, 90, seed=1)
    make_raster(changed)
    assert super_resolve(source, out, model_of(Counting()), **SMALL).blocks_resumed == 0
    starts_over(caplog, "the source has changed")
    with rasterio.open(out) as output:
        np.testing.assert_array_equal(output.read(), changed.repeat(2, 1).repeat(2, 2))


def test_resume_with_a_changed_file_of_a_vrt_starts_over(make_raster, texture, tmp_path, caplog):
    import rasterio.shutil

    path = make_raster(texture(1, 100, 90))
    rasterio.shutil.copy(path, tmp_path / "v.vrt", driver="VRT")
    interrupt(tmp_path / "v.vrt", tmp_path / "out.tif", model_of(Counting()), 12)
    os.utime(path, (1, 1))
    report = super_resolve(tmp_path / "v.vrt", tmp_path / "out.tif", model_of(Counting()), **SMALL)
    assert report.blocks_resumed == 0
    starts_over(caplog, "the source has changed")


def damage_half_line(journal, part):
    with journal.open("ab") as file:
        file.write(b'{"blocks":[[6,')


def damage_last_line(journal, part):
    journal.write_bytes(journal.read_bytes()[:-20])


def damage_scribble(journal, part):
    journal.write_bytes(b"\0" * 4096)


def damage_empty(journal, part):
    journal.write_bytes(b"")


def damage_no_part(journal, part):
    part.unlink()


def damage_short_part(journal, part):
    with part.open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) // 2)


def damage_header(journal, part):
    flip(part, 9)


def damage_first_block(journal, part):
    flip(part, json.loads(journal.read_bytes().splitlines()[0])["header"][0] + 7)


def damage_last_block(journal, part):
    flip(part, -7)


def flip(part, place):
    data = bytearray(part.read_bytes())
    data[place] ^= 16
    part.write_bytes(data)


def damage_longer_part(journal, part):
    with part.open("ab") as file:
        file.write(b"x" * 10000)


def damage_foreign_part(journal, part):
    part.write_bytes(b"not a TIFF" * 5000)


def damage_old_format(journal, part):
    old, *rest = journal.read_bytes().splitlines(keepends=True)
    head = json.loads(old) | {"format": 0}
    del head[_files.CHECKSUM]
    journal.write_bytes(b"".join([_files.jsonl_line(head), *rest]))


DAMAGES = [value for name, value in sorted(globals().items()) if name.startswith("damage_")]
HARMLESS = (
    damage_half_line,
    damage_last_line,
    damage_longer_part,
    damage_short_part,
    damage_header,
    damage_first_block,
    damage_last_block,
)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
@pytest.mark.slow
def test_resume_with_a_damaged_journal_or_part_gives_the_same_bytes(damage, source, tmp_path):
    super_resolve(source, tmp_path / "whole.tif", model_of(Counting()), **SMALL)
    out = tmp_path / "out.tif"
    interrupt(source, out, model_of(Counting()), 12)
    damage(tmp_path / ".out.tif.part.jsonl", tmp_path / ".out.tif.part.tif")
    report = super_resolve(source, out, model_of(Counting()), **SMALL)
    assert (report.blocks_resumed > 0) == (damage in HARMLESS)
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize(
    "creation", [{"COMPRESS": "NONE"}, {"COMPRESS": "JPEG"}, {"COMPRESS": "LZW"}, {}]
)
def test_resume_with_damaged_blocks_computes_only_those(creation, verify, source, tmp_path, caplog):
    options = SMALL | {"creation_options": creation, "verify": verify}
    super_resolve(source, tmp_path / "whole.tif", model_of(Counting()), **options)
    out, network = tmp_path / "out.tif", Counting()
    interrupt(source, out, model_of(Counting()), 14, **options)
    journal, part = tmp_path / ".out.tif.part.jsonl", tmp_path / ".out.tif.part.tif"
    head, *entries = map(json.loads, journal.read_bytes().splitlines())
    sizes = [sum(block[4:]) for entry in entries for block in entry["blocks"]]
    flip(part, head["header"][0] + sum(sizes[:2]) + sizes[2] // 2)
    report = super_resolve(source, out, model_of(network), **options)
    assert "1 finished blocks were damaged and are computed again" in caplog.text
    assert report.blocks_resumed == len(sizes) - 1
    assert 4 <= network.calls < report.tiles - 3  # the rows in between are not computed
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert hidden(tmp_path) == []


def test_resume_with_any_bit_of_the_part_flipped_gives_the_same_bytes(source, tmp_path):
    """Flipped anywhere, header and blocks, the output is what it would have been."""
    options = SMALL | {"verify": False}
    super_resolve(source, tmp_path / "whole.tif", model_of(Counting()), **options)
    whole, out = (tmp_path / "whole.tif").read_bytes(), tmp_path / "out.tif"
    interrupt(source, out, model_of(Counting()), 14, **options)
    left = {path: path.read_bytes() for path in tmp_path.glob(".out.tif.part*")}
    part = tmp_path / ".out.tif.part.tif"
    for place in range(0, len(left[part]), 4999):
        for path, data in left.items():
            path.write_bytes(data)
        flip(part, place)
        super_resolve(source, out, model_of(Counting()), overwrite=True, **options)
        assert out.read_bytes() == whole, place


@pytest.mark.slow
def test_resume_with_any_byte_of_the_journal_changed_gives_the_same_bytes(source, tmp_path):
    """Changed to another digit, it is still JSON, and not believed."""
    super_resolve(source, tmp_path / "whole.tif", model_of(Counting()), **SMALL)
    whole, out = (tmp_path / "whole.tif").read_bytes(), tmp_path / "out.tif"
    interrupt(source, out, model_of(Counting()), 14)
    left = {path: path.read_bytes() for path in tmp_path.glob(".out.tif.part*")}
    journal = tmp_path / ".out.tif.part.jsonl"
    digits = [i for i, byte in enumerate(left[journal]) if chr(byte).isdigit()]
    for place in digits[:: len(digits) // 25]:
        for path, data in left.items():
            path.write_bytes(data)
        text = bytearray(left[journal])
        text[place] = ord("1") if text[place] != ord("1") else ord("7")
        journal.write_bytes(text)
        super_resolve(source, out, model_of(Counting()), overwrite=True, **SMALL)
        assert out.read_bytes() == whole, place


def test_resume_option_true_or_false_is_obeyed(source, tmp_path, caplog):
    out = tmp_path / "out.tif"
    network = model_of(Counting())
    with pytest.raises(UsageError, match="cannot resume: no unfinished run found"):
        super_resolve(source, out, network, resume=True, **SMALL)
    assert hidden(tmp_path) == []
    interrupt(source, out, network, 12)
    with pytest.raises(UsageError, match=r"cannot resume: overlap was 4, is 6"):
        super_resolve(source, out, network, resume=True, **SMALL | {"overlap": 6})
    assert ".out.tif.part.tif" in hidden(tmp_path)  # what was left is left
    assert super_resolve(source, out, network, resume=True, **SMALL).blocks_resumed > 0
    out.unlink()
    interrupt(source, out, network, 12)
    interrupt(source, out, network, 12, resume=False)
    assert hidden(tmp_path) == []
    assert super_resolve(source, out, network, resume=False, **SMALL).blocks_resumed == 0


# -- what is kept after which failure ------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "raised", "kept"),
    [
        (RuntimeError("a bug in the network"), ModelError, False),
        (MemoryError(), ResourceError, True),
        (SystemExit(1), SystemExit, True),
    ],
)
def test_resume_after_errors_that_may_pass_continues(error, raised, kept, source, tmp_path):
    with pytest.raises(raised):
        super_resolve(source, tmp_path / "o.tif", model_of(Counting(error, after=12)), **SMALL)
    assert bool(hidden(tmp_path)) is kept


def test_resume_after_an_output_appeared_keeps_the_blocks(source, tmp_path):
    out, network = tmp_path / "out.tif", Counting()

    def appears():
        if network.calls == 3:
            out.write_bytes(b"somebody else's")
        return False

    with pytest.raises(UsageError, match="overwrite=True") as caught:
        super_resolve(source, out, model_of(network), should_stop=appears, **SMALL)
    assert "rerun the same call to resume" in caught.value.__notes__[0]
    assert out.read_bytes() == b"somebody else's"
    network.calls = 0
    report = super_resolve(source, out, model_of(network), overwrite=True, **SMALL)
    assert (network.calls, report.blocks_resumed) == (0, report.blocks)
    assert hidden(tmp_path) == []


def test_resume_after_a_device_failure_continues(source, tmp_path):
    class FellOverError(RuntimeError):
        pass

    error = FellOverError("CUDA error: unspecified launch failure")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "AcceleratorError", FellOverError, raising=False)
        with pytest.raises(ModelError, match="unspecified launch failure"):
            super_resolve(source, tmp_path / "o.tif", model_of(Counting(error, 12)), **SMALL)
    assert hidden(tmp_path) == [".o.tif.part.jsonl", ".o.tif.part.tif"]


def test_run_of_a_damaged_source_leaves_no_files(make_raster, texture, tmp_path):
    source = make_raster(texture(1, 300, 90), tiled=True, blockxsize=32, blockysize=32)
    data = Path(source).read_bytes()
    Path(source).write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(InputError, match="damaged or incomplete"):
        super_resolve(source, tmp_path / "o.tif", model_of(Counting()), **SMALL)
    assert hidden(tmp_path) == []


class Hungry(Counting):
    """Runs out of memory at large tiles, but for the first few calls."""

    def forward(self, x):
        if self.calls >= 2 and x.shape[2] > 32:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(x)


def test_resume_after_running_out_of_memory_uses_the_smaller_tile(source, tmp_path):
    options = {"blocksize": 32, "halo": 2, "overlap": 4}
    spec = ModelSpec("test", "test", 2, bands=0, band_names=(), tile=64, halo=2, overlap=4)

    def model(network):
        return Model(spec, network, "0" * 64, "test")

    whole = super_resolve(source, tmp_path / "whole.tif", model(Hungry()), **options)
    assert whole.tile_size == 32
    out = tmp_path / "out.tif"
    with pytest.raises(InterruptedRunError):
        super_resolve(source, out, model(Hungry()), should_stop=After(14), **options)
    calm = Counting()
    report = super_resolve(source, out, model(calm), **options)
    assert report.tile_size == 32
    assert report.blocks_resumed > 0
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.slow
def test_resume_after_kills_at_random_moments_gives_the_same_bytes(tmp_path):
    """A few rounds of the benchmark; it has the figures of many."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / "robustness" / "kill_runs.py"),
         "--kills", "3", "--seed", "3", "--side", "150", "--jobs", "cog", "quality", "parts",
         "batch",
         "--folder", str(tmp_path)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 wrong" in done.stdout
    assert "kills" in done.stdout


def test_resume_needs_disk_space_only_for_the_rest(source, tmp_path, monkeypatch):
    """Half of the output on disk must not make the other half look too large."""

    out, network = tmp_path / "out.tif", model_of(Counting())
    raw = 200 * 180 * 4  # three bands and the mask
    interrupt(source, out, network, 12)
    left = (tmp_path / ".out.tif.part.tif").stat().st_size
    monkeypatch.setattr("georsr.jobs.job.free_space", lambda path: raw - left)
    assert super_resolve(source, out, network, **SMALL).blocks_resumed > 0
    with pytest.raises(ResourceError, match="make room"):
        super_resolve(source, tmp_path / "other.tif", network, **SMALL)


def test_resume_with_a_changed_archive_starts_over(make_raster, texture, tmp_path, caplog):
    import zipfile

    def pack(seed):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.write(make_raster(texture(1, 100, 90, seed=seed)), "in.tif")
        return f"/vsizip/{tmp_path}/a.zip/in.tif"

    out = tmp_path / "out.tif"
    interrupt(pack(0), out, model_of(Counting()), 12)
    assert super_resolve(pack(1), out, model_of(Counting()), **SMALL).blocks_resumed == 0
    starts_over(caplog, "the source has changed")


def test_job_pickled_is_the_same(source, tmp_path):
    import pickle

    from georsr.io.reader import open_raster
    from georsr.jobs.job import plan_job
    from georsr.models.io import open_model
    from georsr.window import Window

    box = (4e5 + 5, 5e6 - 30, 4e5 + 40, 5e6 - 5)
    with open_raster(source) as reader:
        config = SRConfig(bounds=box, **SMALL)
        job = plan_job(reader, str(tmp_path / "o.tif"), open_model("bicubic", 2), config)
        copy = pickle.loads(pickle.dumps(job))
        assert copy.key == job.key
        assert copy.tile_grid == job.tile_grid
        window = Window(-3, 2, 9, 7)
        np.testing.assert_array_equal(copy.read(window).values, job.read(window).values)
    copy.reader.close()
