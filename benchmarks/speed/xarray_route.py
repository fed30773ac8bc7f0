"""A scene by way of a lazy DataArray, and by way of files: time and peak memory.

    python benchmarks/speed/xarray_route.py [--model bicubic-x2] [--size 4000] [--chunk 1024]

Each route is a process of its own, imports included. The lazy one opens the file with rioxarray in
Dask chunks, super-resolves, and writes chunk by chunk with the threaded scheduler.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from end_to_end import SAMPLE, make_scene

REPORT = """
import re, resource, time
from pathlib import Path

usage = resource.getrusage(resource.RUSAGE_SELF)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
busy = usage.ru_utime + usage.ru_stime
print(f"{time.time() - since:.1f} s, {busy:.1f} s of processors, {int(peak) // 1024} MiB")
"""
ROUTES = {
    "files": """
import sys, time
since = time.time()
from georsr.api import super_resolve

super_resolve(sys.argv[1], sys.argv[2], sys.argv[3])
""",
    "lazy array": """
import sys, threading, time, warnings
since = time.time()
warnings.simplefilter("ignore")
import dask
import rioxarray
import georsr.xarray

chunk = int(sys.argv[4])
array = rioxarray.open_rasterio(sys.argv[1], chunks={"x": chunk, "y": chunk}, lock=False)
product = array.georsr.super_resolve(sys.argv[3])
with dask.config.set(scheduler="threads"):
    product.rio.to_raster(sys.argv[2], tiled=True, compress="deflate", lock=threading.Lock())
""",
}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="bicubic-x2")
    parser.add_argument("--size", type=int, default=4000)
    parser.add_argument("--chunk", type=int, default=1024)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder) / "scene.tif"
        make_scene(scene, SAMPLE, arguments.size)
        for name, code in ROUTES.items():
            out = Path(folder) / "out.tif"
            words = [str(scene), str(out), arguments.model, str(arguments.chunk)]
            command = [sys.executable, "-c", code + REPORT, *words]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
            out.unlink()
            print(f"{name:<12} {result.stdout.strip()}", flush=True)


if __name__ == "__main__":
    main()
