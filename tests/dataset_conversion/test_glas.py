from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import cdist
from skimage.io import imread

from nnunet_robust.cli.main import main
from nnunet_robust.common.errors import UserError
from nnunet_robust.dataset_conversion.glas import GlasParameters, convert_glas, read_grades, touching_borders

# As published: no space before "patient ID", spaces before the grades.
HEADER = "name,patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)"
IMAGES = [*(f"train_{n}" for n in range(1, 11)), "testA_1", "testA_2", "testB_1"]
INSTANCES = np.zeros((7, 9), dtype=np.uint8)
INSTANCES[1:5, 0:3] = 1
INSTANCES[1:5, 3:6] = 4
INSTANCES[6, 8] = 250


def picture(name: str) -> np.ndarray:
    return np.random.default_rng(IMAGES.index(name)).integers(0, 256, (*INSTANCES.shape, 3), dtype=np.uint8)


def row(name: str) -> str:
    number = IMAGES.index(name)
    patient, benign = number // 2, number % 4 < 2  # testB_1 is alone; the others come in pairs
    patient = 0 if name == "testA_1" else patient
    return f"{name},{patient}, {'benign' if benign else 'malignant'}, adenomatous"


def make_source(root: Path, line_end: str = "\r", grades: bool = True) -> Path:
    source = root / "Warwick QU Dataset (Released 2016_07_08)"
    source.mkdir()
    for name in IMAGES:
        Image.fromarray(picture(name)).save(source / f"{name}.bmp")
        Image.fromarray(INSTANCES).save(source / f"{name}_anno.bmp")
    if grades:
        text = line_end.join([HEADER, *map(row, IMAGES)]) + line_end
        (source / "Grade.csv").write_bytes(text.encode())
    return source


def read_all(folder: Path, what: str) -> dict[str, np.ndarray]:
    return {path.name: imread(path) for part in ("Tr", "Ts") for path in sorted((folder / f"{what}{part}").glob("*"))}


def stems(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*")}


def test_the_challenges_split_channels_and_labels(tmp_path: Path) -> None:
    folder = convert_glas(tmp_path / "raw", make_source(tmp_path), 7)
    assert stems(folder / "labelsTr") == set(IMAGES[:10])
    assert stems(folder / "labelsTs") == set(IMAGES[10:])
    images = read_all(folder, "images")
    assert len(images) == 3 * len(IMAGES)
    for name in IMAGES:
        for channel in range(3):
            np.testing.assert_array_equal(images[f"{name}_{channel:04d}.png"], picture(name)[..., channel])
    for label in read_all(folder, "labels").values():
        np.testing.assert_array_equal(label, INSTANCES > 0)
    header = json.loads((folder / "dataset.json").read_text())
    assert header["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert header["labels"] == {"background": 0, "gland": 1}
    assert str(tmp_path) not in json.dumps(header)
    assert folder.name == "Dataset007_GlaS"


def test_gray(tmp_path: Path) -> None:
    folder = convert_glas(tmp_path / "raw", make_source(tmp_path), 7, parameters=GlasParameters(gray=True))
    images = read_all(folder, "images")
    assert set(images) == {f"{name}_0000.png" for name in IMAGES}
    for name in IMAGES:
        luminance = picture(name) @ np.array([0.299, 0.587, 0.114])
        assert np.abs(images[f"{name}_0000.png"] - luminance).max() <= 0.51


def test_numbers_and_not_colours_of_a_palette(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    for name, palette in (("train_1", [9, 200, 30] + [0, 0, 0] * 255), ("train_2", list(range(1, 256)) + [0] * 513)):
        image = Image.fromarray(INSTANCES)
        image.putpalette(palette)
        assert image.mode == "P"
        image.save(source / f"{name}_anno.bmp")
    for label in read_all(convert_glas(tmp_path / "raw", source, 7), "labels").values():
        np.testing.assert_array_equal(label, INSTANCES > 0)


@pytest.mark.parametrize("line_end", ["\r", "\n", "\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("header", [HEADER, HEADER.replace(",", " , ").replace("ID", "id"), HEADER.replace(", ", ",")])
def test_grades_in_their_variants(tmp_path: Path, line_end: str, start: bytes, header: str) -> None:
    lines = [header, "testA_1,4, benign, adenomatous", "train_2 , 12 , Malignant,moderately differentiated", "", ",,,"]
    (tmp_path / "Grade.csv").write_bytes(start + line_end.join(lines).encode())
    assert read_grades(tmp_path / "Grade.csv") == {"testA_1": ("4", "benign"), "train_2": ("12", "malignant")}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no column 'name', its header is"),
        (["name,grade (GlaS)", "train_1,benign"], "no column 'patient id', its header is .*'grade"),
        ([HEADER, "train_1,4"], "incomplete row"),
        ([HEADER, "train_1,4, benign, x", "train_1,5, benign, x"], "two rows for train_1 that differ"),
    ],
)
def test_bad_grades(tmp_path: Path, lines: list[str], message: str) -> None:
    (tmp_path / "Grade.csv").write_text("\r".join(lines))
    with pytest.raises(UserError, match=message):
        read_grades(tmp_path / "Grade.csv")


def test_folds_by_patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = convert_glas(tmp_path / "raw", make_source(tmp_path), 7)
    patients = json.loads((folder / "dataset.json").read_text())["nnunet_robust"]["patients"]
    assert patients == {name: row(name).split(",")[1] for name in IMAGES}
    folds = json.loads((folder / "splits_final.json").read_text())
    assert len(folds) == 5
    for fold in folds:
        assert not {patients[case] for case in fold["train"]} & {patients[case] for case in fold["val"]}
    assert capsys.readouterr().out == "1 patients of the challenge's test set are in its training set as well\n"


def test_without_grades_every_image_is_a_patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = convert_glas(tmp_path / "raw", make_source(tmp_path, grades=False), 7)
    assert "no Grade.csv in the source" in capsys.readouterr().out
    assert not (folder / "splits_final.json").exists()
    assert "patients" not in json.loads((folder / "dataset.json").read_text())["nnunet_robust"]


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        (1.0, "0000000000 00022000"),  # 3 and 4 touch; 1 and 2 are two pixels apart
        (2.0, "0002020000 00222200"),
        (3.0, "0022022000 02222220"),
        (1.9, "0000000000 00022000"),
    ],
)
def test_borders_by_hand(distance: float, expected: str) -> None:
    far, touching = expected.split()
    for row_of_glands, marks in (("1111022222", far), ("33334444", touching)):
        instances = np.array([[int(number) for number in row_of_glands]])
        assert touching_borders(instances, distance).tolist() == [[mark == "2" for mark in marks]]


def test_a_diagonal_neighbour_is_the_root_of_two_away() -> None:
    instances = np.array([[1, 0], [0, 2]])
    assert not touching_borders(instances, 1.0).any()
    assert touching_borders(instances, 1.4143).tolist() == [[True, False], [False, True]]


def test_borders_against_all_pairs_of_pixels() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.choice([0, 0, 1, 2, 3, 9], size=(6, 7))
    instances = np.kron(coarse, np.ones((4, 5), dtype=int))
    places = np.argwhere(instances >= 0)
    numbers = instances.ravel()
    for distance in (1.0, 2.5, 4.0):
        near = cdist(places, places) <= distance
        other = (numbers[:, None] != numbers) & (numbers[:, None] > 0) & (numbers > 0)
        expected = (near & other).any(axis=1).reshape(instances.shape)
        assert expected.any()
        np.testing.assert_array_equal(touching_borders(instances, distance), expected)


def test_boundary_class(tmp_path: Path) -> None:
    folder = convert_glas(tmp_path / "raw", make_source(tmp_path), 7, parameters=GlasParameters(boundary_px=1))
    expected = (INSTANCES > 0).astype(int)
    expected[1:5, 2:4] = 2
    for label in read_all(folder, "labels").values():
        np.testing.assert_array_equal(label, expected)
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {"background": 0, "gland": 1, "boundary": 2}
    for distance in (0.5, float("inf"), float("nan")):
        with pytest.raises(UserError, match="at least 1 pixel"):
            GlasParameters(boundary_px=distance)


def remove(name: str):
    return lambda source: (source / name).unlink()


def put(name: str, array: np.ndarray):
    return lambda source: Image.fromarray(array).save(source / name)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("train_3_anno.bmp"), "train_3.bmp has no annotation train_3_anno.bmp"),
        (remove("testB_1.bmp"), "testB_1_anno.bmp is an annotation without its image"),
        (put("train_3_anno.bmp", INSTANCES[:5]), "train_3_anno.bmp is 9 x 5 pixels, its image 9 x 7"),
        (put("train_3_anno.bmp", picture("train_1")), "train_3_anno.bmp has pixels of mode RGB"),
        (put("train_3 copy.bmp", INSTANCES), "train_3 copy.bmp is neither an image nor an annotation"),
        (lambda source: (source / "train_4.bmp").write_bytes(b"BM"), "cannot read .*train_4.bmp"),
        (lambda source: (source / "Grade.csv").write_text(f"{HEADER}\r{row('train_1')}"), "no row for train_2"),
        (lambda source: [path.unlink() for path in source.glob("train_*")], r"no training images \(found: Grade.csv,"),
        (shutil.rmtree, "no such folder: .*Warwick.*; expected train_1.bmp"),
    ],
)
def test_bad_sources(tmp_path: Path, damage, message: str) -> None:
    source = make_source(tmp_path)
    damage(source)
    with pytest.raises(UserError, match=message) as error:
        convert_glas(tmp_path / "raw", source, 7, strict=True)
    assert "\n" not in str(error.value)
    assert "warwick.ac.uk" in str(error.value) or "from its owner" in str(error.value) or "mode" in str(error.value)
    assert not list((tmp_path / "raw").glob("*"))


def rows_but(*missing: str, **changes: str):
    def write(source: Path) -> None:
        lines = [changes.get(name, row(name)) for name in IMAGES if name not in missing]
        (source / "Grade.csv").write_text("\r".join([HEADER, *lines]))

    return write


@pytest.mark.parametrize(
    ("damage", "left", "message"),
    [
        (remove("train_3_anno.bmp"), "train_3", "train_3.bmp has no annotation train_3_anno.bmp"),
        (remove("testB_1.bmp"), "testB_1_anno.bmp", "testB_1_anno.bmp is an annotation without its image"),
        (put("train_3_anno.bmp", INSTANCES[:5]), "train_3", "train_3_anno.bmp is 9 x 5 pixels, its image 9 x 7"),
        (put("train_3_anno.bmp", picture("train_1")), "train_3", "train_3_anno.bmp has pixels of mode RGB"),
        (put("train_3 copy.bmp", INSTANCES), "train_3 copy.bmp", "neither an image nor an annotation"),
        (put("train_03.bmp", INSTANCES), "train_03.bmp", "neither an image nor an annotation"),
        (lambda source: (source / "testA_2.bmp").write_bytes(b"BM"), "testA_2", "cannot read testA_2.bmp as an image"),
        (rows_but("train_2"), "train_2", "Grade.csv has no row for train_2"),
    ],
)
def test_one_bad_pair_is_left_out_and_named(
    tmp_path: Path, damage, left: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_source(tmp_path)
    damage(source)
    folder = convert_glas(tmp_path / "raw", source, 7)
    record = json.loads((folder / "dataset.json").read_text())["nnunet_robust"]
    ((name, reason),) = record["left_out"].items()
    assert name == left and message in reason and str(tmp_path) not in reason
    assert f"left out: {left}: {reason}\n" in capsys.readouterr().out
    gone = {left, left.removesuffix("_anno.bmp")}
    assert stems(folder / "labelsTr") | stems(folder / "labelsTs") == set(IMAGES) - gone


def test_the_first_cases_of_each_set(tmp_path: Path) -> None:
    folder = convert_glas(tmp_path / "raw", make_source(tmp_path), 7, parameters=GlasParameters(cases=2))
    assert stems(folder / "labelsTr") == {"train_1", "train_2"}
    assert stems(folder / "labelsTs") == {"testA_1", "testA_2"}


@pytest.mark.parametrize("grades", [True, False])
def test_a_test_share_is_of_patients(tmp_path: Path, grades: bool, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_source(tmp_path, grades=grades)
    parameters = GlasParameters(test_share=0.4)
    folder = convert_glas(tmp_path / "raw", source, 7, parameters=parameters)
    trained, tested = stems(folder / "labelsTr"), stems(folder / "labelsTs")
    assert trained | tested == set(IMAGES) and not trained & tested and set(IMAGES[10:]) < tested
    assert len(trained) == 6, "three of five patients, or six of ten images"
    drawn = tested - set(IMAGES[10:])
    if grades:
        patients = [{row(name).split(",")[1] for name in part} for part in (trained, drawn)]
        assert not patients[0] & patients[1] and len(patients[1]) == 2
        assert len({row(name).split(",")[2] for name in drawn}) == 2, "of each grade its share"
    record = json.loads((folder / "dataset.json").read_text())["nnunet_robust"]
    assert record["parameters"] == {"gray": False, "boundary_px": None, "test_share": 0.4}


def test_names_that_pandas_takes_for_missing(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    odd = ("NA", "null", "nan", "None", "N/A")
    patients = {name: odd[IMAGES.index(name) // 2 % 5] for name in IMAGES}
    lines = [f"{name},{patients[name]}, {('NA', 'null')[i % 4 < 2]}, x" for i, name in enumerate(IMAGES)]
    (source / "Grade.csv").write_text("\n".join([HEADER, *lines]))
    folder = convert_glas(tmp_path / "raw", source, 7)
    assert json.loads((folder / "dataset.json").read_text())["nnunet_robust"]["patients"] == patients
    folds = json.loads((folder / "splits_final.json").read_text())
    assert len(folds) == 5 and all(len({patients[case] for case in fold["val"]}) == 1 for fold in folds)


def test_a_folder_within_a_folder(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    first = convert_glas(tmp_path / "raw", source, 7)
    source.rename(tmp_path / "x")
    (tmp_path / "outer" / source.name).mkdir(parents=True)
    (tmp_path / "outer" / "__MACOSX" / "x").mkdir(parents=True)
    (tmp_path / "x").rename(tmp_path / "outer" / source.name / source.name)
    second = convert_glas(tmp_path / "raw2", tmp_path / "outer", 7, strict=True)
    assert (first / "dataset.json").read_bytes() == (second / "dataset.json").read_bytes()


def test_same_bytes_again(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    folders = [convert_glas(tmp_path / raw, source, 7) for raw in ("raw", "raw2")]
    first, second = ({path.name: path.read_bytes() for path in f.rglob("*") if path.is_file()} for f in folders)
    assert first == second


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    source = make_source(tmp_path)
    assert main(["convert", "glas", str(source), "--id", "7", "--gray", "--boundary", "--boundary-px", "2"]) == 0
    assert main(["convert", "glas", str(source), "--id", "8", "--cases", "5", "--test-share", ".2", "--seed", "1"]) == 0
    assert main(["convert", "glas", str(source), "--id", "7", "--gray", "--boundary", "--boundary-px", "2"]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("next: nnUNetv2_plan_and_preprocess -d 7 --verify_dataset_integrity\n")
    folder = tmp_path / "nnUNet_raw" / "Dataset007_GlaSGrayBoundary"
    assert json.loads((folder / "dataset.json").read_text())["nnunet_robust"]["parameters"] == {
        "gray": True,
        "boundary_px": 2.0,
    }
    assert (tmp_path / "nnUNet_preprocessed" / folder.name / "splits_final.json").is_file()
