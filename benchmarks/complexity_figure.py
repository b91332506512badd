"""The figures of docs/complexity.md.

    python benchmarks/complexity_figure.py

docs/figures/complexity.png: texture divergence over alpha, both blending directions, both variants, two pairs of
photographs; mean over 20 cases of 256 x 256 with its BCa bootstrap interval.
docs/figures/complexity_published.png: where the published variant misleads.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import bootstrap
from skimage import data

from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.dataset_conversion.shapes import bezier_shape
from nnunet_robust.dataset_conversion.textures import blend
from nnunet_robust.eval.images.complexity import (
    BINS,
    VARIANTS,
    ComplexityMeter,
    published_divergence,
    symmetric_divergence,
)

ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.82, 0.85, 0.88, 0.9, 0.92, 0.95, 0.98)
PAIRS = (("brick", "grass"), ("brick", "gravel"))
DIRECTIONS = ("foreground", "background")
CASES, SIZE = 20, 256
STYLES = {"symmetric": ("#0072b2", "o", "-"), "published": ("#d55e00", "s", "--")}
FIGURES = Path(__file__).parent.parent / "docs" / "figures"


def texture_case(pair: tuple[str, str], index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two crops and a mask, as `synthesize textures` makes them."""
    rng = numpy_generator("complexity figure", index)
    crops = []
    for name in pair:
        row, column = rng.integers(512 - SIZE, size=2, endpoint=True)
        crops.append(getattr(data, name)()[row : row + SIZE, column : column + SIZE])
    return crops[0], crops[1], bezier_shape((SIZE, SIZE), rng, "normal")


def divergence(image: np.ndarray, mask: np.ndarray, variant: str) -> float:
    meter = ComplexityMeter(image[None], mask.astype(int), {"x": [1]}, (1, 1), variant=variant)  # type: ignore[arg-type]
    return meter.measure(image[None])["x"].texture_divergence_bits


def over_alpha() -> None:
    figure, axes = plt.subplots(2, 2, figsize=(8.4, 6), sharex=True, layout="constrained")
    for row, pair in zip(axes, PAIRS, strict=True):
        cases = [texture_case(pair, index) for index in range(CASES)]
        for panel, direction in zip(row, DIRECTIONS, strict=True):
            for variant in VARIANTS:
                colour, marker, dash = STYLES[variant]
                values = np.array(
                    [[divergence(blend(f, b, m, a, direction), m, variant) for f, b, m in cases] for a in ALPHAS]
                )
                means = values.mean(axis=1)
                low, high = bootstrap((values,), np.mean, axis=1, n_resamples=2000, rng=0).confidence_interval
                panel.plot(ALPHAS, means, color=colour, marker=marker, ls=dash, ms=4, lw=1.6, label=variant)
                panel.fill_between(ALPHAS, low, high, color=colour, alpha=0.18, lw=0)
                print(*pair, direction, variant, means.round(4).tolist())
            bled = pair[1] if direction == "foreground" else pair[0]
            panel.set_title(f"{pair[0]} on {pair[1]}: {bled} bleeds into the {direction}", fontsize=10)
            panel.set_yscale("log")
            panel.grid(alpha=0.2)
            panel.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("mean texture divergence (bits)")
    for panel in axes[1]:
        panel.set_xlabel("α (share of the other texture); higher is harder")
    axes[0][0].legend(frameon=False)
    save(figure, "complexity.png")


def where_it_misleads() -> None:
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    codes = np.arange(BINS)
    inside = np.where(codes < 9, 1000, 0)
    inside[11] = 60
    outside = np.where(codes >= 12, 1000, 0)
    outside[11] = 400
    axes[0].bar(codes - 0.2, inside / inside.sum(), 0.4, color="#0072b2", label="inside")
    axes[0].bar(codes + 0.2, outside / outside.sum(), 0.4, color="#e69f00", label="outside")
    axes[0].set_title(
        f"almost disjoint textures: published {published_divergence(inside, outside):.2f} bits,\n"
        f"symmetric {symmetric_divergence(inside, outside):.2f} bits",
        fontsize=9,
    )
    axes[0].set_xlabel("code")
    axes[0].set_ylabel("share of codes")
    axes[0].legend(frameon=False, fontsize=8)

    radii = (10, 14, 20, 30, 40, 60, 80)
    grid = np.hypot(*np.meshgrid(*[np.arange(SIZE) - SIZE / 2] * 2))
    panels = {
        "the same grass on both sides": 0,
        "the same grass, brighter inside by 60": 60,
    }
    for panel, (title, step) in zip(axes[1:], panels.items(), strict=True):
        for variant in VARIANTS:
            colour, marker, dash = STYLES[variant]
            means = []
            for radius in radii:
                crops = [texture_case(("grass", "grass"), index)[0] for index in range(10)]
                images = [100 + crop // 8 + np.uint8(step) * (grid < radius) for crop in crops]
                means.append(np.mean([divergence(image, grid < radius, variant) for image in images]))
            panel.plot(radii, means, color=colour, marker=marker, ls=dash, label=variant)
            print(title, variant, np.round(means, 4).tolist())
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("radius of the mask (pixels)")
        panel.set_ylabel("mean texture divergence (bits)")
        panel.set_ylim(0, None)
    top = max(panel.get_ylim()[1] for panel in axes[1:])
    for panel in axes[1:]:
        panel.set_ylim(0, top)
    axes[1].legend(frameon=False, fontsize=8)
    for panel in axes:
        panel.grid(alpha=0.2)
        panel.spines[["top", "right"]].set_visible(False)
    save(figure, "complexity_published.png")


def save(figure: plt.Figure, name: str) -> None:
    FIGURES.mkdir(parents=True, exist_ok=True)
    temporary = FIGURES / f".tmp_{name}"
    figure.savefig(temporary, dpi=110, metadata={"Software": None})
    temporary.replace(FIGURES / name)
    print(f"written to {FIGURES / name}")


if __name__ == "__main__":
    over_alpha()
    where_it_misleads()
