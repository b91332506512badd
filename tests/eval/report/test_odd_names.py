"""Names that read like missing numbers, of cases, patients, labels: all that is made of a sweep is as with others."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from nnunet_robust.deployment.drift.checking import table
from nnunet_robust.deployment.drift.reference import MeasuredImage, Reference
from nnunet_robust.deployment.drift.stream import Stream
from nnunet_robust.deployment.qa.qa import Row, write_csv
from nnunet_robust.eval.denoising.learned_tolerance import learn
from nnunet_robust.eval.report import analyse
from nnunet_robust.eval.report.compare_page import write_comparison
from nnunet_robust.eval.report.export import write_files
from nnunet_robust.eval.report.shared.read import read_sweep
from nnunet_robust.eval.results.failures import Failure, combine_failures, read_failures, record
from nnunet_robust.eval.results.parts import Part, combine
from nnunet_robust.eval.results.reading import read_table
from nnunet_robust.eval.results.tables import INPUTS, Condition
from nnunet_robust.eval.statistics.earlier_sweep import EarlierSweep
from tests.eval.sweep_output import MODELS, write_sweep_output

NAMES = ("NA", "None", "nan", "null")
# In the same order as the plain names: resampling goes by it.
ODD = {f"tex_{i:03d}": name for i, name in enumerate(NAMES)} | {f"p{i:03d}": name for i, name in enumerate(NAMES)}
ODD |= {"left": "NA", "right": "null"}


def renamed(folder: Path) -> None:
    """Give the cells of every table of a folder their odd names."""
    for path in folder.glob("*.csv"):
        with path.open(newline="") as file:
            rows = [[ODD.get(cell, cell) for cell in row] for row in csv.reader(file)]
        with path.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same sweep with plain and with odd names."""
    root = tmp_path_factory.mktemp("sweeps")
    levels = {"gaussian_noise": [0.1, 0.3]}
    for name in ("plain", "odd"):
        write_sweep_output(
            root / name,
            labels=("left", "right"),
            levels=levels,
            pictures=False,
            uncertainty=True,
            calibrated=MODELS[:1],
        )
    renamed(root / "odd")
    return root / "plain", root / "odd"


def test_tables_keep_names(sweeps: tuple[Path, Path]) -> None:
    for name in ("results", "inputs", "reliability", "bounds"):
        plain, odd = (read_table(folder / f"{name}.csv") for folder in sweeps)
        assert list(odd["case"]) == [ODD.get(case, case) for case in plain["case"]]
        assert odd["patient"].nunique() == plain["patient"].nunique() == 12
        numbers = [column for column in plain if column not in ("case", "patient", "label")]
        assert plain[numbers].equals(odd[numbers])
    plain, odd = map(read_sweep, sweeps)
    assert len(odd.rows) == len(plain.rows) and set(odd.rows["label"]) == {"NA", "null"}
    assert odd.reliability is not None and len(odd.reliability) == len(plain.reliability)  # type: ignore[arg-type]
    assert odd.bounds is not None and len(odd.bounds) == len(plain.bounds)  # type: ignore[arg-type]


def test_the_report_has_the_same_numbers(sweeps: tuple[Path, Path], tmp_path: Path) -> None:
    written = [write_files(analyse([folder]), tmp_path / folder.name, ["csv"]) for folder in sweeps]
    assert len(written[0]) == len(written[1]) > 5
    for plain, odd in zip(*written, strict=True):  # in the same order, some with a label in the file's name
        tables = []
        for path in (plain, odd):
            with path.open(newline="") as file:
                tables.append(list(csv.reader(file)))
        assert [[ODD.get(cell, cell) for cell in row] for row in tables[0]] == tables[1], plain.name


def test_comparisons_and_what_a_model_tolerates(sweeps: tuple[Path, Path], tmp_path: Path) -> None:
    page = write_comparison(sweeps[1], sweeps[1], tmp_path).read_text(encoding="utf-8")
    assert "Nothing: both sweeps have the same architectures, cases and levels." in page
    learned = []
    for folder in sweeps:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "identity": {"cases": {}}}))
        earlier = EarlierSweep.open("--from", folder)
        learned.append(learn(earlier, earlier.rows["key"].iloc[0]))
    assert learned[1].n_patients == learned[0].n_patients == 12 and learned[1].n_images == learned[0].n_images
    assert learned[1].threshold == learned[0].threshold


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    parts, columns = [], INPUTS.columns
    for name in NAMES:
        part = Part(tmp_path / "parts" / f"{name}.csv", columns)
        part.add(Condition.clean(), [{**dict.fromkeys(columns, ""), "case": name, "patient": name, "blur": 0.5}])
        parts.append(Part(part.path, columns))
        record(tmp_path, name, "", [Failure(name, "", "", "", "broken")])
    combine(parts, columns, tmp_path / "inputs.csv")
    found = read_table(tmp_path / "inputs.csv")
    assert list(found["case"]) == list(found["patient"]) == list(NAMES)
    assert list(found["blur"]) == [0.5] * 4 and found["psnr_db"].isna().all()
    assert {failure.case for failure in combine_failures(tmp_path)} == set(NAMES)
    assert {failure.case for failure in read_failures(tmp_path)} == set(NAMES)


def test_new_images(tmp_path: Path) -> None:
    write_csv(tmp_path / "qa.csv", [Row(name, "accept", (), {}, {}, {}, None) for name in NAMES])
    assert list(read_table(tmp_path / "qa.csv")["case"]) == list(NAMES)
    rng = np.random.default_rng(0)

    def measured(name: str) -> MeasuredImage:
        return MeasuredImage(name, name, name, {"blur": float(rng.normal())}, tuple(rng.normal(size=3)))

    reference = Reference.of([measured(f"r{i:02d}") for i in range(12)], {}, "usual", 0.1)
    stream = Stream(reference, "digest", 0.1)
    assert stream.add(measured(name) for name in NAMES) == {}
    stream.write(tmp_path / "stream.json")
    again = Stream(reference, "digest", 0.1)
    again.read(tmp_path / "stream.json")
    assert [(image.case, image.patient) for image in again.images] == [(name, name) for name in NAMES]
    (tmp_path / "images.csv").write_text(table(reference, again))
    assert list(read_table(tmp_path / "images.csv")["patient"]) == list(NAMES)
