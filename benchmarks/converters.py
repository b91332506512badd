"""How fast each converter reads a source and writes nnU-Net's raw format.

    python benchmarks/converters.py KIND FOLDER [KIND FOLDER ...]

KIND is busi, glas, msd or acdc, FOLDER the source as its owner publishes it. The dataset goes to a temporary folder.
MB are those of the files in the source, read twice: once for their digest, once to convert them. The first run of each
kind is not counted: it fills the disk's cache and imports libraries.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from nnunet_robust.dataset_conversion.acdc import convert_acdc
from nnunet_robust.dataset_conversion.busi import convert_busi
from nnunet_robust.dataset_conversion.glas import convert_glas
from nnunet_robust.dataset_conversion.msd import MsdParameters, convert_msd

RUNS = 3
CONVERTERS: dict[str, dict[str, Callable[..., Path]]] = {
    "busi": {"busi": convert_busi},
    "glas": {"glas": convert_glas},
    "acdc": {"acdc": convert_acdc},
    "msd": {
        "msd": convert_msd,
        "msd --slices axial": partial(convert_msd, parameters=MsdParameters(slices="axial")),
    },
}


def best_seconds(convert: Callable[..., Path], source: Path) -> tuple[float, int]:
    """The least wall-clock time of a conversion, and how many cases it wrote."""
    times, cases = [], 0
    for _ in range(1 + RUNS):
        with tempfile.TemporaryDirectory() as raw:
            start = time.perf_counter()
            folder = convert(Path(raw), source, 1, note=lambda line: None)
            times.append(time.perf_counter() - start)
            cases = sum(len(list(folder.glob(f"labels{part}/*"))) for part in ("Tr", "Ts"))
    return min(times[1:]), cases


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or len(arguments) % 2 or set(arguments[::2]) - set(CONVERTERS):
        sys.exit(f"{__doc__}\ngot: {arguments}")
    print(f"{'converter':<20} {'cases':>6} {'MB':>8} {'s':>8} {'cases/s':>9} {'MB/s':>8}")
    for kind, folder in zip(arguments[::2], arguments[1::2], strict=True):
        source = Path(folder)
        megabytes = sum(path.stat().st_size for path in source.rglob("*") if path.is_file()) / 1e6
        for name, convert in CONVERTERS[kind].items():
            seconds, cases = best_seconds(convert, source)
            print(
                f"{name:<20} {cases:6d} {megabytes:8.1f} {seconds:8.2f} "
                f"{cases / seconds:9.1f} {megabytes / seconds:8.1f}"
            )


if __name__ == "__main__":
    main()
