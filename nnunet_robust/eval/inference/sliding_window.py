"""nnU-Net's sliding window, with tiles, mirrored copies, slices and images in batches.

The arithmetic is that of `nnUNetPredictor.predict_logits_from_preprocessed_data` (nnU-Net 2.8): padding, steps,
Gaussian weights, half-precision sums in the same order, the mean over mirrored copies, then over folds.
"""

from __future__ import annotations

import copy
import itertools
import math
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.utilities.helpers import empty_cache
from torch import nn

from nnunet_robust.common.errors import UserError, one_line
from nnunet_robust.common.memory import in_bytes, require_memory
from nnunet_robust.eval.inference.device_memory import free_bytes, to_device
from nnunet_robust.eval.inference.openvino_backend import openvino_forward, supported_types
from nnunet_robust.eval.inference.precision import (
    Backend,
    Choices,
    Forward,
    alternatives,
    choose,
    is_fatal,
    is_out_of_memory,
    is_too_large,
    torch_begin,
    torch_forward,
    torch_threads,
)

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from nnunet_robust.eval.inference.models import TrainedNetwork

MEMBERS_BY = ("folds", "mirroring")
"""What a model's prediction is a mean over: each can be told apart."""

BACKENDS = {
    "torch": Backend(torch_forward),
    "openvino": Backend(openvino_forward, supported_types),
}
"""What can compute a network, by name."""

_CPU = "cpu"
_SURELY_FREE = 1 << 26  # bytes that nobody needs to ask for
_PREPARING = threading.Lock()  # whoever measures is not disturbed by what is converted or compiled meanwhile

_Slicer = tuple[Any, ...]


class Logits(NamedTuple):
    """The logits of one image, each (heads, *spatial).

    Attributes:
        mean: what nnU-Net's predictor gives.
        members: that it is the mean of, up to rounding; none unless they are wanted.
    """

    mean: torch.Tensor
    members: tuple[torch.Tensor, ...] = ()


class SlidingWindow:
    """Computes one model's logits, as nnU-Net's predictor gives them, for as little as the networks' own time.

    `exact` on a CPU equals nnU-Net's predictor bit for bit: a batch size is taken only if it gives the bits of single
    tiles. On CUDA it is nnU-Net's mixed precision, within that one's own run-to-run noise. `fast` sums in float32, and
    runs the networks through torch.compile where that pays (CUDA) or through OpenVINO (CPU), in bfloat16 where the CPU
    computes in it by itself and that is faster: `benchmarks/sliding_window.py` measures how far it disagrees. For one
    thread at a time, but for `warm_up`.

    Where memory does not suffice, `make_room` is called and the same is tried again; then batches are halved, for
    good; then the logits of a single image are accumulated on the CPU, those of this image alone.

    Args:
        networks: one per fold, with its weights; evaluation mode and device are set here.
        patch_size: (*spatial) of a tile, in voxels; two numbers for 2d networks, which go through volumes by slices.
        mirror_axes: spatial axes (from 0) to average mirrored copies over, in every combination; None for none.
        num_heads: channels of the networks' output.
        device: where to compute.
        tile_step_size: step between tiles as a fraction of the patch, in (0, 1].
        precision: exact or fast.
        choices: attributes of `Choices` that are not to be measured: the `choices` of an earlier run repeat it.

    Attributes:
        patch_size: of a tile.
        mirrors: axes of a tile's batch to mirror along, one entry for each copy, in nnU-Net's order; () is none.
        num_heads: channels of the output.
        device: where to compute.
        make_room: called when memory does not suffice, in the thread that asks for logits, by whoever holds earlier
            logits of this or another window: gives up what it can, and tells whether there was any.

    Raises:
        UserError: precision or choices that do not exist on the device; OpenVINO is needed and missing.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        patch_size: Sequence[int],
        mirror_axes: Sequence[int] | None,
        num_heads: int,
        device: torch.device,
        tile_step_size: float = 0.5,
        precision: str = "exact",
        choices: Mapping[str, Any] | None = None,
    ) -> None:
        self._networks = [network.to(device).eval() for network in networks]
        self.patch_size = tuple(int(size) for size in patch_size)
        axes = [axis + 2 for axis in mirror_axes or ()]
        # nnU-Net's order; () is the tile as it is
        self.mirrors = [c for n in range(len(axes) + 1) for c in itertools.combinations(axes, n)]
        self.num_heads = num_heads
        self.device = device
        self._tile_step_size = tile_step_size
        self._exact = precision == "exact"
        self._sum_type = torch.half if self._exact else torch.float32
        self._offered = alternatives(precision, device, choices, BACKENDS)
        self._batch_size_given = "batch_size" in (choices or {})
        self.make_room: Callable[[], bool] = lambda: False
        self._choices: Choices | None = None
        self._notes: dict[str, None] = {}
        self._forwards: list[Forward] = []
        self._gaussians: dict[str, torch.Tensor] = {}
        self._weights: dict[tuple[tuple[int, ...], str], torch.Tensor] = {}

    @classmethod
    def from_predictor(
        cls,
        predictor: TrainedNetwork | nnUNetPredictor,
        precision: str = "exact",
        choices: Mapping[str, Any] | None = None,
    ) -> SlidingWindow:
        """Make the window of a trained model, or of nnU-Net's predictor: its folds, patch size, mirroring and step."""
        networks = []
        for parameters in predictor.list_of_parameters:
            network = copy.deepcopy(getattr(predictor.network, "_orig_mod", predictor.network))
            network.load_state_dict(parameters)
            networks.append(network)
        return cls(
            networks,
            predictor.configuration_manager.patch_size,
            predictor.allowed_mirroring_axes if predictor.use_mirroring else None,
            predictor.label_manager.num_segmentation_heads,
            predictor.device,
            predictor.tile_step_size,
            precision,
            choices,
        )

    @property
    def choices(self) -> dict[str, Any]:
        """The choices that hold now, for the manifest; empty before the first image."""
        return asdict(self._choices) if self._choices else {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be run as it was meant to be, for people to read."""
        return tuple(self._notes)

    @property
    def results_device(self) -> torch.device:
        """The device that logits are accumulated on, as long as they fit there."""
        return torch.device(self._offered["results_device"][0])

    @property
    def threads(self) -> int:
        """The number of the networks' threads on a CPU: that of whoever made the window; the last bits depend on it."""
        count: int = self._offered["threads"][0]
        return count

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks, one per fold, not compiled, on the device, in evaluation mode."""
        return tuple(self._networks)

    def tiles(self, data: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the tiles of one preprocessed image as they are, none of them mirrored, in nnU-Net's order.

        Args:
            data: as for `logits`.

        Yields:
            (1, C, *patch), on the device.
        """
        padded, _ = self.padded(data)
        for slicer in self.slicers(tuple(padded.shape[1:])):
            yield padded[slicer][None].to(self.device)

    def n_members(self, by: Collection[str]) -> int:
        """Count the members that `members_many` tells apart; 1 where it tells none."""
        counts = {"folds": len(self._networks), "mirroring": len(self.mirrors)}
        return math.prod(counts[name] for name in by)

    def bytes_held(self, data: torch.Tensor, by: Collection[str]) -> int:
        """Count the bytes of an image's logits, with those of its members, on `results_device`.

        Args:
            data: as for `logits`.
            by: as for `members_many`.
        """
        return self._bytes_of_logits(data) * (1 + (self.n_members(by) if by else 0))

    def _bytes_of_logits(self, data: torch.Tensor) -> int:
        spatial = tuple(data.shape[1:])
        tile = (1,) * (len(spatial) - len(self.patch_size)) + self.patch_size
        return self.num_heads * math.prod(map(max, spatial, tile)) * self._sum_type.itemsize

    def _bytes_needed(self, data: torch.Tensor, by: Collection[str]) -> int:
        """While they are computed: those of a further fold lie beside the sums."""
        copies = (len(self.mirrors) if "mirroring" in by else 1) if by else 0
        further = self._bytes_of_logits(data) * (1 + copies) if len(self._networks) > 1 else 0
        return self.bytes_held(data, by) + further + data.numel() * data.element_size()

    def warm_up(self, channels: int) -> None:
        """On CUDA, load and compile what needs no image. Another thread may ask for logits meanwhile.

        Whether it is called changes nothing of the results. What fails is told by `members_many`. On a CPU nothing is
        done: OpenVINO converts a network in some 0.7 to 2 s, and the first images, which could hide it, take 0.1 to
        0.6 s.

        Args:
            channels: of the images that are to come.
        """
        if self.device.type != "cuda":
            return
        with _PREPARING:
            if self._choices is None:
                network = self._networks[0]  # those of the other folds are of its make
                place = next((weight.device for weight in network.parameters()), self.device)
                with torch.inference_mode():
                    torch_begin(network, self._offered, torch.zeros((1, channels, *self.patch_size), device=place))

    def logits(self, data: torch.Tensor) -> torch.Tensor:
        """Compute the logits of one preprocessed image.

        Args:
            data: float32 (C, *spatial) with three spatial axes; images have one of length 1 in front.

        Returns:
            (heads, *spatial), float16 for `exact` (nnU-Net's type), float32 for `fast`; on the device that they were
            summed on: `results_device`, or the CPU where they do not fit there.

        Raises:
            UserError: a single tile does not fit into memory, or the logits are too large for half precision.
        """
        return self.logits_many([data])[0]

    def logits_many(self, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Compute the logits of several images, whose tiles share batches."""
        return [logits.mean for logits in self.members_many(images, ())]

    def members_many(self, images: Sequence[torch.Tensor], by: Collection[str]) -> list[Logits]:
        """Compute the logits of several images, with those of the members that they are the mean of.

        No network runs twice.

        Args:
            images: as for `logits`, which share batches.
            by: of `MEMBERS_BY`: folds, mirroring, or both, which makes folds x mirrored copies; none: no members.

        Raises:
            UserError: see `logits`.
            MemoryError: the logits of several images do not fit into memory together.
        """
        if not images:
            return []
        with torch_threads(self.threads, self.device), torch.inference_mode():
            if self._choices is None:
                self._prepare(images)
            return self._where_they_fit(images, by)

    def _where_they_fit(self, images: Sequence[torch.Tensor], by: Collection[str]) -> list[Logits]:
        """On the device, if need be once earlier logits have left it; else, those of a single image, on the CPU."""
        device = self.results_device
        while (found := self._try(images, by, device)) is None:
            if not self._room():
                break
        if found is None and len(images) > 1:
            raise MemoryError(f"the logits of {len(images)} images do not fit on {device} together")
        if found is None:
            needed = self._bytes_needed(images[0], by)
            size = "x".join(map(str, images[0].shape[1:]))
            what = f"an image of {size} voxels, with logits of {self.num_heads} channels{' and members' if by else ''},"
            require_memory(what, needed, "take fewer members, or a machine with more memory")
            if str(device) != _CPU:
                self._note(f"{what} takes {in_bytes(needed)} and does not fit on {device}: summed on the CPU")
            found = self._try(images, by, torch.device(_CPU), last=True)
        if found is None:
            raise self._too_little(by)
        return found

    def _try(
        self, images: Sequence[torch.Tensor], by: Collection[str], device: torch.device, last: bool = False
    ) -> list[Logits] | None:
        """None: out of memory. What does not fit by its size is not begun, unless this is the last thing to try."""
        needed = sum(self._bytes_needed(image, by) for image in images)
        if not last and needed > _SURELY_FREE:
            free = free_bytes(device)
            if free is not None and needed > free:
                return None
        try:
            return self._predict(images, by, device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None  # outside of the handler, whose traceback holds on to the memory

    def _room(self) -> bool:
        """Have earlier logits leave the device; tell whether there were any."""
        made = self.make_room()
        empty_cache(self.device)
        return made

    def _note(self, text: str) -> None:
        self._notes[text] = None

    def _too_little(self, by: Collection[str]) -> UserError:
        return UserError(
            f"a single tile of {'x'.join(map(str, self.patch_size))} voxels"
            f"{', or the logits of all members,' if by else ''} does not fit into the memory of "
            f"{self.device}: take a device with more{', or fewer members' if by else ''}"
        )

    def _prepare(self, images: Sequence[torch.Tensor]) -> None:
        """At the first images: choose, and make the forward passes."""
        padded = [self.padded(image)[0] for image in images]
        tiles = sum(len(self.slicers(tuple(image.shape[1:]))) for image in padded)
        probe = padded[0][self.slicers(tuple(padded[0].shape[1:]))[0]][None].to(self.device)
        try:
            with _PREPARING:
                choices = choose(
                    lambda tried: BACKENDS[tried.backend].forward(self._networks[0], tried, probe),
                    self._offered,
                    probe,
                    1 if self._batch_size_given else tiles * len(self.mirrors),
                    same_bits=self._exact and self.device.type == "cpu",
                    note=self._note,
                )
                self._build(choices, probe)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self._too_little(()) from error
            raise
        empty_cache(self.device)  # of batches that were too large

    def _build(self, choices: Choices, probe: torch.Tensor) -> None:
        build = BACKENDS[choices.backend].forward
        self._forwards = [build(network, choices, probe) for network in self._networks]
        self._choices = choices

    def padded(self, image: torch.Tensor) -> tuple[torch.Tensor, _Slicer]:
        """Pad an image (C, *spatial) to a tile at least, and say where in it the image lies."""
        if image.ndim != 4:
            raise ValueError(f"an image is (C, *spatial) with three spatial axes, got shape {tuple(image.shape)}")
        data, inside = pad_nd_image(image, self.patch_size, "constant", {"value": 0}, True, None)
        return data, (slice(None), *inside[1:])

    def slicers(self, shape: tuple[int, ...]) -> list[_Slicer]:
        """List where the tiles of a padded image lie, in nnU-Net's order."""
        slices = len(shape) - len(self.patch_size)  # leading axes that a 2d network goes through one by one
        steps = compute_steps_for_sliding_window(shape[slices:], self.patch_size, self._tile_step_size)
        starts = [range(length) for length in shape[:slices]] + steps
        return [
            (
                slice(None),
                *corner[:slices],
                *(slice(s, s + size) for s, size in zip(corner[slices:], self.patch_size, strict=True)),
            )
            for corner in itertools.product(*starts)
        ]

    def _gaussian(self, device: torch.device) -> torch.Tensor:
        # kept here: nnU-Net's own cache holds two, and a sweep may have more models than that
        key = str(device)
        if key not in self._gaussians:
            self._gaussians[key] = compute_gaussian(
                self.patch_size, sigma_scale=1.0 / 8, value_scaling_factor=10, dtype=self._sum_type, device=device
            )
        return self._gaussians[key]

    def _weights_of(self, shape: tuple[int, ...], slicers: list[_Slicer], device: torch.device) -> torch.Tensor:
        """The sum of all tiles' Gaussian weights; kept for the last shape, as conditions of a case share theirs."""
        key = shape, str(device)
        if key not in self._weights:
            weights = torch.zeros(shape, dtype=self._sum_type, device=device)
            gaussian = self._gaussian(device)
            for slicer in slicers:
                weights[slicer[1:]] += gaussian
            self._weights = {key: weights}
        return self._weights[key]

    def _predict(self, images: Sequence[torch.Tensor], by: Collection[str], device: torch.device) -> list[Logits]:
        padded, insides = zip(*(self.padded(to_device(image, device)) for image in images), strict=True)
        slicers = [self.slicers(tuple(data.shape[1:])) for data in padded]
        means: list[torch.Tensor] = []
        members: list[list[torch.Tensor]] = []
        infinite: list[torch.Tensor] = []
        for fold in range(len(self._networks)):
            totals, copies = self._one_fold(fold, padded, slicers, device, "mirroring" in by)
            infinite += [torch.isinf(total).any() for total in itertools.chain(totals, *copies)]
            if by:
                found = copies if "mirroring" in by else [[total.clone()] for total in totals]
                if fold == 0:
                    members = found
                elif "folds" in by:
                    members = [before + new for before, new in zip(members, found, strict=True)]
                else:
                    _add(itertools.chain(*members), itertools.chain(*found))
            if fold == 0:
                means = totals
            else:
                _add(means, totals)
        if (folds := len(self._forwards)) > 1:
            averaged = itertools.chain(*members) if by and "folds" not in by else ()
            for result in itertools.chain(means, averaged):
                result /= folds
        if torch.stack(infinite).any():  # the device is waited for here, and nowhere before
            raise UserError(
                "the network's logits are infinite or too large for half precision: "
                'look at the intensities of the image, or take precision "fast", which sums in float32'
            )
        members = members or [[] for _ in means]
        return [
            Logits(mean[inside], tuple(member[inside] for member in of_image))
            for mean, of_image, inside in zip(means, members, insides, strict=True)
        ]

    def _one_fold(
        self,
        fold: int,
        images: Sequence[torch.Tensor],
        slicers: list[list[_Slicer]],
        device: torch.device,
        split: bool,
    ) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
        """The mean logits of each image over mirrored copies and, where `split`, those of each copy."""
        gaussian = self._gaussian(device)

        def empty() -> list[torch.Tensor]:
            return [
                torch.zeros((self.num_heads, *data.shape[1:]), dtype=self._sum_type, device=device) for data in images
            ]

        sums = empty()
        copies = [empty() for _ in self.mirrors] if split else []
        tiles = [(number, slicer) for number, of_image in enumerate(slicers) for slicer in of_image]
        start = 0
        while start < len(tiles):
            group = tiles[start : start + self._tiles_at_once(len(tiles) - start)]
            stacked = torch.stack([images[number][slicer] for number, slicer in group]).to(self.device)
            predictions = self._over_mirrors(fold, stacked, split)
            if predictions is None:
                continue  # in another way
            for target, outputs in zip([sums, *copies], predictions, strict=True):
                weighted = outputs.to(device)
                weighted *= gaussian
                for (number, slicer), prediction in zip(group, weighted, strict=True):
                    target[number][slicer] += prediction
            start += len(group)
        for number, (data, of_image) in enumerate(zip(images, slicers, strict=True)):
            weights = self._weights_of(tuple(data.shape[1:]), of_image, device)
            for target in [sums, *copies]:
                target[number] /= weights
        return sums, [list(of_image) for of_image in zip(*copies, strict=True)]

    def _tiles_at_once(self, left: int) -> int:
        """Powers of two only: sizes that were measured, and few shapes to compile or tune for."""
        assert self._choices is not None
        return min(max(1, self._choices.batch_size // len(self.mirrors)), 1 << (left.bit_length() - 1))

    def _over_mirrors(self, fold: int, tiles: torch.Tensor, split: bool) -> list[torch.Tensor] | None:
        """Logits of tiles (t, C, *patch): the mean over mirrored copies and, where `split`, each copy's.

        Returns:
            None: try again, with what is chosen now.
        """
        assert self._choices is not None
        at_once = max(1, min(self._choices.batch_size // len(tiles), len(self.mirrors)))
        total: torch.Tensor | None = None
        copies = []
        try:
            for start in range(0, len(self.mirrors), at_once):
                mirrors = self.mirrors[start : start + at_once]
                batch = torch.stack([tiles.flip(axes) if axes else tiles for axes in mirrors], 1).flatten(0, 1)
                outputs = self._run(fold, batch).unflatten(0, (len(tiles), len(mirrors)))
                if not self._exact:
                    outputs = outputs.float()
                for number, axes in enumerate(mirrors):
                    if split:
                        copies.append(outputs[:, number].flip(axes))  # flip copies, even along no axis
                    if total is None:
                        total = outputs[:, number]
                    else:
                        total += outputs[:, number].flip(axes)
        except Exception as error:
            used = self._choices.batch_size if self._choices.compiled else len(tiles) * at_once
            memory, smaller = is_out_of_memory(error), used > 1 and (is_out_of_memory(error) or is_too_large(error))
            if is_fatal(error) or not (smaller or self._choices.compiled):
                raise
            why = one_line(error)[:200]
        else:
            assert total is not None
            total /= len(self.mirrors)
            return [total, *copies]
        # outside of the handler, whose traceback holds on to the memory
        if not (memory and self._room()):
            self._do_less(used // 2 if smaller else 0, tiles[:1], "" if memory else why)
        return None

    def _run(self, fold: int, batch: torch.Tensor) -> torch.Tensor:
        """One forward pass; what is compiled, is so for one size of batches."""
        assert self._choices is not None
        n = len(batch)
        if self._choices.compiled and n < self._choices.batch_size:
            batch = torch.cat([batch, batch.new_zeros(self._choices.batch_size - n, *batch.shape[1:])])
        return self._forwards[fold](batch)[:n]

    def _do_less(self, batch_size: int, probe: torch.Tensor, why: str) -> None:
        """From now on, take smaller batches or, where the size is 0, do not compile."""
        assert self._choices is not None
        if batch_size:
            if why:
                self._note(f"a batch of {2 * batch_size} tiles cannot be run ({why})")
            self._choices = replace(self._choices, batch_size=batch_size)
        else:
            self._note(f"not compiled, as that does not work ({why or 'out of memory'})")
            self._build(replace(self._choices, compiled=False), probe)


def _add(sums: Iterable[torch.Tensor], others: Iterable[torch.Tensor]) -> None:
    for total, other in zip(sums, others, strict=True):
        total += other
