"""CPU seconds of everything but the network for one condition of one case, stage by stage, by one thread.

    python benchmarks/stages.py [--only ct hippocampus image] [--repeats 3] [--json FILE]

Three made-up cases: a CT of 134 x 512 x 512 whose plans have another spacing (three labels beside the background), a
hippocampus of 36 x 50 x 35 on the plans' own grid, and a 2d image of 128 x 128. For each the sweep's own functions are
run with precision exact, which is nnU-Net's code on the CPU, and with fast, which is torch code for any device, here on
the CPU. Columns, CPU seconds (`time.thread_time`, so that other jobs beside this one count little), the least of the
repeats after one to warm up:

- exact: as it is, and was before there was anything else.
- fast, CPU: the same under fast, where the networks run on this CPU.
- fast, left: what a GPU leaves to the CPU. Torch operations run on the networks' device: a `TorchDispatchMode` clocks
  each of them. Left is the smaller of two figures, each of which errs upwards with its noise: all seconds without the
  clock less those in operations, and the seconds outside of operations less what the clock itself takes. Added are 10
  us for each operation, which is about what it takes a CPU to start one on a GPU. Left with the CPU are so operations
  that draw from a generator (which stays on the CPU, so that a GPU sees the same numbers), views, NumPy, SciPy, Python.
  Copies between the two are clocked as operations: here they copy nothing.

Then how many voxels of the labels are equal under both precisions, and the smallest Dice between them.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy import ndimage
from torch.utils._python_dispatch import TorchDispatchMode

from nnunet_robust.eval.images import complexity
from nnunet_robust.eval.images.cases import CaseFiles, LoadedCase
from nnunet_robust.eval.images.image_quality import image_quality
from nnunet_robust.eval.images.regions import EVERYWHERE
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.resampling import Interpolation, Resampling
from nnunet_robust.eval.results.tables import Condition
from nnunet_robust.eval.sweep.scene import Scene
from nnunet_robust.perturbations import measure

LAUNCH_SECONDS = 10e-6
CONDITION = Condition("gaussian_noise", 0.1, 0)


class Kind(NamedTuple):
    """A case to make up: sizes, spacings in mm, normalisation, labels beside the background."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    plans_mm: tuple[float, ...]
    scheme: str
    labels: int


KINDS = {
    "ct": Kind((134, 512, 512), (2.5, 0.78, 0.78), (2.0, 0.95, 0.95), "CTNormalization", 3),
    "hippocampus": Kind((36, 50, 35), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), "ZScoreNormalization", 2),
    "image": Kind((1, 128, 128), (999.0, 1.0, 1.0), (1.0, 1.0), "ZScoreNormalization", 1),
}


class DeviceClock(TorchDispatchMode):
    """Clocks the operations that would run on a device.

    Attributes:
        seconds: CPU seconds in all of them.
        calls: their number.
        views: the number of operations that only look at a tensor in another way, which no device has to do with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds, self.calls, self.views = 0.0, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.is_view or any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values())):
            self.views += func.is_view
            return func(*args, **kwargs)
        start = time.thread_time()
        result = func(*args, **kwargs)
        self.seconds += time.thread_time() - start
        self.calls += 1
        return result


class Stage(NamedTuple):
    """CPU seconds of a stage: in all, and what a device leaves of them."""

    total: float
    left: float


def seconds_of(run: Callable[[], Any], repeats: int) -> float:
    """CPU seconds, the least of the repeats after one to warm up; of what takes long, of one."""
    shortest = float("inf")
    for number in range(repeats + 1):
        start = time.thread_time()
        run()
        taken = time.thread_time() - start
        if number or taken > 2:
            shortest = min(shortest, taken)
        if taken > 2:
            break
    return shortest


def clocked(run: Callable[[], Any], repeats: int, precision: str) -> Stage:
    """Run something by itself and, under fast, as for a device, by itself and with the clock."""
    total = seconds_of(run, repeats)
    if precision == "exact":
        return Stage(total, total)
    on_a_device = mock.patch.object(complexity, "on_a_device", lambda image: isinstance(image, torch.Tensor))
    with on_a_device, memory_is_kept():
        as_for_device = seconds_of(run, repeats)
        found = [_watched(run) for _ in range(repeats + 1)]
    inside, launches = min(clock.seconds for clock, _ in found), found[0][0].calls * LAUNCH_SECONDS
    outside = min(seconds for _, seconds in found)
    return Stage(total, launches + min(max(0.0, as_for_device - inside), outside))


@contextlib.contextmanager
def memory_is_kept() -> Iterator[None]:
    """Keep freed memory, as the allocator of a GPU does: to hand it back takes a CPU milliseconds, outside of torch."""
    set_option = ctypes.CDLL(None).mallopt
    threshold, trim = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    set_option(threshold, 1 << 30), set_option(trim, (1 << 31) - 1)
    try:
        yield
    finally:
        set_option(threshold, 1 << 17), set_option(trim, 1 << 17)


def _watched(run: Callable[[], Any]) -> tuple[DeviceClock, float]:
    """The clock, and CPU seconds outside of operations, less its own."""
    start = time.thread_time()
    with DeviceClock() as clock:
        run()
    outside = time.thread_time() - start - clock.seconds
    of_call, of_view = _clocks_own_seconds()
    return clock, max(0.0, outside - clock.calls * of_call - clock.views * of_view)


@functools.cache
def _clocks_own_seconds() -> tuple[float, float]:
    """What it takes the clock to look at an operation, and at a view."""
    small, number, found = torch.zeros(2, 2), 20000, []
    for operation in (lambda: small.add(1), lambda: small.view(4)):
        plain = seconds_of(lambda: [operation() for _ in range(number)], 3)  # noqa: B023 - called at once
        start = time.thread_time()
        with DeviceClock() as clock:
            for _ in range(number):
                operation()
        looked_at = time.thread_time() - start - clock.seconds
        found.append(max(0.0, looked_at - (0.0 if clock.calls else plain)) / number)
    return found[0], found[1]


class Bench:
    """One case under one precision."""

    def __init__(self, kind: Kind, precision: str) -> None:
        self.kind, self.precision = kind, precision
        self.label = _label(kind)
        self.properties = {"spacing": list(kind.spacing_mm)}
        self.model = _model(kind, precision)
        loaded = LoadedCase(_image(kind, self.label), self.properties, kind.spacing_mm, self.label, {})
        names = {"background": 0, **{f"l{value}": value for value in range(1, kind.labels + 1)}}
        reader: Any = SimpleNamespace(
            read=lambda files: loaded, ignore_label=None, label_names={v: n for n, v in names.items()}, colour=False,
            label_layout=None, regions={n: v for n, v in names.items() if v},
        )  # fmt: skip
        files = CaseFiles("case", "case", (Path("case"),), Path("case"))
        self.scene = Scene(files, reader, 2.0, EVERYWHERE, torch.device("cpu"))
        self.image = self.scene.image(CONDITION, 0, as_it_is=False)
        self.data, self.found = self.model.preprocess(self.image, self.properties)
        self.logits = _logits(kind, self.label, tuple(self.data.shape[1:]))
        self.prediction = self.model.export(self.logits, self.found)

    def stages(self, repeats: int) -> dict[str, Stage]:
        """Time each; what is nested is taken from what it is nested in."""
        image, scene = self.image, self.scene
        runs: dict[str, Callable[[], Any]] = {
            "perturb": lambda: scene.image(CONDITION, 0, as_it_is=False),
            "crop and normalise": lambda: self.model.preprocess(image, self.properties),
            "resample the image": self._resample_image,
            "resample the logits": self._resample_logits,
            "argmax": lambda: self.model.export(self.logits, self.found),
            "PSNR, SNR": lambda: measure(scene._clean, image, scene.bounds),
            "noise, blur": lambda: image_quality(image, scene.spacing_mm),
            "texture divergence": lambda: scene._meter().measure(image),
            "overlap, surface distances": lambda: scene.reference.compare(self.prediction),
        }
        found = {}
        for name, run in runs.items():
            found[name] = clocked(run, repeats, self.precision)
            print(f"{self.precision}, {name}: {found[name].total:.3f} s", file=sys.stderr, flush=True)
        for whole, part in (("crop and normalise", "resample the image"), ("argmax", "resample the logits")):
            found[whole] = _difference(found[whole], found[part])
        return found

    def _spacings(self) -> tuple[list[float], list[float]]:
        own, wanted = list(self.kind.spacing_mm), list(self.kind.plans_mm)
        return own, wanted if len(wanted) == 3 else [own[0], *wanted]

    def _resample_image(self) -> None:
        configuration = self.model.predictor.configuration_manager
        own, wanted = self._spacings()
        new_shape = compute_new_shape(self.kind.shape, own, wanted)
        if self.precision == "exact":
            configuration.resampling_fn_data(self.image.numpy(), new_shape, own, wanted)
        else:
            options = configuration.configuration["resampling_fn_data_kwargs"]
            Resampling(self.kind.shape, new_shape, own, wanted, options)(self.image)

    def _resample_logits(self) -> None:
        configuration = self.model.predictor.configuration_manager
        own, wanted = self._spacings()
        if self.precision == "exact":
            configuration.resampling_fn_probabilities(self.logits.numpy(), self.kind.shape, wanted, own)
        else:
            options = configuration.configuration["resampling_fn_probabilities_kwargs"]
            cpu = torch.device("cpu")
            grid = Interpolation(self.logits.shape[1:], self.kind.shape, wanted, own, options, cpu)
            for _ in grid.slabs(self.logits, 1 << 22):
                pass


def _difference(whole: Stage, part: Stage) -> Stage:
    return Stage(max(0.0, whole.total - part.total), max(0.0, whole.left - part.left))


def _label(kind: Kind) -> np.ndarray:
    """Ellipsoids beside one another, with rough borders."""
    rng, label = np.random.default_rng(0), np.zeros(kind.shape, np.uint8)
    grid = [(np.arange(n) - (n - 1) / 2) / n for n in kind.shape]
    rough = ndimage.zoom(
        rng.normal(size=[max(1, n // 8) for n in kind.shape]), [n / max(1, n // 8) for n in kind.shape]
    )
    for value in range(1, kind.labels + 1):
        centre = (value - (kind.labels + 1) / 2) * 0.2
        distance = grid[0][:, None, None] ** 2 + grid[1][:, None] ** 2 + (grid[2] - centre) ** 2
        label[(distance + 0.002 * rough < 0.012) & (label == 0)] = value
    return label


def _image(kind: Kind, label: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, kind.shape).astype(np.float32)
    smooth = ndimage.gaussian_filter(noise, (0 if kind.shape[0] == 1 else 1, 1.5, 1.5))
    return (100 + 40.0 * label + 60 * smooth + 8 * noise)[None].astype(np.float32)


def _logits(kind: Kind, label: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    """As of a network that is right but for some ten thousandths of the voxels near the borders."""
    heads = torch.stack([torch.from_numpy(label == value).float() for value in range(kind.labels + 1)])
    small = torch.nn.functional.interpolate(heads[None], shape, mode="trilinear")[0]
    drawn = torch.randn(small.shape, generator=torch.Generator().manual_seed(0))
    return (8 * small + 0.8 * drawn).contiguous()


def _model(kind: Kind, precision: str) -> Model:
    options = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    function = "resample_data_or_seg_to_shape"
    plans = PlansManager({
        "dataset_name": "Dataset900_Made", "plans_name": "nnUNetPlans", "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2], "image_reader_writer": "SimpleITKIO", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 150.0, "std": 40.0, "percentile_00_5": 60.0, "percentile_99_5": 300.0}
        },
        "configurations": {"c": {
            "architecture": {}, "preprocessor_name": "DefaultPreprocessor", "spacing": list(kind.plans_mm),
            "normalization_schemes": [kind.scheme], "use_mask_for_norm": [False], "patch_size": list(kind.shape),
            "resampling_fn_data": function, "resampling_fn_data_kwargs": options,
            "resampling_fn_seg": function, "resampling_fn_seg_kwargs": {**options, "is_seg": True, "order": 1},
            "resampling_fn_probabilities": function, "resampling_fn_probabilities_kwargs": {**options, "order": 1},
        }},
    })  # fmt: skip
    names = {"background": 0, **{f"l{value}": value for value in range(1, kind.labels + 1)}}
    predictor: Any = SimpleNamespace(
        plans_manager=plans, configuration_manager=plans.get_configuration("c"), device=torch.device("cpu"),
        dataset_json={"labels": names}, label_manager=plans.get_label_manager({"labels": names}),
    )  # fmt: skip
    return Model("made", "nnUNetPlans", "c", "0", Path("made"), {}, kind.shape, predictor, precision=precision)


def agreement(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """The share of equal voxels, and the smallest Dice of a label."""
    dices = [
        2 * np.count_nonzero((one == v) & (other == v)) / (np.count_nonzero(one == v) + np.count_nonzero(other == v))
        for v in np.union1d(one, other)
    ]
    return float((one == other).mean()), float(min(dices))


def show(name: str, exact: Mapping[str, Stage], fast: Mapping[str, Stage]) -> dict[str, Sequence[float]]:
    """Print a table in milliseconds, and give it back in seconds."""
    rows = {stage: (exact[stage].total, fast[stage].total, fast[stage].left) for stage in exact}
    rows["all"] = tuple(sum(column) for column in zip(*rows.values(), strict=True))  # type: ignore[assignment]
    print(f"\n{name}: CPU milliseconds a condition\n{'':28}{'exact':>12}{'fast, CPU':>12}{'fast, left':>12}")
    for stage, values in rows.items():
        print(f"{stage:28}" + "".join(f"{1000 * value:12.2f}" for value in values), flush=True)
    return rows


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name in given.only:
        stages, labels = {}, {}
        repeats = given.repeats if name == "ct" else 10 * given.repeats
        for precision in ("exact", "fast"):
            bench = Bench(KINDS[name], precision)
            stages[precision], labels[precision] = bench.stages(repeats), bench.prediction
        found[name] = show(name, stages["exact"], stages["fast"])
        share, dice = agreement(labels["exact"], labels["fast"])
        print(f"labels of exact and fast: {100 * share:.4f} % equal, smallest Dice {dice:.5f}")
        found[name]["agreement"] = (share, dice)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
