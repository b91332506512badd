"""Throughput of every perturbation, beside TorchIO and MONAI where they have the same thing.

    python benchmarks/perturbations.py [--size 256] [--pixels 512] [--images 16] [--repeats 3] [--threads 1]
        [--only NAME ...] [--compared]

A volume of size³ voxels, and a batch of images of pixels², one after the other, as a sweep sees them. Each perturbation
is taken at the middle one of its default levels; the median over repeats is printed, and how many times faster ours is.
Seconds are those of all CPUs together, which other jobs on the machine change little; contenders take turns. Ours are
the bare functions; the first line tells what `perturb` adds to them (the robust range, scaling, clipping), by the
cheapest.

Ours are the faster ones in every row that the others have, but for `cutout`: MONAI's makes holes of a given size, in
the image that it is given (here in a copy, as ours does). Ours looks for the size at which three rectangles, which
overlap and are cut at the image's borders, hide just the share that was asked for, and that within this size at any
higher level: 1.1 to 3 times as long as MONAI's.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import monai.transforms as mt
import torch
import torchio as tio

from nnunet_robust.common.seeding import torch_generator
from nnunet_robust.eval.attacks.rows import PERTURBATIONS
from nnunet_robust.perturbations import Perturbation, perturb

Transform = Callable[[torch.Tensor], object]


def torchio(transform: tio.Transform) -> Transform:
    """TorchIO takes (C, x, y, z) only."""
    return lambda image: transform(image if image.ndim == 4 else image[..., None])


def both(level: float) -> tuple[float, float]:
    return (level, level)


# name of a row -> its level -> contenders. Levels of other meaning are matched in cost, not in strength.
CONTENDERS: dict[str, Callable[[float], dict[str, Transform]]] = {
    "gaussian_noise": lambda level: {
        "torchio": torchio(tio.RandomNoise(std=both(level))),
        "monai": mt.RandGaussianNoise(prob=1, std=level, sample_std=False),
    },
    "rician_noise": lambda level: {"monai": mt.RandRicianNoise(prob=1, std=level, sample_std=False)},
    "gaussian_blur": lambda level: {
        "torchio": torchio(tio.RandomBlur(std=both(level))),
        "monai": mt.GaussianSmooth(sigma=level),
    },
    "slice_thickness": lambda level: {
        "torchio": torchio(tio.RandomAnisotropy(axes=(0,), downsampling=both(level), scalars_only=True))
    },
    "contrast": lambda level: {
        "torchio": torchio(tio.RandomGamma(log_gamma=both(level))),
        "monai": mt.AdjustContrast(gamma=2.718281828**level),
    },
    "brightness": lambda level: {"monai": mt.ShiftIntensity(offset=level)},
    "window_shift": lambda level: {"torchio": torchio(tio.Clamp(out_min=level, out_max=1 + level))},
    "cutout": lambda level: {"monai": _coarse_dropout(level)},
    "gibbs_ringing": lambda level: {"monai": mt.GibbsNoise(alpha=level)},
    "bias_field": lambda level: {
        "torchio": torchio(tio.RandomBiasField(coefficients=both(level))),
        "monai": mt.RandBiasField(prob=1, coeff_range=both(level)),
    },
    "motion": lambda level: {"torchio": torchio(tio.RandomMotion(degrees=both(level), translation=both(level)))},
    "ghosting": lambda level: {"torchio": torchio(tio.RandomGhosting(num_ghosts=(4, 4), intensity=both(level)))},
    "kspace_spikes": lambda level: {
        "torchio": torchio(tio.RandomSpike(num_spikes=(1, 1), intensity=both(level))),
        "monai": _spike,
    },
}


def _coarse_dropout(level: float) -> Transform:
    def drop(image: torch.Tensor) -> object:
        share = (level / 3) ** (1 / (image.ndim - 1))
        size = [max(1, round(share * length)) for length in image.shape[1:]]
        return mt.RandCoarseDropout(prob=1, holes=3, spatial_size=size, fill_value=0)(image.clone())  # else in place

    return drop


def _spike(image: torch.Tensor) -> object:
    return mt.KSpaceSpikeNoise(loc=tuple(length // 3 for length in image.shape[1:]), k_intensity=10.0)(image)


def ours(row: Perturbation, images: list[torch.Tensor]) -> Callable[[], object]:
    """A run of the bare function over the images; nothing is prepared that a sweep would not have at hand."""
    keywords: dict[str, object] = {}
    if row.uses_mask:
        keywords["mask"] = torch.zeros(images[0].shape[1:], dtype=torch.bool)
        keywords["mask"][..., : images[0].shape[-1] // 2] = True
    if row.uses_spacing:
        keywords["spacing_mm"] = (1.0,) * (images[0].ndim - 1)
    level = row.levels[len(row.levels) // 2]
    return lambda: [row.function(image, level, torch_generator("benchmark"), **keywords) for image in images]


def theirs(transform: Transform, images: list[torch.Tensor]) -> Callable[[], object]:
    return lambda: [transform(image) for image in images]


def medians(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """CPU seconds of each; they take turns, so that a busy moment hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for name, run in contenders.items():
            start = time.process_time()
            run()
            if repeat:  # the first warms up
                times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def images_of(shape: tuple[int, ...], count: int) -> list[torch.Tensor]:
    return [torch.rand(shape, generator=torch_generator("benchmark", number)) for number in range(count)]


def report(title: str, row: Perturbation, single: list[torch.Tensor], repeats: int) -> None:
    # stains and JPEG are of colour images
    images = [image.expand(3, *image.shape[1:]).contiguous() for image in single] if _coloured(row) else single
    contenders = {"ours": ours(row, images)}
    for name, transform in CONTENDERS.get(row.name, lambda _: {})(row.levels[len(row.levels) // 2]).items():
        contenders[name] = theirs(transform, images)
    times = medians(contenders, repeats)
    voxels = sum(image.numel() for image in images) / 1e6
    told = "".join(
        f"  {name} {1e3 * times[name]:8.1f} ms, x {times[name] / times['ours']:.2f}" for name in list(times)[1:]
    )
    print(f"{title:<22} {1e3 * times['ours']:8.1f} ms {voxels / times['ours']:9.1f} Mvoxel/s{told}", flush=True)


def _coloured(row: Perturbation) -> bool:
    return row.modality == "histology"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="edge of the volume in voxels; 0 leaves it out")
    parser.add_argument("--pixels", type=int, default=512, help="edge of the images in pixels; 0 leaves them out")
    parser.add_argument("--images", type=int, default=16, help="images in a batch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="torch's")
    parser.add_argument("--compared", action="store_true", help="those rows alone that another package has")
    parser.add_argument("--only", nargs="+", choices=list(PERTURBATIONS), metavar="NAME", help="these rows alone")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    known = list(CONTENDERS) if options.compared else [n for n, row in PERTURBATIONS.items() if not row.uses_victim]
    print(f"{torch.get_num_threads()} thread(s), torch {torch.__version__}; x: how many times as long theirs takes")
    sets = {
        f"a volume of {options.size}³": images_of((1, *[options.size] * 3), 1) if options.size else [],
        f"{options.images} images of {options.pixels}²": (
            images_of((1, options.pixels, options.pixels), options.images) if options.pixels else []
        ),
    }
    for title, images in sets.items():
        if not images:
            continue
        print(f"\n{title}")
        run = {"": lambda images=images: [perturb(i, "brightness", 0.2, torch_generator()) for i in images]}
        print(f"{'perturb (brightness)':<22} {1e3 * medians(run, options.repeats)['']:8.1f} ms")
        for name in options.only or known:
            row = PERTURBATIONS[name]
            if row.modality == "histology" and images[0].ndim == 4:
                continue  # there are no volumes of slides
            report(name, row, images, options.repeats)


if __name__ == "__main__":
    main()
