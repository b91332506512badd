"""Who is caught? `nnunet-robust qa` on a folder that mixes clean images with what should not pass, as markdown.

    python benchmarks/qa_mixed.py -i imagesTr -l labelsTr -m MODEL --splits splits_final.json --stranger CT -o OUT

Of the cases that fold 0 was not trained on, some (by a seeded draw) calibrate the model. The others are put into a
folder clean, and the first of them in each other way, too: noisy, blurred, of inverted contrast, a piece of another
modality, empty, truncated. NIfTI images of one channel. What OUT has of an earlier calibration is used again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import torch

from nnunet_robust.cli.main import main as nnunet_robust
from nnunet_robust.common.seeding import numpy_generator, torch_generator
from nnunet_robust.perturbations import perturb

ENDING = ".nii.gz"
PERTURBED = {"gaussian_noise": (0.1, 0.3), "gaussian_blur": (2.0,)}
VERDICTS = ("accept", "review", "reject")


def perturbed(name: str, level: float) -> Callable[[np.ndarray, str], np.ndarray]:
    def change(data: np.ndarray, case: str) -> np.ndarray:
        image = torch.from_numpy(data.astype(np.float32)[None])
        return perturb(image, name, level, torch_generator(0, case, name, 0), None, (1.0, 1.0, 1.0)).numpy()[0]

    return change


def stranger(path: Path) -> Callable[[np.ndarray, str], np.ndarray]:
    """A piece of another image, from its middle on average, of the right size, with its own intensities."""
    other = np.asanyarray(nibabel.load(path).dataobj).astype(np.float32)

    def change(data: np.ndarray, case: str) -> np.ndarray:
        repeats = [-(-n // m) for n, m in zip(data.shape, other.shape, strict=True)]
        large = np.tile(other, repeats)
        generator = numpy_generator("stranger", case)
        starts = [
            int(generator.integers((m - n) // 4, 3 * (m - n) // 4 + 1))
            for n, m in zip(data.shape, large.shape, strict=True)
        ]
        return large[tuple(slice(s, s + n) for s, n in zip(starts, data.shape, strict=True))]

    return change


def write(path: Path, data: np.ndarray, like: nibabel.Nifti1Image) -> None:
    nibabel.save(nibabel.Nifti1Image(data.astype(np.float32), like.affine), path)


def fill(folder: Path, images: Path, cases: list[str], per_kind: int, other: Path | None) -> dict[str, list[str]]:
    """Write the mixed folder; what is in it -> the names there."""
    changes: dict[str, Callable[[np.ndarray, str], np.ndarray]] = {"clean": lambda data, _: data}
    for name, levels in PERTURBED.items():
        changes.update({f"{name} {level:g}": perturbed(name, level) for level in levels})
    changes["inverted contrast"] = lambda data, _: data.max() + data.min() - data
    if other is not None:
        changes["another modality"] = stranger(other)
    changes["empty"] = lambda data, _: np.zeros_like(data)
    folder.mkdir(parents=True)
    names: dict[str, list[str]] = {}
    for number, case in enumerate(cases):
        source = images / f"{case}_0000{ENDING}"
        image = nibabel.load(source)
        data = np.asanyarray(image.dataobj)
        for what, change in changes.items():
            if what != "clean" and number >= per_kind:
                continue
            name = f"{case}_{what.replace(' ', '_')}"
            names.setdefault(what, []).append(name)
            write(folder / f"{name}_0000{ENDING}", change(data, case), image)
        for what, cut in (("truncated file", lambda raw: raw[: len(raw) // 2]), ("truncated inside", half_inside)):
            if number >= per_kind:
                continue
            name = f"{case}_{what.replace(' ', '_')}"
            names.setdefault(what, []).append(name)
            (folder / f"{name}_0000{ENDING}").write_bytes(cut(source.read_bytes()))
    return names


def half_inside(raw: bytes) -> bytes:
    whole = gzip.decompress(raw)
    return gzip.compress(whole[: len(whole) // 2], mtime=0)


def markdown(rows: list[list[str]]) -> str:
    head = ["in the folder", "images", "by checks", *(f"{verdict}ed" for verdict in VERDICTS), "by which checks"]
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table(qa: Path, names: dict[str, list[str]]) -> str:
    """What became of each kind; "by checks": a check of the image alone said review or reject."""
    found = pd.read_csv(qa).set_index("case")
    checks = found.filter(like="check: ").isin(["review", "reject"])
    rows = []
    for what, of_kind in names.items():
        verdicts, by = found.loc[of_kind, "verdict"], checks.loc[of_kind]
        counted = [str(int((verdicts == verdict).sum())) for verdict in VERDICTS]
        which = ", ".join(f"{name.removeprefix('check: ')} {n}" for name, n in by.sum().items() if n)
        rows.append([what, str(len(of_kind)), str(int(by.any(axis=1).sum())), *counted, which])
    return markdown(rows)


def subset(folder: Path, source: Path, names: list[str]) -> Path:
    if not folder.is_dir():
        folder.mkdir(parents=True)
        for name in names:
            shutil.copy(source / name, folder / name)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", dest="images", type=Path, required=True)
    parser.add_argument("-l", dest="labels", type=Path, required=True)
    parser.add_argument("-m", dest="model", type=Path, required=True)
    parser.add_argument("--splits", type=Path, required=True, help="nnU-Net's splits_final.json; fold 0 counts")
    parser.add_argument("--stranger", type=Path, help="an image of another modality")
    parser.add_argument("-o", dest="work", metavar="OUT", type=Path, required=True)
    parser.add_argument("--calibrate-on", type=int, default=30)
    parser.add_argument("--clean", type=int, help="clean images; default: all that are left")
    parser.add_argument("--per-kind", type=int, default=10, help="images of each kind but the clean one")
    parser.add_argument("--alpha", default="0.1")
    parser.add_argument("--delta", default="0")
    parser.add_argument("--kind", default="threshold")
    parser.add_argument("--disable-tta", action="store_true", help="no mirroring: eight times as fast, a single member")
    given = parser.parse_args()

    trained = set(json.loads(given.splits.read_text())[0]["train"])
    known = sorted(path.name.removesuffix(f"_0000{ENDING}") for path in given.images.glob(f"*_0000{ENDING}"))
    free = list(numpy_generator("qa_mixed").permutation([case for case in known if case not in trained]))
    used = sorted(map(str, free[: given.calibrate_on]))
    new = sorted(map(str, free[given.calibrate_on :]))[: given.clean]
    print(f"{len(trained)} cases trained on, {len(used)} to calibrate on, {len(new)} new", file=sys.stderr)

    images = subset(given.work / "calibration_images", given.images, [f"{case}_0000{ENDING}" for case in used])
    labels = subset(given.work / "calibration_labels", given.labels, [f"{case}{ENDING}" for case in used])
    mirroring = "_no_tta" if given.disable_tta else ""
    file = given.work / f"calibration_{given.alpha}_{given.delta}{mirroring}.json"
    if not file.is_file():
        asked = ["--alpha", given.alpha, "--delta", given.delta, "-device", "cpu"]
        asked += ["--disable-tta"] * given.disable_tta
        run(["calibrate", "-i", images, "-l", labels, "-m", given.model, "-o", file, *asked], {0})
    shutil.rmtree(given.work / "mixed", ignore_errors=True)
    names = fill(given.work / "mixed", given.images, new, given.per_kind, given.stranger)
    out = given.work / "qa"
    calibrated = ["--calibration", file, "--kind", given.kind]
    run(["qa", "-i", given.work / "mixed", "-m", given.model, "-o", out, "-device", "cpu", *calibrated], {0, 3})
    print(table(out / "qa.csv", names))


def run(arguments: list[object], allowed: set[int]) -> None:
    if nnunet_robust([str(argument) for argument in arguments]) not in allowed:
        sys.exit(1)


if __name__ == "__main__":
    main()
