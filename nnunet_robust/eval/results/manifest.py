"""The manifest of a sweep's output folder, `manifest.json`: what was run, with what, on what.

Everybody reads it by `read_manifest` and writes it by `write_manifest`. The fields of each class are the keys of the
file, in its order. A key that an older manifest lacks has the field's default; a key that this version does not know
is kept as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import write_atomically
from nnunet_robust.common.json_files import read_json
from nnunet_robust.eval.results.tables import ARM

MANIFEST = "manifest.json"
_IS = "is"  # in a field's metadata: the class of its value
_ARE = "are"  # the same for each value of a mapping
_Own = TypeVar("_Own", bound="Entry")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An object of the file. None stands for a key that is not there, but for those in `NULLABLE`.

    Attributes:
        as_read: the object that it was read from; None for a new one.
    """

    NULLABLE: ClassVar[frozenset[str]] = frozenset()
    as_read: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_json(cls: type[_Own], stored: Any) -> _Own:
        """Read an object; what should be an object and is none counts as an empty one."""
        stored = stored if isinstance(stored, Mapping) else {}
        values = {}
        for known in _stored_fields(cls):
            if known.name in stored:
                value = stored[known.name]
                if of := known.metadata.get(_IS):
                    value = None if value is None else of.from_json(value)
                elif of := known.metadata.get(_ARE):
                    value = {k: of.from_json(v) for k, v in value.items()} if isinstance(value, Mapping) else {}
                values[known.name] = value
        return cls(as_read=stored, **values)

    def to_json(self) -> dict[str, Any]:
        """Make the object to be written: keys that were read stay in place, new ones follow in the fields' order."""
        found = dict(self.as_read or {})
        for known in _stored_fields(type(self)):
            value = getattr(self, known.name)
            if self.as_read is None:
                written = value is not None or known.name in self.NULLABLE
            else:
                written = known.name in found or value != _default(known)
            if written:
                found[known.name] = _plain(value)
        return found


def _stored_fields(of: type[Entry]) -> list[Any]:
    return [known for known in fields(of) if known.name != "as_read"]


_SCALARS = {str: "string", bool: "boolean", int: "integer", float: "number"}


@cache
def manifest_schema() -> dict[str, Any]:
    """Make the JSON schema of the file: of each known key the type of its field; none must be there, and others may."""
    return _schema_of(Manifest)


def _schema_of(kind: Any) -> dict[str, Any]:
    """The JSON schema of an annotation."""
    if isinstance(kind, UnionType):
        kind = next(one for one in get_args(kind) if one is not type(None))
        schema = _schema_of(kind)
        return {**schema, "type": [schema["type"], "null"]} if "type" in schema else schema
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and issubclass(kind, Entry):
        types = get_type_hints(kind)
        entries = {known.name: _schema_of(types[known.name]) for known in _stored_fields(kind)}
        needed = [known.name for known in _stored_fields(kind) if _is_needed(known)]
        return {"type": "object", "properties": entries, "required": needed}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _schema_of(arguments[1])}
    if origin is Sequence:
        return {"type": "array", "items": _schema_of(arguments[0])}
    return {"type": _SCALARS[kind]} if kind in _SCALARS else {}


def _is_needed(known: Any) -> bool:
    return known.default is MISSING and known.default_factory is MISSING


def _default(known: Any) -> Any:
    return known.default_factory() if callable(known.default_factory) else known.default


def _plain(value: Any) -> Any:
    if isinstance(value, Entry):
        return value.to_json()
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


@dataclass(frozen=True, kw_only=True)
class Identity(Entry):
    """What results must share to stand beside one another.

    Attributes:
        dataset: name of the dataset.
        seed: of the perturbations.
        mirroring: whether predictions are averaged over mirrored images.
        checkpoint: file name of the models' checkpoints.
        tolerance_mm: of the normalised surface distance.
        precision: "exact" or "fast".
        members_by: what tells a model's members apart.
        reference: what metrics compare with where several experts have drawn each case; None for a single one.
        background: what became of images' background, of `regions.BACKGROUNDS`; None in older manifests, which
            perturbed and measured it as all else.
        cases: case -> digest of its files; None for one that cannot be read.
    """

    NULLABLE = frozenset({"reference"})
    dataset: str | None = None
    seed: int | None = None
    mirroring: bool | None = None
    checkpoint: str | None = None
    tolerance_mm: float | None = None
    precision: str | None = None
    members_by: Sequence[str] | None = None
    reference: str | None = None
    background: str | None = None
    cases: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def background_then(self) -> str:
        """What became of the background, whatever version made the manifest."""
        return self.background or "perturb"


@dataclass(frozen=True, kw_only=True)
class ImagesEntry(Entry):
    """The images that a model takes.

    Attributes:
        file_ending: for example ".nii.gz".
        channels: of an image.
        reader: name of nnU-Net's class that reads them.
        channel_names: as in `dataset.json`; empty in older manifests.
    """

    file_ending: str
    channels: int
    reader: str
    channel_names: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class CalibrationEntry(Entry):
    """The calibration of a model.

    Attributes:
        sha256: digest of its file.
        condition: under which its cases were predicted, in words.
        alpha: largest share that may be lost.
        delta: how often that may fail; None where it holds on average.
        interval_alpha: how often a Dice may lie outside of its interval.
        n_cases: cases that it was made on.
        n_patients: patients of these.
        training: whether these cases are known not to be those of the model's training, in words.
        sentences: the guarantees, in words.
        uninformative: those that say nothing, in words.
        false_alarms: how often `qa` speaks of its cases, in words; empty: it was not measured.
    """

    NULLABLE = frozenset({"delta"})
    sha256: str
    condition: str = ""
    alpha: float
    delta: float | None = None
    interval_alpha: float
    n_cases: int = 0
    n_patients: int = 0
    training: str = ""
    sentences: Sequence[str] = ()
    uninformative: Sequence[str] = ()
    false_alarms: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainingEntry(Entry):
    """How a model was trained.

    Attributes:
        dataset: name of the dataset that it was trained on.
        epochs: fold -> epochs that its checkpoint has behind it; without folds whose checkpoint does not say.
        iterations_per_epoch: None where the trainer's name is not of this package's grammar.
        batch_size: patches of an iteration.
        patch_size: voxels per axis, as in "64x96".
        seed: in the trainer's name; None without one.
    """

    NULLABLE = frozenset({"iterations_per_epoch", "batch_size", "seed"})
    dataset: str = ""
    epochs: Mapping[str, int] = field(default_factory=dict)
    iterations_per_epoch: int | None = None
    batch_size: int | None = None
    patch_size: str = ""
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingCasesEntry(Entry):
    """Which of the sweep's cases a model was trained on.

    Attributes:
        n_cases: cases that were looked up.
        found: fold -> those that it was trained on; without folds that were trained on none.
        unknown: what could not be looked up, and why; empty where all could.
    """

    n_cases: int = 0
    found: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unknown: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelEntry(Entry):
    """An arm of the sweep: a model, a model with denoising, or an ensemble.

    Attributes:
        model: the columns `ARM` of its rows, as are plans, configuration, fold, patch_size and tile_size.
        kind: "model", "denoised" or "ensemble"; None in older manifests.
        architecture: as tables and figures write its trainer, for example "No-skip"; None in older manifests.
        options: what else it is, option -> its words, for example "epochs" -> "2 epochs"; likewise.
        baseline: whether its trainer is the standard U-Net, whatever its options; likewise.
        members: keys of an ensemble's models; None for a model.
        weights: how an ensemble's members are weighted; None for a model.
        folder: where a model was loaded from.
        denoise: what its denoiser is; None for a model whose images are as they are.
        without_denoising: key of the same model without a denoiser.
        calibration: of the model, where it has one.
        checkpoints: fold -> SHA-256 of its checkpoint.
        images: the images that it takes.
        choices: how its network was run.
        training: how it was trained; None for a denoised model or an ensemble, and in older manifests, as is the next.
        training_cases: which of the sweep's cases it was trained on.
    """

    model: str = ""
    plans: str = ""
    configuration: str = ""
    fold: str = ""
    patch_size: str = ""
    tile_size: str = ""
    kind: str | None = None
    architecture: str | None = None
    options: Mapping[str, str] | None = None
    baseline: bool | None = None
    members: Sequence[str] | None = None
    weights: str | None = None
    folder: str | None = None
    denoise: Mapping[str, Any] | None = None
    without_denoising: str | None = None
    calibration: CalibrationEntry | None = field(default=None, metadata={_IS: CalibrationEntry})
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    images: ImagesEntry | None = field(default=None, metadata={_IS: ImagesEntry})
    choices: Mapping[str, Any] | None = None
    training: TrainingEntry | None = field(default=None, metadata={_IS: TrainingEntry})
    training_cases: TrainingCasesEntry | None = field(default=None, metadata={_IS: TrainingCasesEntry})

    @property
    def arm(self) -> dict[str, str]:
        """The columns `ARM` of its rows."""
        return {name: getattr(self, name) for name in ARM}


@dataclass(frozen=True, kw_only=True)
class AttackEntry(Entry):
    """How an attack was made.

    Attributes:
        name: of the attack without its source; None in older manifests, as is the next.
        display_name: of that.
        steps: of the attack.
        source: key of the model whose attacked images all models got -> fold -> SHA-256 of its checkpoint; None where
            every model was attacked itself.
    """

    NULLABLE = frozenset({"source"})
    name: str | None = None
    display_name: str | None = None
    steps: int
    source: Mapping[str, Mapping[str, str]] | None = None


@dataclass(frozen=True, kw_only=True)
class PerturbationEntry(Entry):
    """A perturbation of the sweep, or a series of test sets.

    Attributes:
        levels: all levels, of all runs.
        unit: what a level is counted in.
        reference: where the perturbation comes from; None for a series.
        display_name: of the perturbation; None for a series, and in older manifests.
        presets: preset of the table that the perturbation belongs to -> number of perturbations in it; None where it
            belongs to none, for a series, and in older manifests.
        control: the random noise that an attack is compared with.
        source: name of the model that an attack was made against, for all models.
        attack: how it was made, where it is an attack.
        series: level, as text -> case -> digest of its files; None for a perturbation.
    """

    levels: Sequence[float] = ()
    unit: str = ""
    reference: str | None = None
    display_name: str | None = None
    presets: Mapping[str, int] | None = None
    control: str | None = None
    source: str | None = None
    attack: AttackEntry | None = field(default=None, metadata={_IS: AttackEntry})
    series: Mapping[str, Mapping[str, str]] | None = None


@dataclass(frozen=True, kw_only=True)
class Pictures(Entry):
    """The pictures of a sweep.

    Attributes:
        cases: "good", "median", "bad" -> the case that stands for it.
    """

    cases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Manifest(Entry):
    """What a reader needs to trust a sweep's numbers, or to make them again.

    Attributes:
        dataset: name of the dataset.
        identity: what results must share to stand beside one another.
        models: key -> arm, those of all runs into the folder.
        perturbations: name -> its levels and more, those of all runs.
        patients_known: whether the dataset says whose its cases are; else each counts as a patient of its own. None in
            older manifests.
        parameters: further settings of the latest run.
        seed: of the perturbations.
        device: that the latest run predicted on.
        versions: package -> version.
        git_commit: of this package, where it ran from a checkout.
        assumptions: that the numbers rest on, in sentences.
        case_notes: case -> what is doubtful about its files without being a fault, in clauses; None where nothing is.
        pictures: which cases the report shows.
    """

    NULLABLE = frozenset({"git_commit"})
    dataset: str | None = None
    identity: Identity = field(default_factory=Identity, metadata={_IS: Identity})
    models: Mapping[str, ModelEntry] = field(default_factory=dict, metadata={_ARE: ModelEntry})
    perturbations: Mapping[str, PerturbationEntry] = field(default_factory=dict, metadata={_ARE: PerturbationEntry})
    patients_known: bool | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    device: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    assumptions: Sequence[str] = ()
    case_notes: Mapping[str, Sequence[str]] | None = None
    pictures: Pictures = field(default_factory=Pictures, metadata={_IS: Pictures})

    def require(self, *names: str) -> None:
        """Make sure that the file had some keys.

        Raises:
            KeyError: it lacks one of them.
        """
        for name in names:
            (self.as_read or {})[name]


def read_manifest(path: Path, advice: str = "restore the file, or sweep into a new folder") -> Manifest:
    """Read a manifest.

    Args:
        path: the file.
        advice: what to do where it cannot be read, a clause.

    Raises:
        UserError: there is none, it is no JSON, or a key does not hold what it should.
    """
    return Manifest.from_json(read_json(path, advice, manifest_schema(), nan=True))


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest, whole or not at all."""
    write_atomically(path, json.dumps(manifest.to_json(), indent=1) + "\n")


def open_manifest(path: Path, identity: Identity) -> Manifest:
    """Read the manifest of an output folder, and make sure that it is of this sweep.

    Args:
        path: `<out>/manifest.json`; it need not exist.
        identity: what must be the same for results to be put beside one another. A case without a digest (None) is
            one that could not be read; it may have got one since.

    Returns:
        The manifest, empty for a new folder.

    Raises:
        UserError: the folder holds another sweep's results, or files that are not a sweep's.
    """
    if not path.is_file():
        names = (child.name for child in path.parent.iterdir()) if path.parent.is_dir() else ()
        strangers = sorted(name for name in names if name != ".lock")
        if strangers:
            raise UserError(f"{path.parent} is not empty ({strangers[0]}) and holds no sweep: take a new folder for -o")
        return Manifest()
    manifest = read_manifest(path)
    there = manifest.identity.to_json()
    for name, value in identity.to_json().items():
        before = there.get(name)
        if name == "background" and before is None:
            before = "perturb, by an earlier version"
        if isinstance(value, dict) and isinstance(before, dict):
            before = {key: value.get(key) if digest is None else digest for key, digest in before.items()}
        if before != value:
            if isinstance(value, dict) and isinstance(before, dict):
                name, before, value = _difference(name, before, value)
            raise UserError(
                f"{path.parent} holds the results of another sweep ({name} is {before!r} there, {value!r} now): "
                f"take a new folder for -o"
            )
    return manifest


def _difference(name: str, before: dict[str, Any], now: dict[str, Any]) -> tuple[str, Any, Any]:
    key = min(key for key, _ in before.items() ^ now.items())
    return f"{name} {key!r}", before.get(key, "not"), now.get(key, "not")
