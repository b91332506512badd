"""Files that others touched: every reader, every fault, one line and nothing changed; what is harmless does no harm."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from openpyxl import load_workbook
from PIL import Image

import nnunet_robust
from nnunet_robust.cli.main import main
from nnunet_robust.common.digest import digest_of_files
from nnunet_robust.deployment.drift.reference import MeasuredImage, Reference, write_reference
from nnunet_robust.deployment.drift.stream import Stream
from nnunet_robust.eval.conformal.calibration import calibrate
from nnunet_robust.eval.conformal.calibration_file import write_calibration
from nnunet_robust.pages.plots import plain_style, svg_text
from nnunet_robust.study.folder import Plan, StudyFolder
from nnunet_robust.study.matrix import Job
from tests.eval.conformal.test_calibration import MODEL as CALIBRATED
from tests.eval.conformal.test_calibration import case
from tests.eval.sweep_output import MODELS, write_sweep_output
from tests.foreign_files import CSV, CSV_HARMLESS, CSV_NUMBERS, JSON, JSON_HARMLESS, PICTURE, Damage

IDENTITY = {"trainer": "nnUNetTrainer", "plans": "nnUNetPlans", "configuration": "2d", "fold": "0", "mirroring": True,
            "members": ["folds"], "precision": "exact", "checkpoints": {"0": "ab"}}  # fmt: skip


def state(folder: Path) -> dict[str, bytes | str]:
    """What is in a folder, whatever it is."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = path.read_bytes() if path.is_file() else f"{path.is_dir()} {path.is_symlink()}"
    return found


def refused(arguments: list[str], path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """A command that must end with one line that names a file, and without a trace of it."""
    capsys.readouterr()
    before = state(folder)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and str(path.name) in said, said
    assert len(said) < 1000 and "Traceback" not in said
    assert state(folder) == before
    return said


def of(faults: dict[str, Damage]) -> Callable[[object], object]:
    return pytest.mark.parametrize("damage", list(faults.values()), ids=list(faults))


# --- a sweep's folder and the report


def change_key(path: Path, key: str, value: object) -> None:
    """Give a key of a JSON file another value, or take it away."""
    content = json.loads(path.read_text())
    if value == "missing":
        del content[key]
    else:
        content[key] = value
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept") / "out"
    write_sweep_output(
        folder, n_cases=3, levels={"speckle_noise": [0.3]}, pictures=False, uncertainty=True, calibrated=MODELS
    )
    (folder / "failures.csv").write_text("case,perturbation,level,model,reason\nc,speckle_noise,0.3,m,out of luck\n")
    return folder


@pytest.fixture
def sweep(swept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(swept, tmp_path / "out"))


def reporting(sweep: Path) -> list[str]:
    return ["report", str(sweep), "-o", str(sweep.parent / "page"), "--format", "json"]


@of({name: damage for name, damage in JSON.items() if name != "infinite"})
def test_a_manifest(damage: Damage, sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sweep / "manifest.json"
    damage(path)
    if damage is JSON["another object"]:
        assert main(reporting(sweep)) == 0  # an older version's has few keys
    else:
        refused(reporting(sweep), path, sweep, capsys)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"fold": "0"', '"fold": 0'),
        ('"levels": [', '"levels": ["high", '),
        ('"models": {', '"models": 3, "x": {'),
        ('"perturbations": {', '"perturbations": [], "x": {'),
        ('"pictures": {', '"pictures": "none", "x": {'),
        ('"unit": "', '"unit": null, "x": "'),
        ('"assumptions": [', '"assumptions": [7, '),
    ],
)
def test_a_manifest_s_keys(old: str, new: str, sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sweep / "manifest.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert re.search(r"manifest\.json: .* must be ", refused(reporting(sweep), path, sweep, capsys))


@pytest.mark.parametrize("name", ["results.csv", "inputs.csv", "reliability.csv", "bounds.csv", "failures.csv"])
@of({**CSV, **CSV_NUMBERS})
def test_a_table(name: str, damage: Damage, sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "failures.csv" and damage in CSV_NUMBERS.values():
        pytest.skip("its levels are text")
    path = sweep / name
    with pytest.MonkeyPatch.context():
        if name == "failures.csv":
            path.write_text(path.read_text() * 1 + "c,speckle_noise,0.3,m,again\nc,speckle_noise,0.3,m,again\n")
        damage(path)
    if path.is_symlink() and name != "results.csv":
        assert main(reporting(sweep)) in (0, 2)  # as if there was no such file
    else:
        refused(reporting(sweep), path, sweep, capsys)


@pytest.mark.parametrize("name", ["results.csv", "inputs.csv", "reliability.csv", "bounds.csv", "failures.csv"])
@of(CSV_HARMLESS)
def test_a_table_that_is_as_good(name: str, damage: Damage, sweep: Path) -> None:
    assert main(reporting(sweep)) == 0
    before = (sweep.parent / "page" / "verdicts.json").read_bytes()
    damage(sweep / name)
    assert main(reporting(sweep)) == 0
    assert (sweep.parent / "page" / "verdicts.json").read_bytes() == before


@of(JSON_HARMLESS)
def test_a_manifest_that_is_as_good(damage: Damage, sweep: Path) -> None:
    damage(sweep / "manifest.json")
    assert main(reporting(sweep)) == 0


def test_a_line_is_named(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sweep / "results.csv"
    for name, said in (("text for a number", "line 3: level must be a number, got high"),
                       ("semicolons", "line 1: its cells are separated by semicolons"),
                       ("Latin-1", "line 3: the byte 0xe9 is no text in UTF-8"),
                       ("a row too long", "line 4: it has "), ("a zero byte", "line 3: it holds a byte")):  # fmt: skip
        before = path.read_bytes()
        {**CSV, **CSV_NUMBERS}[name](path)
        assert said in refused(reporting(sweep), path, sweep, capsys)
        path.write_bytes(before)


# --- pictures


LEVELS = [round(0.01 * (1 + at), 2) for at in range(len(PICTURE))]
KEY = f"{MODELS[0]}__nnUNetPlans__2d__fold0"


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep_output(tmp_path_factory.mktemp("pictured") / "out", n_cases=1, levels={"speckle_noise": LEVELS})


def shown(sweep: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The pictures that a report and its video have warned of."""
    capsys.readouterr()
    assert main(["report", str(sweep), "-o", str(sweep.parent / "page"), "--format", "html", "gif"]) == 0
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return re.findall(r"warning: (\S+\.png) is left out: ", said)


@pytest.mark.parametrize("folder", ["", KEY], ids=["an image", "a prediction"])
def test_pictures(folder: str, pictured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each level's picture with a fault of its own: each costs itself, and is named once."""
    sweep = Path(shutil.copytree(pictured, tmp_path / "out"))
    of_case = sweep / "pictures" / "tex_000"
    paths = {
        name: of_case / folder / f"speckle_noise_{level:g}.png" for name, level in zip(PICTURE, LEVELS, strict=True)
    }
    for name, path in paths.items():
        PICTURE[name](path)
    warned = shown(sweep, capsys)
    for name, path in paths.items():
        if name.startswith("another size") and not folder:  # of an image: its label maps do not fit it
            assert str(path) not in warned and warned.count(str(of_case / KEY / path.name)) == 1
        elif name not in ("a folder", "a pipe"):  # where there is no picture, none is missed
            assert warned.count(str(path)) == 1, name
    assert str(of_case / "clean.png") not in warned
    assert "image/webp" in (tmp_path / "page" / "report.html").read_text()


@pytest.mark.parametrize("name", ["clean.png", "reference.png"])
@of({name: PICTURE[name] for name in ("cut", "another size", "a link out")})
def test_a_picture_that_many_need(
    name: str, damage: Damage, pictured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = Path(shutil.copytree(pictured, tmp_path / "out"))
    damage(sweep / "pictures" / "tex_000" / name)
    assert shown(sweep, capsys)


def test_nothing_outside_of_the_folder_is_shown(
    pictured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Links, "..", absolute paths: in names of cases, in the manifest, in the tables."""
    secret = tmp_path / "secret"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96), np.uint8)).save(tmp_path / "secret.png")
    for number, case_name in enumerate(("../../secret", str(secret), "../pictures/../../secret")):
        sweep = Path(shutil.copytree(pictured, tmp_path / f"out{number}"))
        (secret).mkdir(exist_ok=True)
        for picture in (sweep / "pictures" / "tex_000").glob("*.png"):
            shutil.copy(tmp_path / "secret.png", secret / picture.name)
        for file in ("results.csv", "inputs.csv", "manifest.json"):
            path = sweep / file
            path.write_text(path.read_text().replace("tex_000", case_name))
        shutil.rmtree(sweep / "pictures" / "tex_000")
        capsys.readouterr()
        assert main(["report", str(sweep), "-o", str(tmp_path / f"page{number}")]) == 0
        assert "it lies outside of the sweep's folder" in capsys.readouterr().err
        assert "image/webp" not in (tmp_path / f"page{number}" / "report.html").read_text()
    words = tmp_path / "words.txt"
    words.write_text("my password\n")
    for file in ("missing.txt", "results.csv", "manifest.json", "failures.csv"):
        sweep = Path(shutil.copytree(pictured, tmp_path / f"linked_{file}"))
        (sweep / file).unlink(missing_ok=True)
        (sweep / file).symlink_to(words)
        said = refused(["report", str(sweep)], sweep / file, sweep, capsys)
        assert "leads out of the folder" in said and "password" not in said


# --- calibrations


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibrated") / "calibration.json"
    write_calibration(path, calibrate((case(i) for i in range(30)), CALIBRATED, "clean images", 0.2, 0.1, 0.2))
    return path


def applying(path: Path) -> list[str]:
    new, model, out = (str(path.parent.parent / name) for name in ("new", "no_model", "o"))
    return ["apply", "-i", new, "-m", model, "--calibration", str(path), "-o", out, "-device", "cpu"]


@of(JSON)
def test_a_calibration(damage: Damage, calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    path = Path(shutil.copy(calibrated, tmp_path / "in"))
    damage(path)
    refused(applying(path), path, tmp_path, capsys)


CALIBRATION_KEYS = ("format", "settings", "model", "condition", "alpha", "delta", "interval_alpha", "training", "cases",
                    "bounds", "intervals", "in_words", "sizes")  # fmt: skip


@pytest.mark.parametrize("value", ["missing", None, 7, "text", [], {}, [[]], {"a": [None]}], ids=str)
@pytest.mark.parametrize("key", CALIBRATION_KEYS)
def test_a_calibration_s_keys(
    key: str, value: object, calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "calibration.json"
    shutil.copy(calibrated, path)
    change_key(path, key, value)
    if (key, value) in (("delta", None), ("condition", "text"), ("training", "text")):
        assert main(applying(path)) == 2  # for want of a model
    else:
        refused(applying(path), path, tmp_path, capsys)


# --- references and streams


def measured(number: int, digest: str = "") -> MeasuredImage:
    rng = np.random.default_rng(number)
    features = {"noise of CT": float(rng.normal()), "blur of CT": float(rng.normal())}
    return MeasuredImage(f"case_{number:03d}", f"case_{number:03d}", digest or f"{number:064d}", features, ())


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference, a stream, and its images: nothing new, so that no model is loaded."""
    folder = tmp_path_factory.mktemp("monitored")
    (folder / "images").mkdir()
    setup = {"folder": str(folder), "checkpoint": "c.pth", "file_ending": ".png", "channels": "1", "patient": "",
             "training": "it was not"}  # fmt: skip
    reference = Reference.of([measured(i) for i in range(12)], IDENTITY, "clean images", setup=setup)
    write_reference(folder / "reference.json", reference)
    for number in range(100, 103):
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(folder / "images" / f"case_{number}_0000.png")
    from nnunet_robust.common.digest import sha256

    stream = Stream(reference, sha256(folder / "reference.json"), reference.rate)
    stream.add(
        measured(number, digest_of_files([folder / "images" / f"case_{number}_0000.png"])) for number in range(100, 103)
    )
    (folder / "out").mkdir()
    stream.write(folder / "out" / "stream.json")
    return folder


@pytest.fixture
def monitor(monitored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(monitored, tmp_path / "m"))


def checking(folder: Path) -> list[str]:
    reference, images, out = (str(folder / name) for name in ("reference.json", "images", "out"))
    return ["monitor", "check", reference, "-i", images, "-o", out, "-device", "cpu"]


def test_a_stream_goes_on(monitor: Path) -> None:
    assert main(checking(monitor)) == 0


@pytest.mark.parametrize("name", ["reference.json", "out/stream.json"])
@of(JSON)
def test_a_reference_or_a_stream(name: str, damage: Damage, monitor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (monitor / "out" / ".lock").touch()
    path = monitor / name
    damage(path)
    if name == "out/stream.json" and path.is_symlink():
        assert main(checking(monitor)) == 2
    else:
        refused(checking(monitor), path, monitor, capsys)


@pytest.mark.parametrize("value", ["missing", None, 7, "text", [], {}, [[]], {"a": [None]}], ids=str)
@pytest.mark.parametrize(
    ("name", "key"),
    [("reference.json", key) for key in ("format", "model", "condition", "n_left_out", "rate", "setup", "images")]
    + [("out/stream.json", key) for key in ("format", "reference", "rate", "seed", "jump", "bets", "images")],
)
def test_their_keys(name: str, key: str, value: object, monitor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (monitor / "out" / ".lock").touch()
    path = monitor / name
    change_key(path, key, value)
    if (name, key) == ("out/stream.json", "images") and value == []:
        capsys.readouterr()
        assert main(checking(monitor)) == 2  # its images are new then, and want a model
    elif (key, value) in (("condition", "text"), ("n_left_out", 7)):
        assert "begun with another reference" in refused(checking(monitor), Path("stream.json"), monitor, capsys)
    else:
        refused(checking(monitor), path, monitor, capsys)


# --- studies


@pytest.fixture
def study(tmp_path: Path) -> Path:
    what = {"dataset": 901, "configuration": "2d", "plans": "nnUNetPlans", "trainer": "nnUNetTrainer", "fold": "0"}
    limits = (0, 1, 1.0, 1.0, 1)
    jobs = [
        Job("dataset/901", "dataset", (), {"dataset": 901}, *limits),
        Job("train/a", "train", ("dataset/901",), what, *limits),
        Job("sweep/a", "sweep", ("train/a",), {"output": "sweeps/a", "trainers": ["nnUNetTrainer"]}, *limits),
    ]
    folder = StudyFolder(tmp_path / "study")
    environment = {name: str(tmp_path / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    folder.write_plan(Plan("fake", "first", "local", 0, "cpu", environment, {job.id: job for job in jobs}))
    for path, text in (
        (folder.done("dataset/901"), '{"job": "dataset/901", "digest": "a", "outcome": "done", "reason": "", '
                                     '"seconds": 3.0, "commands": [["x"]]}'),
        (folder.running("train/a"), '{"host": "another", "pid": 77, "started": "", "since": 1.0}'),
        (folder.inside / "driver.json", '{"host": "another", "pid": 77, "executor": "local", "since": 1.0}'),
        (folder.attempts("train/a"), '\n{"began": 1.0, "run": "first", "progress": 0}\n{"seconds": 3.0}'),
    ):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder.root


def test_a_study_that_is_well(study: Path) -> None:
    assert main(["study", "status", str(study)]) == 0


@of({name: damage for name, damage in JSON.items() if name != "a loop"})
def test_a_study_s_jobs(damage: Damage, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = study / ".study" / "jobs.json"
    damage(path)
    said = refused(["study", "status", str(study)], study, study, capsys)
    assert "jobs.json" in said or "no study was run" in said


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"id": "train/a"', '"id": "train/../../../x"'),
        ('"id": "train/a"', '"id": "train/.."'),
        ('"id": "train/a"', '"id": 3'),
        ('"stage": "train"', '"stage": "rm"'),
        ('"trainer": "nnUNetTrainer"', '"trainer": ["x"]'),
        ('"dataset": 901', '"dataset": "x"'),
        ('"gpus": 0', '"gpus": -1'),
        ('"hours": 1.0', '"hours": "many"'),
        ('"environment": {', '"environment": [], "x": {'),
        ('"name": "fake"', '"nome": "fake"'),
    ],
)
def test_a_study_s_keys(old: str, new: str, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = study / ".study" / "jobs.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    refused(["study", "status", str(study)], path, study, capsys)


STATES = ("done/dataset/901.json", "running/train/a.json", "driver.json", "attempts/train/a.jsonl")


@pytest.mark.parametrize("name", STATES)
@of(JSON)
def test_what_a_study_s_jobs_left(name: str, damage: Damage, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A job whose marker is broken is not over: the status says so, and a run would do it again."""
    path = study / ".study" / name
    damage(path)
    before = state(study)
    capsys.readouterr()
    assert main(["study", "status", str(study)]) == 0
    said = capsys.readouterr().err
    assert "Traceback" not in said and state(study) == before
    if not name.startswith("attempts") and path.is_file() and name != "infinite":
        assert said == "" or (said.count("\n") == 1 and str(path) in said)


# --- nnU-Net's files

NNUNET = {name: damage for name, damage in JSON.items() if name not in ("infinite", "a loop", "a folder", "a pipe")}


def raw_dataset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A raw dataset of two cases, and plans of it."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (folder / name).mkdir()
        monkeypatch.setenv(name, str(folder / name))
    raw, planned = folder / "nnUNet_raw" / "Dataset901_T", folder / "nnUNet_preprocessed" / "Dataset901_T"
    for kind, ending in (("imagesTr", "_0000.png"), ("labelsTr", ".png")):
        (raw / kind).mkdir(parents=True)
        for number in range(2):
            array = np.zeros((40, 40), np.uint8)
            array[10:30, 10:30] = 1
            Image.fromarray(array).save(raw / kind / f"c{number}{ending}")
    content = {
        "file_ending": ".png",
        "channel_names": {"0": "x"},
        "labels": {"background": 0, "a": 1},
        "numTraining": 2,
    }
    (raw / "dataset.json").write_text(json.dumps(content))
    planned.mkdir()
    shutil.copy(raw / "dataset.json", planned)
    (planned / "nnUNetPlans.json").write_text('{"plans_name": "nnUNetPlans", "x": 1, "configurations": {"2d": {}}}')
    return raw


@of(
    {
        name: damage
        for name, damage in JSON.items()
        if name not in ("another object", "infinite", "a loop", "a folder", "a pipe")
    }
)
def test_a_dataset_json(damage: Damage, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    raw = raw_dataset(tmp_path, monkeypatch)
    damage(raw / "dataset.json")
    out = str(tmp_path / "o.csv")
    refused(["complexity", "-d", "901", "-o", out], raw / "dataset.json", tmp_path, capsys)


@pytest.mark.parametrize("name", ["nnUNetPlans.json", "dataset.json"])
@of(NNUNET)
def test_plans(name: str, damage: Damage, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    raw_dataset(tmp_path, monkeypatch)
    path = tmp_path / "nnUNet_preprocessed" / "Dataset901_T" / name
    damage(path)
    refused(["trainers", "nnUNetTrainer", "-d", "901"], path, tmp_path, capsys)


@pytest.mark.parametrize("label", ["a\nb", "a\tb", "\x00", "", "\u2028", "\x1b[31m"])
def test_labels_that_break_lines(label: str, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    raw = raw_dataset(tmp_path, monkeypatch)
    content = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps({**content, "labels": {"background": 0, label: 1}}))
    refused(["complexity", "-d", "901", "-o", str(tmp_path / "o.csv")], raw / "dataset.json", tmp_path, capsys)


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "-a", "a\x7fb", "a\udcffb", " "])
def test_cases_that_break_lines(name: str, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    raw = raw_dataset(tmp_path, monkeypatch)
    for kind, ending in (("imagesTr", "_0000.png"), ("labelsTr", ".png")):
        shutil.copy(raw / kind / f"c0{ending}", raw / kind / f"{name}{ending}")
    said = refused(["complexity", "-d", "901", "-o", str(tmp_path / "o.csv")], Path("case"), tmp_path, capsys)
    assert repr(name) in said and "rename it" in said


def test_hidden_files_are_no_cases(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    raw = raw_dataset(tmp_path, monkeypatch)
    (raw / "imagesTr" / "._c0_0000.png").write_bytes(b"Mac OS X")
    (raw / "imagesTr" / ".DS_Store").write_bytes(b"x")
    assert main(["complexity", "-d", "901", "-o", str(tmp_path / "o.csv")]) == 0
    assert "._c0_0000.png" in capsys.readouterr().err
    assert "._c0" not in (tmp_path / "o.csv").read_text()


# --- text in figures, pages and tables

STRANGE = "a$\\frac{x}$ \\b <script>alert(1) & 5% #{~^} =1+1 \u202eabc \U0001f600"


def test_strange_names_are_written_as_they_are(tmp_path: Path) -> None:
    sweep = write_sweep_output(
        tmp_path / "out", n_cases=4, levels={"speckle_noise": [0.1, 0.3]}, dataset=f"D {STRANGE}",
        labels=(f"L {STRANGE}", "=1+1"), models=("nnUNetTrainer", f"$x$ {STRANGE}"),
    )  # fmt: skip
    formats = ["html", "pdf", "png", "csv", "tex", "xlsx", "gif"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert main(["report", str(sweep), "-o", str(tmp_path / "p"), "--format", *formats]) == 0
    page = (tmp_path / "p" / "report.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page and "$x$" in page
    tables = list((tmp_path / "p" / "figures").glob("*.tex"))
    assert tables
    for path in tables:
        text = path.read_text()
        for letter in "%#$":  # of the name: a backslash stands before each
            assert not re.search(rf"(?<!\\){re.escape(letter)}(?=(x|frac| 5|\{{))", text), (path.name, letter)
        assert not re.search(r"(?<!\\)& 5\\%  ?#", text)
        assert r"\frac" not in text and r"\b <" not in text
    book = load_workbook(tmp_path / "p" / "figures" / "tables.xlsx")
    assert not [cell for sheet in book for row in sheet.iter_rows() for cell in row if cell.data_type == "f"]


def test_a_dollar_begins_no_formula() -> None:
    """In SVGs text is text: mathematics would be letters of another font, and a broken formula an error."""
    with plain_style():
        figure = Figure()
        figure.suptitle("$\\frac{1}$ $x_1$ 100%")
        figure.legend(handles=[Line2D([], [], label="$y^2$")])
        figure.add_subplot().set_xlabel("a$b$c")
        text = svg_text(figure, "a")
    for written in ("$\\frac{1}$ $x_1$ 100%", "$y^2$", "a$b$c"):
        assert written in text


def test_every_figure_is_drawn_in_the_plain_style() -> None:
    """`Figure(` stands only in functions that are called within `plain_style`: their modules say so."""
    root = Path(nnunet_robust.__file__).parent
    drawing = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if re.search(r"(?<!Report)\bFigure\(", path.read_text())
    }
    assert drawing == {
        "pages/plots.py",
        "eval/complexity_table.py",
        "eval/report/shared/panels.py",
        "eval/report/shared/heat_maps.py",
    }
