"""Packs what a bare machine with Python, torch and a GPU lacks, so that `gpu_check.py` runs there without a network.

    python benchmarks/gpu_env.py [--python-version 3.12] [--folder .gpu_env]

Writes FOLDER/env.tar.xz, for x86-64 and that version of Python, and prints its size. Packages of Python code alone are
copied from the environment that runs this; those with compiled code are fetched with pip as wheels for that version.
The large compiled files are stripped. `gpu_check.py` unpacks the file where nnU-Net is missing. What is taken to be
there already: torch, numpy, scipy, pandas, scikit-image, scikit-learn, statsmodels, matplotlib, pytest and what these
need. What is left out: studies (snakemake) and what only some tests need.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".gpu_env"
ARCHIVE = "env.tar.xz"
LIMIT_MB = 60.0

PURE = (
    "nnunetv2", "dynamic_network_architectures", "acvl_utils", "batchgenerators", "batchgeneratorsv2", "monai",
    "nibabel", "surface-distance", "graphviz", "yacs", "future", "openpyxl", "et_xmlfile", "jsonschema",
    "jsonschema-specifications", "referencing", "importlib_resources",
)  # fmt: skip
COMPILED = ("SimpleITK", "blosc2", "ndindex", "numexpr", "connected-components-3d", "rpds-py")
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_26", "manylinux_2_24", "manylinux_2_17", "manylinux2014")
_LEFT_OUT = ("__pycache__", "tests", "test", "docs", "examples", "include")
_STRIPPED_FROM = 5_000_000  # bytes


def copy_pure(name: str, target: Path) -> None:
    """Copy an installed package of Python code."""
    found = metadata.distribution(name)
    for file in found.files or ():
        if ".." in file.parts or set(file.parts) & set(_LEFT_OUT):
            continue
        place = target / str(file)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(found.locate_file(file)), place)


def fetch_compiled(names: tuple[str, ...], version: str, target: Path) -> None:
    """Fetch the wheels of the installed versions for another Python, and unpack them."""
    wanted = [f"{name}=={metadata.version(name)}" for name in names]
    platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_x86_64")]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version",
                version, "--implementation", "cp", *platforms, "-d", folder, *wanted,
            ],
            check=True,
        )  # fmt: skip
        for wheel in Path(folder).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                members = [name for name in archive.namelist() if not set(Path(name).parts) & set(_LEFT_OUT)]
                archive.extractall(target, members)


def strip(folder: Path) -> None:
    """Take the symbols out of the large compiled files."""
    for path in folder.rglob("*.so*"):
        if path.stat().st_size > _STRIPPED_FROM:
            path.chmod(0o755)
            subprocess.run(["strip", "--strip-unneeded", str(path)], check=True)


def pack(version: str, folder: Path) -> Path:
    """Make the archive; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / ARCHIVE
    with tempfile.TemporaryDirectory() as made:
        target = Path(made)
        for name in PURE:
            copy_pure(name, target)
        fetch_compiled(COMPILED, version, target)
        strip(target)
        size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        temporary = archive.with_suffix(".part")
        with tarfile.open(temporary, "w:xz", preset=9) as tar:
            for path in sorted(target.iterdir()):
                tar.add(path, path.name)
        temporary.replace(archive)
    print(f"{archive}: {archive.stat().st_size / 1e6:.1f} MB, {size / 1e6:.0f} MB unpacked, for Python {version}")
    return archive


def unpack(archive: Path, target: Path) -> None:
    """Unpack the archive into a folder, once."""
    if (target / ".whole").exists():
        return
    shutil.rmtree(target, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    (target / ".whole").touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python-version", default="3.12", help="of the machine with the GPU")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    if not shutil.which("strip"):
        sys.exit("there is no `strip`: install binutils")
    archive = pack(options.python_version, options.folder)
    if archive.stat().st_size > LIMIT_MB * 1e6:
        sys.exit(f"{archive} has more than {LIMIT_MB:g} MB")


if __name__ == "__main__":
    main()
