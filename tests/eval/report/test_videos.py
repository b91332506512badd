"""Videos: a frame for each level, the clean image first, every picture and score in its panel, and files that play."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageSequence

from nnunet_robust.cli.main import main
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.report import analyse
from nnunet_robust.eval.report.export import check_formats, write_files
from nnunet_robust.eval.report.frames import SIDE, Video, _font, _wrapped, frames, rgb
from nnunet_robust.eval.report.videos import report_videos, write_video
from tests.eval.attacked_output import write_attacked_output
from tests.eval.sweep_output import LEVELS, MODELS, write_sweep_output

BLUE, ORANGE, WHITE = rgb("#56b4e9"), rgb("#e69f00"), (255, 255, 255)
CASES = ("tex_000", "tex_002", "tex_001")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep_output(tmp_path_factory.mktemp("sweep"), n_cases=3)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep_output(tmp_path_factory.mktemp("small"), n_cases=1, levels={"speckle_noise": [0.1, 0.3]})


def _texts(video: Video, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is written into each frame, in the order of writing."""
    written: list[list[str]] = []
    write = ImageDraw.ImageDraw.text

    def noted(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, **how: object) -> None:
        x, y = at
        width, height = draw.im.size
        assert x >= 0 and y >= 0
        assert x + how["font"].getlength(text) <= width, f"{text} is cut off"
        assert y + how["font"].size <= height, f"{text} is cut off"
        written[-1].append(text)
        write(draw, at, text, **how)

    with monkeypatch.context() as patched:
        patched.setattr(ImageDraw.ImageDraw, "text", noted)
        drawn = frames(video)
        for _ in video.perturbation.steps:
            written.append([])
            next(drawn)
    return written


def _panel(frame: Image.Image, at: int) -> np.ndarray:
    """The picture of a panel in the first row; the layout's own numbers are not used: panels stand on white."""
    pixels = np.asarray(frame)
    white = (pixels == 255).all(axis=2)
    row = next(y for y in range(frame.height) if (~white[y : y + 200].all(axis=1)).sum() == 200 and y > 95)
    return pixels[row : row + SIDE, 16 + at * (SIDE + 12) : 16 + at * (SIDE + 12) + SIDE].astype(int)


def test_a_video_has_the_clean_image_and_every_level_in_order(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = report_videos(analyse([sweep]))
    assert list(videos) == [f"video-{case}-{name}" for case in sorted(CASES) for name in LEVELS]
    results = pd.read_csv(sweep / "results.csv")
    for name in LEVELS:
        video = videos[f"video-tex_001-{name}"]
        texts = _texts(video, monkeypatch)
        unit = json.loads((sweep / "manifest.json").read_text())["perturbations"][name]["unit"]
        levels = ["clean image (level 0)", *(f"level {level:g} ({unit})" for level in LEVELS[name])]
        assert [text[1] for text in texts] == levels
        for text, level in zip(texts, [0.0, *LEVELS[name]], strict=True):
            assert text[0] == {"speckle_noise": "Speckle noise", "gaussian_blur": "Gaussian blur"}[name]
            assert text[2] == "Dataset501_Textures, the median case, tex_001"
            joined = "".join(text)
            here = results[
                (results["case"] == "tex_001")
                & (results["perturbation"] == (name if level else "clean"))
                & (results["level"] == level)
            ]
            for model in MODELS:
                dice = float(here.loc[here["model"] == model, "dice"].iloc[0])
                assert f"{model}Dice {dice:.3f}" in joined


def test_every_panel_shows_its_own_picture(sweep: Path) -> None:
    video = report_videos(analyse([sweep]))["video-tex_002-speckle_noise"]
    stored = sweep / "pictures" / "tex_002"
    truth = np.asarray(Image.open(stored / "reference.png")) > 0
    for frame, level in zip(frames(video), [0.0, *LEVELS["speckle_noise"]], strict=True):
        condition = f"speckle_noise_{level:g}" if level else "clean"
        image = np.asarray(Image.open(stored / f"{condition}.png"), float)
        shown = _panel(frame, 0)
        means = shown[..., 0].reshape(32, 8, 32, 8).mean(axis=(1, 3))
        expected = image.reshape(32, 3, 32, 3).mean(axis=(1, 3))  # 3 stored pixels are 8 shown ones
        assert np.abs(means - expected).mean() < 1 and np.abs(means - expected).max() < 4  # of 255
        assert (shown[..., 0] == shown[..., 2]).all()  # grey: nothing is painted over it
        assert _share(_panel(frame, 1), truth) > 0.97
        for at, model in enumerate(MODELS):
            mask = np.asarray(Image.open(stored / f"{model}__nnUNetPlans__2d__fold0" / f"{condition}.png")) > 0
            panel = _panel(frame, 2 + at)
            outline = (panel == BLUE).all(axis=2)
            assert outline.sum() > 300
            assert _share(np.where(outline[..., None], 0, panel), mask & ~_grown(truth)) > 0.97


def _grown(mask: np.ndarray) -> np.ndarray:
    """The pixels near the border of a mask, where its outline lies over what is painted below."""
    shifted = [np.roll(mask, shift, axis) for shift in (-1, 1, -2, 2) for axis in (0, 1)]
    return np.logical_or.reduce(shifted) & ~np.logical_and.reduce(shifted)


def _share(panel: np.ndarray, mask: np.ndarray) -> float:
    """The share of a mask's pixels that are coloured in its panel."""
    rows = np.arange(SIDE) * len(mask) // SIDE
    large = mask[np.ix_(rows, rows)]
    coloured = np.ptp(panel, axis=2) > 8
    return float(coloured[large].mean()) if large.any() else 1.0


def test_a_gif_plays_a_second_a_level_and_holds_the_last(small: Path, tmp_path: Path) -> None:
    assert write_files(analyse([small]), tmp_path, ["gif"]) == list(tmp_path.iterdir())
    video = report_videos(analyse([small]))["video-tex_000-speckle_noise"]
    with Image.open(tmp_path / "video-tex_000-speckle_noise.gif") as gif:
        assert gif.n_frames == 3
        assert gif.info["loop"] == 0
        assert gif.width % 2 == gif.height % 2 == 0
        stored = [(frame.info["duration"], frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
    assert [milliseconds for milliseconds, _ in stored] == [1000, 1000, 3000]
    for (_, shown), drawn in zip(stored, frames(video), strict=True):
        assert shown.getpixel((0, 0)) == WHITE
        assert np.abs(np.asarray(shown, float) - np.asarray(drawn, float)).mean() < 1.5  # 256 colours


def test_the_same_pictures_give_the_same_bytes(small: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(small, tmp_path / "copy")
    endings = ["gif", "mp4"] if importlib.util.find_spec("imageio_ffmpeg") else ["gif"]
    first, second = (write_files(analyse([of]), tmp_path / str(n), endings) for n, of in enumerate([small, copy]))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_an_mp4_decodes_to_its_frames(small: Path, tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    video = report_videos(analyse([small]))["video-tex_000-speckle_noise"]
    drawn = list(frames(video))
    path = write_video(drawn, tmp_path / "v.mp4")
    assert [file.name for file in tmp_path.iterdir()] == ["v.mp4"]
    reader = ffmpeg.read_frames(str(path))
    facts = next(reader)
    assert facts["codec"] == "h264" and facts["pix_fmt"].startswith("yuv420p(")
    assert facts["size"] == drawn[0].size
    shown = [np.frombuffer(frame, np.uint8).reshape(drawn[0].height, drawn[0].width, 3) for frame in reader]
    assert len(shown) == 10 * (2 + 3)
    assert facts["duration"] == pytest.approx(5)
    for number, frame in enumerate(drawn):
        for moment in (10 * number, 10 * number + 9):
            assert np.abs(shown[moment].astype(float) - np.asarray(frame, float)).mean() < 3


def test_mp4_without_its_encoder_names_what_to_install_before_any_work(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "imageio_ffmpeg" else find(name))
    assert main(["report", str(sweep), "-o", str(tmp_path / "r"), "--format", "csv", "mp4"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and 'pip install "nnunet_robust[video]"' in captured.err
    assert not captured.out and not (tmp_path / "r").exists()
    check_formats(["gif"])


def test_an_encoder_that_fails_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    drawn = [Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64), "red")]
    with monkeypatch.context() as patched:
        patched.setattr(ffmpeg, "count_frames_and_secs", lambda _: (3, 0.3))
        with pytest.raises(UserError, match=r"/v\.mp4 could not be written: 3 of 40 frames arrived"):
            write_video(drawn, tmp_path / "v.mp4")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    with pytest.raises(UserError, match=r"/v\.mp4 could not be written: "):
        write_video(drawn, tmp_path / "v.mp4")
    assert not list(tmp_path.iterdir())


def test_without_pictures_videos_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path / "s", n_cases=3, pictures=False)
    with pytest.raises(UserError, match=r"there are none in .*pictures"):
        write_files(analyse([out]), tmp_path / "figures", ["csv", "gif"])
    assert not (tmp_path / "figures").exists()


def test_names_of_files_are_plain_and_unique(tmp_path: Path) -> None:
    levels = {"blur": [1.0], "Blur": [1.0], "a+b": [1.0], "a b": [1.0], "x" * 200: [1.0]}
    out = write_sweep_output(tmp_path / "s", n_cases=1, levels=levels)
    other = write_sweep_output(tmp_path / "t", n_cases=1, levels={"blur": [1.0]}, dataset="Dataset9_Odd")
    names = list(report_videos(analyse([out])))
    assert names == [f"video-tex_000-{name}" for name in ("blur", "Blur-2", "a-b", "a-b-2", "x" * 80)]
    assert list(report_videos(analyse([out, other])))[-1] == "video-Dataset9_Odd-tex_000-blur"


def test_many_models_stand_in_rows_and_no_name_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = (*(f"nnUNetTrainer_ps{16 * n}" for n in range(4, 10)), "nnUNetTrainer" + "Long" * 40)
    out = write_sweep_output(tmp_path / "s", models, n_cases=1, levels={"speckle_noise": [0.1]})
    (video,) = report_videos(analyse([out])).values()
    texts = _texts(video, monkeypatch)
    assert all(model in "".join(texts[0]) for model in models)
    first, second = frames(video)
    assert first.size == second.size and first.width <= 1400
    assert first.width % 2 == first.height % 2 == 0


@pytest.mark.parametrize("text", ["nnUNetTrainerUNETR_ps96_2epochs", "one two  three", "x" * 90, "ensemble(a+b, c)"])
def test_a_wrapped_text_is_the_text(text: str) -> None:
    lines = _wrapped(text, 100, 13)
    assert max(_font(13).getlength(line) for line in lines) <= 100
    assert all(lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert not any(line.startswith("_") for line in lines)


def test_under_an_attack_on_each_model_each_prediction_is_on_its_own_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write_attacked_output(tmp_path, n_cases=3, pictures=True)
    video = report_videos(analyse([out]))["video-tex_000-pgd_linf"]
    last = list(frames(video))[-1]
    stored = out / "pictures" / "tex_000"
    for at, path in enumerate([stored / "clean.png", *(
        stored / f"{model}__nnUNetPlans__2d__fold0" / "pgd_linf_0.05_image.png" for model in MODELS
    )]):  # fmt: skip
        corner = np.asarray(Image.open(path), float)[:8, :8].mean()
        assert _panel(last, at + (at > 0))[:20, :20].mean() == pytest.approx(corner, abs=3)
    texts = _texts(video, monkeypatch)[-1]
    assert "Clean image" in texts and "predicts on its own image" in " ".join(texts)


def test_several_labels_keep_their_colours_and_missing_pictures_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write_sweep_output(tmp_path, n_cases=1, labels=("disc", "ring"), levels={"speckle_noise": [0.1, 0.2]})
    stored = out / "pictures" / "tex_000"
    labels = np.asarray(Image.open(stored / "reference.png")).copy()
    labels[:, 48:] *= 2
    Image.fromarray(labels).save(stored / "reference.png")
    (stored / f"{MODELS[1]}__nnUNetPlans__2d__fold0" / "speckle_noise_0.1.png").unlink()
    (stored / "speckle_noise_0.2.png").unlink()
    (video,) = report_videos(analyse([out])).values()
    truth = _panel(next(frames(video)), 1)
    assert (truth[:, :128] == ORANGE).all(axis=2).any() and not (truth[:, :128] == BLUE).all(axis=2).any()
    assert (truth[:, 128:] == BLUE).all(axis=2).any() and not (truth[:, 128:] == ORANGE).all(axis=2).any()
    assert [text.count("no picture") for text in _texts(video, monkeypatch)] == [0, 1, 4]


def test_a_series_has_no_clean_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = write_sweep_output(tmp_path, n_cases=1, levels={"alpha": [0.1, 0.2]})
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["perturbations"]["alpha"]["series"] = {"0.1": {}, "0.2": {}}
    (out / "manifest.json").write_text(json.dumps(manifest))
    (video,) = report_videos(analyse([out])).values()
    assert [text[1] for text in _texts(video, monkeypatch)] == ["level 0.1", "level 0.2"]


def test_progress_goes_over_the_videos(small: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    def track(items: Iterable) -> Iterable:
        listed = list(items)
        seen.append(len(listed))
        return listed

    write_files(analyse([small]), tmp_path, ["gif"], track)
    assert seen == [1]
