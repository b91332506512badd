"""The complexity of a dataset: a CSV with a row per case and label, and a histogram beside it."""

from __future__ import annotations

import contextlib
import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

from nnunet_robust.common.console import quiet, warn
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import write_atomically
from nnunet_robust.common.folders import dataset_name, nnunet_folder
from nnunet_robust.common.nnunet_files import read_dataset_json
from nnunet_robust.eval.images.cases import CaseFiles, cases_of_folders, label_names, load_case
from nnunet_robust.eval.images.complexity import VARIANTS, ComplexityMeter, Variant
from nnunet_robust.eval.images.image_files import channel_count, check_stored
from nnunet_robust.eval.images.regions import Background, channel_names
from nnunet_robust.eval.results.tables import cell
from nnunet_robust.pages.plots import line_styles, plain_style
from nnunet_robust.trainers.plan_names import check_dataset

ALL = "all_foreground"
"""The label column of the row for all foreground together."""

COLUMNS = (
    "dataset", "images", "patient", "case", "label", "variant", "texture_divergence_bits", "foreground_ratio",
    "boundary_contrast", "inside_codes", "outside_codes", "slices",
)  # fmt: skip

_LOOKED_AT = 5  # cases, for the reader

Track = Callable[[list[tuple[str, CaseFiles]]], Iterable[tuple[str, CaseFiles]]]


def write_complexity(
    dataset: str,
    target: Path,
    *,
    images: Path | None = None,
    labels: Path | None = None,
    variant: str = "symmetric",
    track: Track = iter,
) -> tuple[Path, list[str]]:
    """Measure every case of a raw dataset; write the table, and a histogram of it as PNG of the same name.

    Args:
        dataset: id or name; its `dataset.json` says what channels and labels there are.
        target: the CSV file.
        images: folder of images; None takes the training cases and, where they have labels, the test cases.
        labels: folder of their labels.
        variant: a member of `VARIANTS`.
        track: wraps the list of cases that is gone through, for a progress bar.

    Returns:
        The path of the histogram, and for each case that cannot be read, and is left out, why.

    Raises:
        UserError: bad input, in one line, or no case can be read; nothing is written then.
    """
    if variant not in VARIANTS:
        raise UserError(f"--variant {variant!r}: take one of {', '.join(VARIANTS)}")
    if target.suffix != ".csv":
        raise UserError(f"-o {target}: the table is a CSV file, take a name that ends in .csv")
    name = dataset_name(dataset)
    raw = nnunet_folder("nnUNet_raw") / name
    if not (raw / "dataset.json").is_file():
        raise UserError(f"no {raw / 'dataset.json'}: complexity needs the raw dataset")
    meta = read_dataset_json(raw / "dataset.json", "labels", "file_ending")
    check_dataset(meta, raw / "dataset.json")
    cases = _cases(raw, meta, images, labels)
    reader = _reader(meta, cases)
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    for folder, case in track(cases):
        fixed = {"dataset": name, "images": folder, "patient": case.patient, "case": case.name, "variant": variant}
        try:
            rows += [{**fixed, **row} for row in _rows(case, reader, meta, variant)]
        except UserError as error:
            failed.append(str(error))
    if not rows:
        raise UserError(f"none of {len(cases)} cases can be measured: {failed[0]}")
    figure = target.with_suffix(".png")
    write_atomically(target, _csv(rows))
    write_atomically(figure, histogram(rows, name, variant))
    return figure, failed


def _cases(raw: Path, meta: Mapping[str, Any], images: Path | None, labels: Path | None) -> list[tuple[str, CaseFiles]]:
    """The cases, each with the name of its folder of images."""
    if (images is None) != (labels is None):
        raise UserError("images (-i) and labels (-l) go together: give both or neither")
    if images is not None and labels is not None:
        folders = [(images, labels)]
    else:
        folders = [(raw / "imagesTr", raw / "labelsTr")]
        if any((raw / "labelsTs").glob(f"*{meta['file_ending']}")):
            folders.append((raw / "imagesTs", raw / "labelsTs"))
    return [
        (of_images.name, case)
        for of_images, of_labels in folders
        for case in cases_of_folders(of_images, of_labels, meta["file_ending"], channel_count(meta), complete=False)
    ]


def _reader(meta: Mapping[str, Any], cases: Sequence[tuple[str, CaseFiles]]) -> BaseReaderWriter:
    """The reader that nnU-Net would take for most of the first cases: it goes by one, which may be a broken one."""
    found: Counter[type[BaseReaderWriter]] = Counter()
    with quiet(), contextlib.redirect_stderr(io.StringIO()):  # it prints the tracebacks of readers that fail
        for _, case in cases[:_LOOKED_AT]:
            with contextlib.suppress(RuntimeError):  # no reader can read it
                found[determine_reader_writer_from_dataset_json(meta, str(case.images[0]), verbose=False)] += 1
        chosen = found.most_common(1)[0][0] if found else determine_reader_writer_from_dataset_json(meta, verbose=False)
    reader: BaseReaderWriter = chosen()
    return reader


def _rows(
    case: CaseFiles, reader: BaseReaderWriter, meta: Mapping[str, Any], variant: Variant
) -> Iterator[dict[str, Any]]:
    """A row for each label, and first one for all of them together."""
    values = {name: v if isinstance(v, list) else [v] for name, v in meta["labels"].items()}
    with quiet():
        loaded = load_case(case, reader, channel_count(meta), label_names(meta))
    check_stored(case)
    for note in loaded.notes:
        warn(f"{case.title}: {note}")
    ignore = values.pop("ignore", [None])[0]
    regions = {name: of_name for name, of_name in values.items() if of_name != [0]}
    regions = {ALL: sorted({value for of_name in regions.values() for value in of_name} - {0}), **regions}
    meter = ComplexityMeter(
        loaded.image,
        loaded.label,
        regions,
        loaded.spacing_mm,
        ignore=ignore,
        variant=variant,
        region=Background.of("auto", channel_names(meta), ()).region(loaded.image).mask
        if variant != "published"
        else None,
    )
    for name, complexity in meter.measure(loaded.image).items():
        share = float(np.isin(loaded.label, regions[name]).mean())
        yield {"label": name, "foreground_ratio": share, **asdict(complexity)}


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """The table; NaN is an empty cell."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([cell(row[name]) for name in COLUMNS] for row in rows)
    return buffer.getvalue()


def histogram(rows: Sequence[Mapping[str, Any]], dataset: str, variant: str) -> bytes:
    """Cases over texture divergence, an outline per label (one for a dataset of one label).

    Args:
        rows: of the table; cases without a divergence are counted in the legend alone.
        dataset: for the title.
        variant: for the title.

    Returns:
        PNG bytes; the same rows give the same bytes.
    """
    names = list(dict.fromkeys(str(row["label"]) for row in rows))
    names = [ALL] if len(names) == 2 else names
    values = {
        name: np.array([row["texture_divergence_bits"] for row in rows if row["label"] == name]) for name in names
    }
    finite = np.concatenate([v[np.isfinite(v)] for v in values.values()])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    edges = np.linspace(min(0.0, low), max(high, 0.01), 25)
    with plain_style():
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for name, style in line_styles(names).items():
            of_name = values[name][np.isfinite(values[name])]
            without = len(values[name]) - len(of_name)
            text = f"{name.replace('_', ' ')}: {len(of_name)} cases" + (f", {without} without" if without else "")
            axes.hist(of_name, edges, histtype="step", color=style.colour, ls=style.line, lw=1.8, label=text)
            if len(of_name):
                axes.axvline(float(np.median(of_name)), color=style.colour, ls=style.line, lw=1, alpha=0.7)
        axes.set_xlabel("texture divergence inside / outside (bits); smaller is harder")
        axes.set_ylabel("cases")
        axes.set_title(f"{dataset}, {variant}; thin lines: medians", fontsize=10)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.15, lw=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    return buffer.getvalue()
