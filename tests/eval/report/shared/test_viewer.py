"""The viewer's data: outlines that are the masks, scores that are the results', and a budget that is kept."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.path import Path as Polygon
from PIL import Image
from scipy.ndimage import gaussian_filter

from nnunet_robust.eval.report.shared.read import read_sweep
from nnunet_robust.eval.report.shared.viewer import SIDES, outline, viewer_data
from nnunet_robust.pages.rendering import environment
from tests.eval.attacked_output import write_attacked_output
from tests.eval.sweep_output import LEVELS, MODELS, SIZE, write_sweep_output


def _corners(part: str) -> np.ndarray:
    """The corners of a sub-path: where it starts, and each relative move."""
    return np.cumsum(np.array(re.findall(r"-?\d+", part), int).reshape(-1, 2), axis=0)


def _filled(path: str, shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres lie inside of a path, by the even-odd rule: matplotlib's geometry, not ours."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    centres = np.stack([2 * columns.ravel() + 1, 2 * rows.ravel() + 1], axis=1)
    inside = np.zeros(len(centres), bool)
    for part in path.split("z")[:-1]:
        corners = _corners(part)
        inside ^= Polygon(np.vstack([corners, corners[:1]]), closed=True).contains_points(centres)
    return inside.reshape(shape)


@pytest.mark.parametrize("smooth", [0.6, 2.0, 6.0])
def test_an_outline_encloses_the_mask_and_nothing_else(smooth: float) -> None:
    rng = np.random.default_rng(3)
    for shape in [(40, 40), (23, 57)]:
        mask = gaussian_filter(rng.normal(size=shape), smooth) > 0
        np.testing.assert_array_equal(_filled(outline(mask), shape), mask)


def test_an_outline_of_a_pixel_a_ring_and_nothing() -> None:
    mask = np.zeros((5, 7), bool)
    assert outline(mask) == ""
    mask[1, 4] = True
    # a diamond around the pixel's centre (9, 3), from the middle between its centre and its neighbours'
    assert {tuple(corner) for corner in _corners(outline(mask)[:-1])} == {(9, 4), (10, 3), (9, 2), (8, 3)}
    ring = np.ones((5, 7), bool)
    ring[2, 2:5] = False
    assert outline(ring).count("M") == 2
    np.testing.assert_array_equal(_filled(outline(ring), ring.shape), ring)


def _content(viewer: dict) -> dict:
    return json.loads(viewer["json"])


def _decoded(image: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image["uri"].partition(",")[2]))).convert("L"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep_output(tmp_path_factory.mktemp("sweep"), labels=("disc", "ring"))


@pytest.fixture(scope="module")
def viewer(folder: Path) -> dict:
    return viewer_data([read_sweep(folder)])


def test_every_case_level_and_model_is_there_with_its_own_numbers(folder: Path, viewer: dict) -> None:
    content = _content(viewer)
    (show,) = content["datasets"]
    assert show["lines"] == list(MODELS)
    assert {case["rank"]: case["name"] for case in show["cases"]} == json.loads((folder / "manifest.json").read_text())[
        "pictures"
    ]["cases"]
    results = pd.read_csv(folder / "results.csv")
    for case in show["cases"]:
        assert [p["name"] for p in case["perturbations"]] == ["speckle noise", "Gaussian blur"]
        for perturbation, name in zip(case["perturbations"], LEVELS, strict=True):
            assert [step["level"] for step in perturbation["steps"]] == ["0 (clean)", *(f"{x:g}" for x in LEVELS[name])]
            for step, level in zip(perturbation["steps"], [0.0, *LEVELS[name]], strict=True):
                stored = folder / "pictures" / case["name"]
                condition = f"{name}_{level:g}" if level else "clean"
                picture = np.asarray(Image.open(stored / f"{condition}.png"), float)
                assert np.abs(_decoded(content["images"][step["image"]]) - picture).mean() < 12  # of 255; it is noise
                for line, number, note in zip(show["lines"], step["predictions"], step["notes"], strict=True):
                    of_case = results[(results["case"] == case["name"]) & (results["model"] == line)]
                    here = of_case[
                        (of_case["perturbation"] == (name if level else "clean")) & (of_case["level"] == level)
                    ]
                    assert note.startswith(f"Dice {here['dice'].mean():.3f}")
                    assert ("missed" in note) == (here["outcome"] == "missed").any()
                    mask = np.asarray(Image.open(stored / f"{line}__nnUNetPlans__2d__fold0" / f"{condition}.png")) > 0
                    outlines = dict(content["outlines"][number])
                    assert set(outlines) <= {1}
                    np.testing.assert_array_equal(_filled(outlines.get(1, ""), mask.shape), mask)


def test_what_is_said_of_a_level_is_its_perturbation_and_number(viewer: dict) -> None:
    steps = _content(viewer)["datasets"][0]["cases"][0]["perturbations"][0]["steps"]
    assert [step["said"] for step in steps] == [
        "clean image",
        *(f"speckle noise {x:g}" for x in LEVELS["speckle_noise"]),
    ]


def test_an_image_is_embedded_once(viewer: dict) -> None:
    content = _content(viewer)
    assert len(content["images"]) == 3 * (1 + sum(map(len, LEVELS.values())))
    clean = {
        (case["name"], p["steps"][0]["image"])
        for case in content["datasets"][0]["cases"]
        for p in case["perturbations"]
    }
    assert len(clean) == 3


def test_pictures_shrink_until_they_fit_and_the_page_says_so(folder: Path, viewer: dict) -> None:
    assert viewer["side"] == SIZE
    assert not viewer["shrunk"]
    assert viewer["fixed_all"]
    assert [len(figure["steps"]) for figure in viewer["fixed"]] == [5, 5]
    whole = _whole(viewer)
    small = viewer_data([read_sweep(folder)], budget=whole // 3)
    assert small["shrunk"]
    assert small["side"] in SIDES
    assert _whole(small) <= whole // 3
    assert max(_decoded(_content(small)["images"][0]).shape) == small["side"]
    assert "made smaller than they were stored" in _rendered(small)
    assert "made smaller than they were stored" not in _rendered(viewer)


@pytest.mark.parametrize("share", [2, 5])
def test_the_budget_is_kept_whatever_the_estimate_was(
    folder: Path, viewer: dict, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnunet_robust.eval.report.shared.viewer._sides", lambda *_: list(SIDES))
    assert _whole(viewer_data([read_sweep(folder)], budget=_whole(viewer) // share)) <= _whole(viewer) // share


def test_where_all_levels_do_not_fit_twice_the_middle_one_stands_for_them(folder: Path, viewer: dict) -> None:
    just_enough = len(viewer["json"]) + (_whole(viewer) - len(viewer["json"])) // 2
    half = viewer_data([read_sweep(folder)], budget=just_enough)
    assert not half["fixed_all"]
    assert not half["shrunk"]
    assert [figure["steps"][0]["level"] for figure in half["fixed"]] == ["0.2", "2"]
    assert "at the middle level" in _rendered(half)


def _whole(viewer: dict) -> int:
    return len(viewer["json"]) + len(json.dumps(viewer["fixed"]))


def _rendered(viewer: dict) -> str:
    return environment().get_template("viewer.html.j2").render(viewer=viewer)


def test_the_same_files_give_the_same_data(folder: Path, viewer: dict, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert viewer_data([read_sweep(copy)]) == viewer


def test_missing_pictures_are_said_and_not_skipped(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, n_cases=3, levels={"speckle_noise": [0.1, 0.2]})
    pictures = out / "pictures" / "tex_000"
    (pictures / "speckle_noise_0.1.png").unlink()
    (pictures / f"{MODELS[1]}__nnUNetPlans__2d__fold0" / "speckle_noise_0.2.png").unlink()
    shutil.rmtree(out / "pictures" / "tex_001")
    viewer = viewer_data([read_sweep(out)])
    cases = _content(viewer)["datasets"][0]["cases"]
    assert [case["name"] for case in cases] == ["tex_000", "tex_002"]
    clean, first, second = cases[0]["perturbations"][0]["steps"]
    assert first["image"] is None
    assert None not in first["predictions"]
    assert second["predictions"][1] is None
    assert clean["image"] is not None
    _rendered(viewer)


def test_without_pictures_there_is_no_viewer(tmp_path: Path) -> None:
    viewer = viewer_data([read_sweep(write_sweep_output(tmp_path, n_cases=3, pictures=False))])
    assert viewer["cases"] == 0
    assert _rendered(viewer).strip() == ""


def test_the_levels_of_a_series_have_labels_of_their_own_and_no_clean_image(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, n_cases=3, levels={"alpha": [0.1, 0.2]})
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["perturbations"]["alpha"]["series"] = {"0.1": {}, "0.2": {}}
    (out / "manifest.json").write_text(json.dumps(manifest))
    own = np.zeros((SIZE, SIZE), np.uint8)
    own[10:20, 30:50] = 1
    Image.fromarray(own).save(out / "pictures" / "tex_000" / "alpha_0.2_reference.png")
    content = _content(viewer_data([read_sweep(out)]))
    first, second = content["datasets"][0]["cases"][0]["perturbations"][0]["steps"]
    assert [first["level"], second["level"]] == ["0.1", "0.2"]
    assert first["reference"] != second["reference"]
    np.testing.assert_array_equal(_filled(dict(content["outlines"][second["reference"]])[1], own.shape), own > 0)


def test_under_an_attack_on_each_model_itself_each_has_an_image_of_its_own(tmp_path: Path) -> None:
    out = write_attacked_output(tmp_path, n_cases=3, pictures=True)
    (out / "pictures" / "tex_000" / f"{MODELS[1]}__nnUNetPlans__2d__fold0" / "pgd_linf_0.02_image.png").unlink()
    viewer = viewer_data([read_sweep(out)])
    content = _content(viewer)
    by_name = {p["name"]: p["steps"] for p in content["datasets"][0]["cases"][0]["perturbations"]}
    clean, first, second, third = by_name["PGD, l∞"]
    assert "own" not in clean
    assert first["image"] == clean["image"]
    for step, budget in ((first, 0.01), (third, 0.05)):
        for model, number in zip(MODELS, step["own"], strict=True):
            folder = out / "pictures" / "tex_000" / f"{model}__nnUNetPlans__2d__fold0"
            picture = np.asarray(Image.open(folder / f"pgd_linf_{budget:g}_image.png"), float)
            assert np.abs(_decoded(content["images"][number]) - picture).mean() < 12
    assert second["own"][1] is None
    assert all("own" not in step for name, steps in by_name.items() if name != "PGD, l∞" for step in steps)
    text = _rendered(viewer)
    assert "each prediction is on its model's own" in text
    fixed = next(figure for figure in viewer["fixed"] if figure["name"] == "PGD, l∞")
    assert fixed["case"] == "tex_001"
    for step in fixed["steps"][1:]:
        for own in step["own"]:
            assert own["uri"] in text
            assert f'id="viewer-picture-{own["number"]}"' in text
    small = viewer_data([read_sweep(out)], budget=_whole(viewer) // 3)
    assert small["shrunk"]
    assert _whole(small) <= _whole(viewer) // 3


def test_a_plain_sweep_has_nothing_of_images_of_each_model(viewer: dict) -> None:
    assert not viewer["own"]
    assert '"own"' not in viewer["json"]
    assert "step.own" not in _rendered(viewer)


def test_names_cannot_end_the_script(tmp_path: Path) -> None:
    name = "x<!--<script>bold"
    viewer = viewer_data([read_sweep(write_sweep_output(tmp_path, models=(name, "B"), n_cases=3, levels={"n": [0.1]}))])
    assert "<" not in viewer["json"]
    text = _rendered(viewer)
    assert name not in text
    data = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert json.loads(data[1])["datasets"][0]["lines"][0] == name
