"""The steps of `gpu_check.py`. One a process: python benchmarks/gpu_steps.py STEP RESULT.json [--device cuda] [--quick]

A step is a function with a row in `STEPS`. It writes its figures as it goes on (`Report.figures`); what it raises makes
it fail, `NeedsCudaError` skips it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

ROOT = Path(__file__).resolve().parent.parent
SHARE_OF_ALL = 1e-5  # of the voxels may differ from the stock command's, or twice what two stock runs differ in
AGREEMENT = 0.999  # of the voxels, for `fast`


class NeedsCudaError(Exception):
    """A step that says nothing without CUDA."""


class Report:
    """What a step found, written to a file after each change.

    Args:
        path: of the file.
        device: cuda or cpu.
        quick: small images, few of them.
    """

    def __init__(self, path: Path, device: str, quick: bool) -> None:
        self._path, self.device, self.quick = path, device, quick
        on_cuda = device == "cuda" and torch.cuda.is_available()
        self.row: dict[str, Any] = {
            "device": torch.cuda.get_device_name() if on_cuda else f"CPU, {os.cpu_count()} cores",
            "torch": torch.__version__,
            "figures": {},
        }

    def figures(self, **found: Any) -> None:
        """Add figures."""
        self.row["figures"] |= {key: _short(value) for key, value in found.items()}
        self.write()

    def write(self) -> None:
        """Write what there is."""
        temporary = self._path.with_suffix(".part")
        temporary.write_text(json.dumps(self.row))
        temporary.replace(self._path)

    def need_cuda(self) -> None:
        """Skip the step on another device."""
        if self.device != "cuda":
            raise NeedsCudaError


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def check(condition: bool, said: str) -> None:
    """Fail with a sentence."""
    if not condition:
        raise RuntimeError(said)


@contextlib.contextmanager
def timed(found: dict[str, float], name: str) -> Iterator[None]:
    """Note the seconds that something takes."""
    start = time.perf_counter()
    yield
    found[name] = time.perf_counter() - start


def doctor(report: Report) -> None:
    """What there is: `nnunet-robust doctor`, and a product on the device."""
    command = "from nnunet_robust.cli.entry import main; raise SystemExit(main())"
    done = subprocess.run([sys.executable, "-c", command, "doctor"], capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    problems = [line.strip() for line in done.stdout.splitlines() if re.search(r"✗|missing|FAIL", line)]
    report.figures(doctor_exit=done.returncode, doctor_says=problems[:8], python=sys.version.split()[0])
    if report.device == "cuda":
        check(torch.cuda.is_available(), "torch sees no CUDA device")
        report.figures(memory_gib=torch.cuda.get_device_properties(0).total_memory / 2**30, cuda=torch.version.cuda)
    square = torch.ones(512, 512, device=report.device)
    check(float((square @ square).mean()) == 512, "a matrix product is wrong")


def data(report: Report, kind: str) -> None:
    """Make a dataset and its model."""
    from gpu_data import data_of, make

    start = time.perf_counter()
    make(data_of(kind, report.quick), report.device)
    report.figures(seconds_to_make=time.perf_counter() - start)


def sweep(report: Report, kind: str, out: str, **options: Any) -> Path:
    """One sweep in this process, into an empty folder."""
    from gpu_data import data_of

    from nnunet_robust.eval.sweep.progress import SweepProgress
    from nnunet_robust.eval.sweep.sweep import SweepParameters, run_sweep

    of_kind, folder = data_of(kind, report.quick), Path(out).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    parameters = SweepParameters(
        output=folder, model_folders=[of_kind.model], folds=["0"], images=of_kind.images, labels=[of_kind.labels],
        device=report.device, **options,
    )  # fmt: skip
    with SweepProgress(folder) as progress:
        result = run_sweep(parameters, progress)
    check(not result.failures, f"{len(result.failures)} predictions failed: {result.failures[:1]}")
    return folder


def equality(report: Report, kind: str) -> None:
    """Labels beside those of the stock command, which is run twice."""
    from gpu_data import data_of
    from sweep_vs_stock import command

    of_kind = data_of(kind, report.quick)
    folders = [Path(f"stock_{kind}_{number}").absolute() for number in range(2)]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        command(
            "nnUNetv2_predict_from_modelfolder", "-m", of_kind.model, "-i", of_kind.images, "-o", folder, "-f", "0",
            "-device", report.device, "-npp", "1", "-nps", "1", "--disable_progress_bar",
        )  # fmt: skip
    one, other = (_labels(folder, of_kind.ending) for folder in folders)
    voxels, between = sum(labels.size for labels in one.values()), _differing(one, other)
    report.figures(voxels=voxels, foreground=sum(int((v > 0).sum()) for v in one.values()), two_stock_runs=between)
    allowed = {"exact": max(2 * between, SHARE_OF_ALL * voxels), "fast": (1 - AGREEMENT) * voxels}
    too_many = []
    for precision in _precisions(report):
        out = sweep(report, kind, f"sweep_{kind}", conditions={}, save_predictions=True, precision=precision)
        ours = _labels(next((out / "predictions").glob("*/clean")), of_kind.ending)
        differing = _differing(one, ours)
        report.figures(**{f"{precision}_differing": differing, f"{precision}_allowed": int(allowed[precision])})
        if differing > allowed[precision]:
            too_many.append(f"{precision}: {differing} voxels of {voxels} differ from the stock command's")
    check(not too_many, "; ".join(too_many))


def _precisions(report: Report) -> list[str]:
    """On a CPU `fast` needs OpenVINO, which is another matter."""
    return ["exact", "fast"] if report.device == "cuda" else ["exact"]


def _labels(folder: Path, ending: str) -> dict[str, np.ndarray]:
    import SimpleITK as sitk

    found = {path.name: sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in folder.glob(f"*{ending}")}
    check(bool(found), f"no predictions in {folder}")
    return found


def _differing(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> int:
    check(one.keys() == other.keys(), f"other files: {sorted(one)} and {sorted(other)}")
    return sum(int((labels != other[name]).sum()) for name, labels in one.items())


def speed(report: Report, kind: str) -> None:
    """Seconds of a sweep beside the stock pipeline, of which one condition is run."""
    from gpu_data import data_of
    from sweep_vs_stock import CONDITIONS, Stock
    from sweep_vs_stock import sweep as sweep_alone

    of_kind = data_of(kind, report.quick)
    short = report.quick or kind == "ct"
    conditions: dict[str, Sequence[float]] = {"gaussian_noise": (0.1, 0.2)} if short else CONDITIONS
    number = 1 + sum(map(len, conditions.values()))
    work = Path(f"speed_{kind}").absolute()
    work.mkdir(exist_ok=True)
    took = Stock(of_kind.model, of_kind.images, of_kind.labels, work, report.device).condition("clean", 0.0)
    report.figures(cases=of_kind.tests, conditions=number, stock_seconds_a_condition=took)
    for precision in _precisions(report):
        ours = sweep_alone(
            of_kind.model, of_kind.images, of_kind.labels, work / precision, precision, report.device, conditions
        )
        report.figures(**{
            f"{precision}_seconds": ours.seconds,
            f"{precision}_before_the_first": ours.start,
            f"{precision}_times_stock": number * took / ours.seconds,
            f"{precision}_memory_mib": ours.peak_mib,
        })  # fmt: skip


def profile(report: Report) -> None:
    """Share of a sweep's time in which the GPU is busy, and the most memory that torch takes there."""
    report.need_cuda()
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    for kind in ("3d", "2d"):
        for precision in _precisions(report):
            sweep(report, kind, "warm", conditions={}, precision=precision)
            torch.cuda.reset_peak_memory_stats()
            seconds: dict[str, float] = {}
            with profiled(activities=[ProfilerActivity.CUDA]) as profiler, timed(seconds, "all"):
                noise = {"gaussian_noise": (0.05, 0.1, 0.2, 0.3)}
                sweep(report, kind, "profiled", conditions=noise, precision=precision)
                torch.cuda.synchronize()
            spans = [(e.time_range.start, e.time_range.end) for e in profiler.events() if "CUDA" in str(e.device_type)]
            report.figures(**{
                f"{kind}_{precision}_busy_share_start_included": _union(spans) / 1e6 / seconds["all"],
                f"{kind}_{precision}_busy_share_once_begun": _union(spans) / max(_extent(spans), 1e-9),
                f"{kind}_{precision}_peak_gib": torch.cuda.max_memory_allocated() / 2**30,
            })  # fmt: skip


def _union(spans: Sequence[tuple[float, float]]) -> float:
    """The length of what intervals cover together."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered


def _extent(spans: Sequence[tuple[float, float]]) -> float:
    return max(end for _, end in spans) - min(start for start, _ in spans) if spans else 0.0


def tests(report: Report) -> None:
    """`pytest -m gpu`, on the files that have such tests: others need packages that are not carried."""
    files = sorted(str(path) for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text())
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    report.figures(files=len(files), summary=lines[-1] if lines else "", failed=failed[:20])
    check(done.returncode == 0, f"pytest: exit {done.returncode}, {lines[-1] if lines else done.stderr[-300:]}")
    if report.device != "cuda":
        report.need_cuda()  # all of them were skipped


def memory(report: Report) -> None:
    """Logits under a limit of memory that does not suffice for the batch that was asked for."""
    report.need_cuda()
    from gpu_data import data_of

    from nnunet_robust.eval.inference.loading import load_model
    from nnunet_robust.eval.inference.sliding_window import SlidingWindow

    of_kind = data_of("3d", report.quick)
    model = load_model(of_kind.model, ["0"], "checkpoint_final.pth", torch.device("cuda"), True, None)
    shape = (model.channels, *(2 * size for size in model.tile_size))
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    total = torch.cuda.get_device_properties(0).total_memory
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        "exact": ("exact", {"batch_size": 64}),
        "compiled": ("fast", {"batch_size": 64, "compiled": True}),
    }
    for name, (precision, choices) in ways.items():
        wanted = SlidingWindow.from_predictor(model.predictor, precision, choices).logits(image).cpu()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            torch.cuda.set_per_process_memory_fraction(0.4 * peak / total)
            window = SlidingWindow.from_predictor(model.predictor, precision, choices)
            found = window.logits(image).cpu()
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        agreement = float((found.argmax(0) == wanted.argmax(0)).float().mean())
        report.figures(**{
            f"{name}_peak_gib": peak / 2**30,
            f"{name}_peak_under_pressure_gib": torch.cuda.max_memory_allocated() / 2**30,
            f"{name}_choices": {key: window.choices[key] for key in ("batch_size", "results_device", "compiled")},
            f"{name}_agreement": agreement,
        })  # fmt: skip
        check(agreement >= AGREEMENT, f"{name}: labels agree in {agreement:.5f} of the voxels only")
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def attack(report: Report) -> None:
    """An attack alone, twice, and beside other predictions: how far are the three apart?"""
    attacks = {"pgd_linf": (0.02,)}
    options: dict[str, Any] = {"attack_steps": 3, "save_predictions": True}
    seconds: dict[str, float] = {}
    runs: dict[str, Path] = {}
    for name, conditions, workers in (
        ("first", attacks, 0),
        ("second", attacks, 0),
        ("beside", {"gaussian_noise": (0.1, 0.2), **attacks}, 4),
    ):
        with timed(seconds, name):
            runs[name] = sweep(report, "2d", f"attack_{name}", conditions=conditions, workers=workers, **options)
        report.figures(**{f"{name}_seconds": seconds[name]})
    first = _attacked(runs["first"])
    check(bool((first["results"]["dice"] <= 1).all()) and len(first["results"]) > 0, "no attack was stored")
    for name in ("second", "beside"):
        other = _attacked(runs[name])
        apart = (first["results"]["dice"] - other["results"]["dice"]).abs().max()
        psnr = (first["attacks"]["psnr_db"] - other["attacks"]["psnr_db"]).abs().max()
        report.figures(**{f"{name}_dice_apart": float(apart), f"{name}_psnr_db_apart": float(psnr)})


def _attacked(folder: Path) -> dict[str, pd.DataFrame]:
    found = {}
    for name in ("results", "attacks"):
        rows = pd.read_csv(folder / f"{name}.csv")
        keys = [key for key in ("case", "level", "label") if key in rows]
        found[name] = rows[rows["perturbation"] == "pgd_linf"].set_index(keys).sort_index()
    return found


def trainers(report: Report) -> None:
    """Each trainer for a few iterations as nnU-Net trains it (mixed precision on CUDA), eager and compiled."""
    from gpu_data import data_of, train

    from nnunet_robust.trainers import TRAINERS

    of_kind = data_of("2d", report.quick)
    failed = []
    for compiled in (False, True) if report.device == "cuda" else (False,):
        os.environ["nnUNet_compile"] = "t" if compiled else "f"  # noqa: SIM112 - nnU-Net's own name
        for name in TRAINERS:
            what = f"{name}{' compiled' if compiled else ''}"
            trained = f"{name}_ps64_bs2_1epochs_{1 if report.quick else 3}iters_seed1"
            seconds: dict[str, float] = {}
            try:
                with timed(seconds, what):
                    folder = train(of_kind, trained, report.device)
                stored = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False, map_location="cpu")
                weights = stored["network_weights"].values()
                check(all(bool(torch.isfinite(weight).all()) for weight in weights), "weights that are not finite")
                report.figures(**{what: seconds[what]})
            except Exception as error:
                failed.append(what)
                report.figures(**{what: f"{type(error).__name__}: {str(error)[:200]}"})
            torch._dynamo.reset()
    check(not failed, f"failed: {', '.join(failed)}")
    if report.device != "cuda":
        report.figures(compiled="skipped: needs CUDA")


STEPS: dict[str, Callable[[Report], None]] = {
    "doctor": doctor,
    **{f"data_{kind}": lambda report, kind=kind: data(report, kind) for kind in ("2d", "3d", "ct")},
    **{f"equality_{kind}": lambda report, kind=kind: equality(report, kind) for kind in ("2d", "3d")},
    **{f"speed_{kind}": lambda report, kind=kind: speed(report, kind) for kind in ("2d", "3d", "ct")},
    "profile": profile,
    "tests": tests,
    "memory": memory,
    "attack": attack,
    "trainers": trainers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("result", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    report = Report(options.result, options.device, options.quick)
    try:
        STEPS[options.step](report)
    except NeedsCudaError:
        report.row |= {"state": "skipped", "why": "needs CUDA"}
    except (Exception, SystemExit) as error:
        report.row |= {"state": "failed", "why": f"{type(error).__name__}: {str(error)[-600:]}"}
        report.write()
        raise
    else:
        report.row |= {"state": "ok"}
    report.write()


if __name__ == "__main__":
    main()
