"""The figure of docs/sweep.md on background: noise everywhere, and noise in nnU-Net's non-zero region.

    python benchmarks/background_figure.py

docs/figures/background.png: a made head without its skull, 96 x 96, under the weakest noise. Below each picture stand
nnU-Net's crop and the standard deviation of the tissue as the network gets it.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.normalization.default_normalization_schemes import ZScoreNormalization
from scipy import ndimage

from nnunet_robust.common.seeding import numpy_generator, torch_generator
from nnunet_robust.eval.images.regions import Background
from nnunet_robust.perturbations import measure, perturb

LEVEL = 0.001
TARGET = Path(__file__).parent.parent / "docs" / "figures" / "background.png"


def phantom() -> np.ndarray:
    """A brain of 51 x 51 voxels in zeros, (1, 1, 96, 96): a fluid and two tissues."""
    rng = numpy_generator("background figure")
    radius = np.hypot(*(np.mgrid[:96, :96] - 47.0))
    folds = ndimage.gaussian_filter(rng.normal(size=(96, 96)), 3)
    white = radius + 60 * folds < 17
    grey = (radius < 25.5) & ~white
    image = np.select([white, grey & (radius > 23), grey], [620.0, 180.0, 430.0]) + rng.normal(0, 12, (96, 96))
    return np.where(radius < 25.5, image, 0)[None, None].astype(np.float32)


def seen_by_the_network(image: np.ndarray, tissue: np.ndarray) -> tuple[tuple[int, ...], float]:
    """nnU-Net's crop, and the tissue's standard deviation after its normalisation by the non-zero mask."""
    data, outside, box = crop_to_nonzero(image)
    normalised = ZScoreNormalization(True, {}).run(data[0].copy(), outside[0])[0]
    (top, bottom), (left, right) = box[1:]
    return data.shape[2:], float(normalised[tissue[top:bottom, left:right]].std())


def main() -> None:
    clean = phantom()
    image, tissue = torch.from_numpy(clean), clean[0, 0] > 0
    region = Background("keep").region(clean).mask
    assert region is not None
    pictures = {"the image": (image, None)}
    for title, where in (("noise everywhere", None), ("noise in the region", torch.from_numpy(region))):
        noisy = perturb(image, "gaussian_noise", LEVEL, torch_generator("background figure"), region=where)
        pictures[f"{title}, level {LEVEL:g}"] = (noisy, measure(image, noisy, region=where)["psnr_db"])
    figure, axes = plt.subplots(2, 3, figsize=(8.4, 6.2), layout="constrained")
    for column, (title, (picture, psnr)) in zip(axes.T, pictures.items(), strict=True):
        crop, deviation = seen_by_the_network(picture.numpy(), tissue)
        column[0].imshow(picture[0, 0], cmap="gray", vmin=0, vmax=700)
        column[0].set_title(title + ("" if psnr is None else f"\n{psnr:.0f} dB"), fontsize=10)
        column[1].imshow(picture[0, 0] != 0, cmap="gray", vmin=0, vmax=1)
        column[1].set_title("what is not zero", fontsize=9)
        column[1].set_xlabel(f"crop {crop[0]} x {crop[1]}\ntissue, normalised: SD {deviation:.2f}", fontsize=10)
        for panel in column:
            panel.set_xticks([])
            panel.set_yticks([])
        print(title, crop, round(deviation, 3), psnr)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    temporary = TARGET.with_name(f".tmp_{TARGET.name}")
    figure.savefig(temporary, dpi=110, metadata={"Software": None})
    temporary.replace(TARGET)
    print(f"written to {TARGET}")


if __name__ == "__main__":
    main()
