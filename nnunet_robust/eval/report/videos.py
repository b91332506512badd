"""Videos, as GIF and mp4: the same case under rising level, all models side by side."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

from nnunet_robust.common.errors import UserError, one_line
from nnunet_robust.common.files import atomic_path
from nnunet_robust.eval.report.frames import COLOURS, Video, rgb
from nnunet_robust.eval.report.shared.analysis import Analysis
from nnunet_robust.eval.report.shared.stored_pictures import stored_pictures

_SECONDS = 1  # that a level is shown
_LAST = 3  # seconds that the last one is held
_RATE = 10  # frames a second of mp4: some players cannot jump to a place in files of one frame a second
_LONGEST = 80  # letters of a name in a file's name
_SAMPLE = 8  # frames that the palette of a GIF is made of
_BT709 = ("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv")


def check_encoders(formats: Sequence[str]) -> None:
    """Refuse mp4 where nothing can write it.

    Raises:
        UserError: it names what to install.
    """
    if "mp4" in formats and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise UserError('--format mp4 needs imageio-ffmpeg: pip install "nnunet_robust[video]", or take --format gif')


def report_videos(analysis: Analysis) -> dict[str, Video]:
    """What there is a video of: a name for its file -> each case and perturbation whose pictures the sweeps stored.

    Raises:
        UserError: no sweep has any picture.
    """
    videos: dict[str, Video] = {}
    for sweep in analysis.sweeps:
        pictures = stored_pictures(sweep)
        several = sweep.results["label"].nunique() > 1
        for case in pictures.cases:
            for perturbation in case.perturbations:
                parts = (analysis.lead(pictures.dataset, ""), case.name, perturbation.key)
                name = _unique("-".join(filter(None, ("video", *map(_plain, parts)))), videos)
                videos[name] = Video(pictures, case, perturbation, several)
    if not videos:
        folders = ", ".join(str(sweep.folder / "pictures") for sweep in analysis.sweeps)
        raise UserError(
            f"--format mp4 and gif show the pictures that a sweep stores, and there are none in {folders}: "
            "run the sweep with a perturbation, or leave these formats out."
        )
    return videos


def _plain(name: str) -> str:
    """A name without letters that a file system might refuse."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")[:_LONGEST]


def _unique(name: str, taken: Iterable[str]) -> str:
    """A name that is not taken, not even in other capitals."""
    lower = {other.lower() for other in taken}
    names = (name, *(f"{name}-{number}" for number in range(2, len(lower) + 2)))
    return next(candidate for candidate in names if candidate.lower() not in lower)


def write_video(shown: Sequence[Image.Image], path: Path) -> Path:
    """Write a video; the same frames give the same bytes.

    A level is shown for a second, the last one for three.

    Args:
        shown: what `frames` draws.
        path: a .gif or .mp4.

    Returns:
        `path`.

    Raises:
        UserError: the video could not be encoded.
    """
    try:
        with atomic_path(path) as temporary:
            _WRITERS[path.suffix](shown, temporary)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} could not be written: {one_line(error)}; take another --format, or -o") from error
    return path


def _write_gif(shown: Sequence[Image.Image], path: Path) -> None:
    """One palette for all frames: with one for each, greys would flicker."""
    sample = shown[:: -(-len(shown) // _SAMPLE)]
    montage = Image.fromarray(np.concatenate([np.asarray(frame) for frame in sample]))
    found = montage.quantize(256 - len(COLOURS), Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).getpalette()
    palette = np.array([*map(rgb, COLOURS), *np.reshape(found or [], (-1, 3))])
    first, *others = (_indexed(frame, palette) for frame in shown)
    milliseconds = [1000 * seconds for seconds in _durations(len(shown))]
    first.save(path, format="GIF", save_all=True, append_images=others, duration=milliseconds, loop=0, optimize=False)


def _indexed(frame: Image.Image, palette: np.ndarray) -> Image.Image:
    """A frame in the nearest colours of a palette (N, 3). Pillow's own search is coarse: its white would be grey."""
    pixels = np.asarray(frame, np.int64) @ [1 << 16, 1 << 8, 1]
    colours, places = np.unique(pixels, return_inverse=True)
    channels = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1)
    nearest = cKDTree(palette).query(channels)[1].astype(np.uint8)
    indexed = Image.fromarray(nearest[places].reshape(pixels.shape)).convert("P")
    indexed.putpalette(palette.astype(np.uint8).tobytes())
    return indexed


def _write_mp4(shown: Sequence[Image.Image], path: Path) -> None:
    import imageio_ffmpeg

    same_bytes = ("-fflags", "+bitexact", "-flags:v", "+bitexact", "-threads", "1")
    writer = imageio_ffmpeg.write_frames(
        str(path.resolve()),
        shown[0].size,
        fps=_RATE,
        codec="libx264",
        pix_fmt_out="yuv420p",
        quality=None,
        macro_block_size=2,
        ffmpeg_log_level="error",
        output_params=["-crf", "16", "-vf", "scale=out_color_matrix=bt709:out_range=tv", *_BT709,
                       "-movflags", "+faststart", *same_bytes],
    )  # fmt: skip
    writer.send(None)
    for frame, seconds in zip(shown, _durations(len(shown)), strict=True):
        for _ in range(_RATE * seconds):
            writer.send(frame.tobytes())
    writer.close()
    expected = _RATE * sum(_durations(len(shown)))
    if (written := imageio_ffmpeg.count_frames_and_secs(str(path))[0]) != expected:  # ffmpeg may fail at the end
        raise RuntimeError(f"{written} of {expected} frames arrived, is the disk full?")


def _durations(steps: int) -> list[int]:
    """Seconds of each frame."""
    return [_SECONDS] * (steps - 1) + [_LAST]


_WRITERS: Mapping[str, Callable[[Sequence[Image.Image], Path], None]] = {".gif": _write_gif, ".mp4": _write_mp4}
VIDEOS = tuple(ending[1:] for ending in _WRITERS)
