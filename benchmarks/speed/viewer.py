"""Measure `georsr view` of a large output: time to open, and time of a tile while the map moves.

    python benchmarks/speed/viewer.py [--side 40000]

The output and its source are GeoTIFFs of the given size whose tiles all point to the few encoded
tiles of a real scene. So the files are small, but every tile costs its decoding. Six connections
ask for tiles, as a browser does. What the disk takes is not measured.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import rasterio

SCENE = Path(__file__).resolve().parents[2] / "sample_data" / "town_rgb_0.5m.tif"
BLOCK, BLOCKS, CONNECTIONS = 512, 8, 6
SHORT, LONG, DOUBLE = 3, 4, 12
FORMAT = {SHORT: "H", LONG: "I", DOUBLE: "d"}


def encoded_blocks() -> list[bytes]:
    """Different blocks of a scene, compressed like those of an output."""
    with rasterio.open(SCENE) as scene:
        values = scene.read()
    repeated = np.pad(values, ((0, 0), (0, BLOCK), (0, BLOCK)), mode="symmetric")
    blocks = []
    for i in range(BLOCKS):
        block = repeated[:, 16 * i : 16 * i + BLOCK, 8 * i : 8 * i + BLOCK].transpose(1, 2, 0)
        differences = np.diff(block.astype(np.int16), axis=1, prepend=0).astype(np.uint8)
        blocks.append(zlib.compress(differences.tobytes(), 6))
    return blocks


def write_tiff(path: Path, side: int, pixel: float, factors: tuple[int, ...]) -> None:
    """Write a square RGB GeoTIFF, and overviews of these factors, with the blocks of a scene."""
    with path.open("wb") as file:
        file.write(b"II*\0\0\0\0\0")
        places = []
        for block in encoded_blocks():
            places.append((file.tell(), len(block)))
            file.write(block)
        link = 4
        for factor in (1, *factors):
            size = -(-side // factor)
            count = (-(-size // BLOCK)) ** 2
            chosen = [places[i * 7 % BLOCKS] for i in range(count)]
            tags = {
                254: (LONG, [int(factor > 1)]),
                256: (LONG, [size]),
                257: (LONG, [size]),
                258: (SHORT, [8, 8, 8]),
                259: (SHORT, [8]),
                262: (SHORT, [2]),
                277: (SHORT, [3]),
                317: (SHORT, [2]),
                322: (LONG, [BLOCK]),
                323: (LONG, [BLOCK]),
                324: (LONG, [offset for offset, _ in chosen]),
                325: (LONG, [length for _, length in chosen]),
            }
            if factor == 1:
                keys = [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632]
                tags |= {
                    33550: (DOUBLE, [pixel, pixel, 0]),
                    33922: (DOUBLE, [0, 0, 0, 400000, 5200000, 0]),
                    34735: (SHORT, keys),
                }
            entries = []
            for number, (kind, values) in tags.items():
                data = struct.pack(f"<{len(values)}{FORMAT[kind]}", *values)
                if len(data) > 4:
                    offset = file.seek(0, os.SEEK_END)
                    file.write(data + b"\0" * (len(data) % 2))
                    data = struct.pack("<I", offset)
                entries.append(
                    struct.pack("<HHI", number, kind, len(values)) + data.ljust(4, b"\0")
                )
            directory = file.seek(0, os.SEEK_END)
            file.write(struct.pack("<H", len(entries)) + b"".join(entries) + b"\0" * 4)
            end = file.tell() - 4
            file.seek(link)
            file.write(struct.pack("<I", directory))
            link = end


class Client:
    """Asks for tiles by several connections, and keeps how long each took, in ms."""

    def __init__(self, url: str) -> None:
        self.parts = urlsplit(url)
        self.pool = ThreadPoolExecutor(CONNECTIONS)

    def get(self, path: str) -> tuple[float, bytes]:
        """Return the time in ms that an answer took, and the answer."""
        start = time.perf_counter()
        connection = http.client.HTTPConnection(self.parts.netloc)
        connection.request("GET", self.parts.path + path)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, (path, answer.status)
        return 1000 * (time.perf_counter() - start), body

    def screen(self, names: list[str], zoom: int, left: int, top: int) -> list[float]:
        """Return the times of the tiles that fill a map of 1280 x 768 pixels."""
        paths = [
            f"tiles/{name}/{zoom}/{x}/{y}.png"
            for y in range(top, top + 3)
            for x in range(left, left + 5)
            for name in names
        ]
        return [taken for taken, _ in self.pool.map(self.get, paths)]


def cpu_seconds(process: int) -> float:
    """Return the CPU time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(folder: Path, side: int, factors: tuple[int, ...]) -> None:
    """Print the figures of one pair of rasters."""
    output, source = folder / "output.tif", folder / "source.tif"
    write_tiff(output, side, 0.5, factors)
    write_tiff(source, side // 4, 2.0, tuple(f // 4 for f in factors if f > 4))
    print(f"{side} x {side}, {'overviews' if factors else 'no overviews'}")
    start = time.perf_counter()
    command = [sys.executable, "-m", "georsr.cli", "view", "--no-browser", "-q"]
    with subprocess.Popen(
        [*command, str(output), str(source)], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            client = Client(server.stdout.readline().strip())
            view = json.loads(client.get("view.json")[1])
            print(
                f"  open: {time.perf_counter() - start:.2f} s ({cpu_seconds(server.pid):.2f} CPU)"
            )
            names = ["output", "source"]
            lowest = max(view["rasters"][name]["minZoom"] for name in names)
            client.screen(names, lowest, 0, 0)
            print(f"  first screen, zoom {lowest}, after {time.perf_counter() - start:.2f} s")
            for zoom in range(0, lowest - 1, -1):
                last = int(side * 2.0**zoom // 256)
                before = cpu_seconds(server.pid)
                times = []
                for step in range(4):  # a screen each, of tiles not seen before
                    times += client.screen(names, zoom, min(6 * step, last), min(5 + step, last))
                cpu = 1000 * (cpu_seconds(server.pid) - before) / len(times)
                half, most = np.percentile(times, (50, 95))
                print(
                    f"  zoom {zoom}: a tile {half:.0f} ms, 95 % {most:.0f}, "
                    f"at most {max(times):.0f}; {cpu:.0f} ms of CPU"
                )
        finally:
            server.send_signal(signal.SIGINT)


def main() -> None:
    """Measure an output with and without overviews."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=40000)
    side = parser.parse_args().side
    for factors in ((2, 4, 8, 16, 32, 64), ()):
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), side, factors)
    print(f"load of this computer: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
