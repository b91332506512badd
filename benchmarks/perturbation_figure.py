"""docs/figures/perturbations.png: every perturbation at its default levels on an example image.

    python benchmarks/perturbation_figure.py [TARGET]

Images are scikit-image's own: the Shepp-Logan phantom with a fine texture, for histology the immunohistochemistry
slide. What the labels cover, for the perturbations that use them, is the phantom's inside.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import torch
from PIL import Image
from skimage import data, filters

from nnunet_robust.common.seeding import numpy_generator, torch_generator
from nnunet_robust.perturbations import PERTURBATIONS, Perturbation, perturb

EDGE = 128


def phantom() -> torch.Tensor:
    """(1, EDGE, EDGE) in [0, 1], with a fine texture in the head, so that noise and blur have something to change."""
    head = torch.nn.functional.interpolate(
        torch.from_numpy(data.shepp_logan_phantom()).float()[None, None], (EDGE, EDGE), mode="area"
    )[0]
    head = 2 * head.clamp(max=0.5)  # the skull less bright
    grain = filters.gaussian(numpy_generator("figure").normal(size=(EDGE, EDGE)), 1.0)
    textured = head + 0.25 * torch.from_numpy(grain).float() * (head > 0.05)
    return textured.clamp(0, 1)


def slide() -> torch.Tensor:
    """(3, EDGE, EDGE) in [0, 255]."""
    rgb = torch.from_numpy(data.immunohistochemistry()).permute(2, 0, 1).float()[None]
    return torch.nn.functional.interpolate(rgb[..., :384, :384], (EDGE, EDGE), mode="area")[0]


def shown(row: Perturbation, level: float) -> torch.Tensor:
    """(EDGE, EDGE, 3) in [0, 1]."""
    image = slide() if row.modality == "histology" else phantom()
    mask = torch.zeros(EDGE, EDGE, dtype=torch.bool)
    mask[32:96, 40:88] = True
    changed = perturb(image, row.name, level, torch_generator("figure"), mask, colour=len(image) == 3)
    low, high = image.min(), image.max()
    return ((changed - low) / (high - low)).clamp(0, 1).permute(1, 2, 0).expand(-1, -1, 3)


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "docs/figures/perturbations.png"
    rows = list(PERTURBATIONS.values())
    half = (len(rows) + 1) // 2
    columns = max(len(row.levels) for row in rows) + 1
    figure, axes = plt.subplots(half, 2 * columns, figsize=(2 * columns * 0.95, half * 1.22))
    for panel in axes.flat:
        panel.axis("off")
    for number, row in enumerate(rows):
        line, side = number % half, number // half
        for column, level in enumerate((0.0, *row.levels)):
            panel = axes[line, side * columns + column]
            panel.imshow(shown(row, level).numpy(), interpolation="nearest")
            panel.set_title(f"{level:g}" if level else row.name, fontsize=7, pad=2, loc="center" if level else "left")
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.002, top=0.985, wspace=0.04, hspace=0.22)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    # 64 colours: a third of the size
    picture = Image.open(buffer).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".tmp_{target.name}")
    picture.save(temporary, format="PNG", optimize=True)
    temporary.replace(target)
    print(f"written to {target}: {target.stat().st_size / 1e3:.0f} kB, {len(rows)} perturbations")


if __name__ == "__main__":
    main()
