"""What the network runs on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from georsr.doctor.finding import Finding, State


def findings() -> Iterator[Finding]:
    """The device that ``--device auto`` takes, and why it is not a graphics card."""
    import torch

    from georsr.device import place

    threads = f"{os.cpu_count()} processors, {torch.get_num_threads()} threads"
    yield Finding("device", State.OK, f"{place().describe()}; {threads}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            size = properties.total_memory / 2**30
            yield Finding(f"cuda:{index}", State.OK, f"{properties.name}, {size:.0f} GiB")
    elif shutil.which("nvidia-smi"):
        yield unused_card(torch.version.cuda)


def unused_card(built_for: str | None) -> Finding:
    """Say why torch does not see the NVIDIA card whose driver is installed.

    Parameters
    ----------
    built_for
        CUDA version of torch; None for a build without.
    """
    if built_for is None:
        text = "there is an NVIDIA driver, but this torch is built for the CPU only"
        remedy = "pip install --force-reinstall torch, from an index with CUDA builds"
    else:
        text = f"there is an NVIDIA driver, but torch (CUDA {built_for}) sees no card"
        remedy = "run nvidia-smi: the driver may be too old for that CUDA, or hidden from here"
    return Finding("cuda", State.WARNING, text, remedy)
