"""Groups of options that several commands share, each option written once, and how a command takes a group.

A group is a dataclass whose fields are Typer's options; they are called as the fields of the dataclass in `eval/` that
they end up in, so that `SweepParameters(**vars(models), **vars(cases), ...)` is all that a command needs to say.
A field without a default is a list, empty unless values are given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import partial, wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, cast, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from nnunet_robust.cli.checks import SHARE, Within, check_numbers, check_options, check_words
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.outputs import require_file, require_folder

CommandFunction = Callable[..., None]


class Commands(typer.Typer):
    """Commands that take groups of options, and several values after one flag as nnU-Net's do: `-tr A B`."""

    def command(self, *arguments: Any, **settings: Any) -> Any:
        """Register a command; a parameter whose type is a dataclass stands for the options that are its fields."""
        register = super().command(*arguments, **{"cls": _SeveralValues, **settings})
        return lambda function: register(with_groups(checking_outputs(function)))


class Output(NamedTuple):
    """Marks an option as a place that the command writes to, beside Typer's own description of it.

    Attributes:
        require: refuses a place that cannot be written, see `common.outputs`. It is asked before the command begins.
        flag: of the option.
    """

    require: Callable[[str, Path], None]
    flag: str = "-o"


def folder_of(*files: str) -> Output:
    """A folder in which the command writes files of these names, which must not be folders."""

    def require(flag: str, folder: Path) -> None:
        require_folder(flag, folder)
        for name in files if folder.is_dir() else ():
            require_file(flag, folder / name, "remove it, or name another folder")

    return Output(require)


FOLDER = Output(require_folder)
FILE = Output(require_file)
Mark = TypeVar("Mark", Output, Within)


def marks_of(command: Any, kind: type[Mark]) -> dict[str, Mark]:
    """Find the options of a command that are marked as outputs (`Output`) or as numbers of a range (`Within`).

    Returns:
        Parameter -> mark.
    """
    parameters = signature(command, eval_str=True).parameters.values()
    marked = {one.name: getattr(one.annotation, "__metadata__", ()) for one in parameters}
    return {name: mark for name, marks in marked.items() for mark in marks if isinstance(mark, kind)}


def checking_outputs(command: CommandFunction) -> CommandFunction:
    """The command with all of its outputs checked before it begins; those that are not given are its own affair."""
    outputs = marks_of(command, Output)
    if not outputs:
        return command

    @wraps(command)
    def run(**given: Any) -> None:
        for name, output in outputs.items():
            if given[name] is not None:
                output.require(output.flag, given[name])
        command(**given)

    return run


class _SeveralValues(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        check_words(args, {flag for option in self.params if self._is_text(option) for flag in option.opts})
        flags = {flag for option in self.params if getattr(option, "multiple", False) for flag in option.opts}
        rest: list[str] = super().parse_args(ctx, repeat_flags(args, flags))
        if not ctx.resilient_parsing:
            check_numbers(ctx, marks_of(self.callback, Within))
            check_options(ctx)
        return rest

    def _is_text(self, option: Any) -> bool:
        parameter = signature(cast(Any, self.callback), eval_str=True).parameters.get(option.name)
        return parameter is not None and str in _members(parameter.annotation)


def _members(annotation: Any) -> list[Any]:
    """The types that an annotation names: of Annotated[list[Path] | None, ...] Path and None."""
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        parts = parts[:1]
    return [member for part in parts for member in _members(part)] if parts else [annotation]


def repeat_flags(arguments: list[str], flags: set[str]) -> list[str]:
    """Repeat the flag of an option before each of its values: `-tr A B` becomes `-tr A -tr B`.

    A value is whatever follows, up to the next argument that begins with "-" and is no number.

    Args:
        arguments: of a command.
        flags: of the options that take several values.
    """
    repeated: list[str] = []
    flag: str | None = None
    for argument in arguments:
        if argument.startswith("-") and not _is_number(argument):
            flag = argument if argument in flags else None
            if flag is None:
                repeated.append(argument)
        elif flag is None:
            repeated.append(argument)
        else:
            repeated += [flag, argument]
    return repeated


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def with_groups(command: CommandFunction) -> CommandFunction:
    """The command as Typer is to see it: with the options of its groups in their place."""
    parameters = signature(command, eval_str=True).parameters.values()
    groups: dict[str, Any] = {one.name: one.annotation for one in parameters if is_dataclass(one.annotation)}
    if not groups:
        return command
    options: list[Parameter] = []
    for parameter in parameters:
        group = groups.get(parameter.name)
        options += _options_of(group) if group else [parameter.replace(kind=Parameter.KEYWORD_ONLY)]

    @wraps(command)
    def run(**given: Any) -> None:
        made = {name: group(**{f.name: given.pop(f.name) for f in fields(group)}) for name, group in groups.items()}
        command(**given, **made)

    run.__signature__ = Signature(options)  # type: ignore[attr-defined]
    run.__annotations__ = {option.name: option.annotation for option in options}
    return run


def _options_of(group: Any) -> list[Parameter]:
    types = get_type_hints(group, include_extras=True)
    defaults = {f.name: [] if f.default is MISSING else f.default for f in fields(group)}
    return [
        Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=types[name])
        for name, default in defaults.items()
    ]


def known_trainers(incomplete: str) -> list[str]:
    """The trainers that a shell may complete a word to."""
    from nnunet_robust.trainers import TRAINERS

    return [name for name in TRAINERS if name.startswith(incomplete)]


_of_dataset = partial(typer.Option, rich_help_panel="Dataset")
_of_models = partial(typer.Option, rich_help_panel="Models")
of_cases = partial(typer.Option, rich_help_panel="Cases")
_of_rating = partial(typer.Option, rich_help_panel="Rating")
of_execution = partial(typer.Option, rich_help_panel="Execution")

TrustFlag = Annotated[
    bool,
    _of_models(
        "--trust-checkpoints", help="Load whatever checkpoints and plans hold, which may run code: see SECURITY.md."
    ),
]
DATASET = _of_dataset("-d", help="Dataset id or name.")
NewImages = Annotated[Path, typer.Option("-i", help="The new images: a folder, or one file.")]


@dataclass(frozen=True, kw_only=True)
class PlansFlags:
    """The plans of a dataset."""

    dataset: Annotated[str | None, DATASET] = None
    configuration: Annotated[str, _of_dataset("-c", help="2d, 3d_fullres, 3d_lowres.")] = "2d"
    plans: Annotated[str, _of_dataset("-p", help="Plans identifier.")] = "nnUNetPlans"


@dataclass(frozen=True, kw_only=True)
class ModelFlags(PlansFlags):
    """Trained models of a sweep; the one model of all other commands."""

    trainers: Annotated[
        list[str], _of_models("-tr", help="The trainer; a sweep takes several at once.", autocompletion=known_trainers)
    ]
    model_folders: Annotated[
        list[Path], _of_models("-m", help="The trained model's folder; a sweep takes several at once.")
    ]
    checkpoint: Annotated[str, _of_models("-chk", help="File name of the checkpoint.")] = "checkpoint_final.pth"
    trust_checkpoints: TrustFlag = False

    def check_one(self) -> None:
        """Refuse several models."""
        named = [*map(str, self.model_folders), *self.trainers]
        if len(named) > 1:
            raise UserError(f"{len(named)} models are named ({', '.join(named)}): name one alone")

    def one_folder(self) -> Path:
        """The folder of the one model that is named.

        Raises:
            UserError: none is named, or several are.
        """
        from nnunet_robust.common.folders import dataset_name, model_folder

        self.check_one()
        if self.model_folders:
            return self.model_folders[0]
        if not self.trainers:
            raise UserError("no model: name a trainer with -tr, or a model folder with -m")
        if self.dataset is None:
            raise UserError("a trainer (-tr) needs a dataset (-d); a model folder (-m) goes without")
        return model_folder(dataset_name(self.dataset), self.trainers[0], self.plans, self.configuration)


@dataclass(frozen=True, kw_only=True)
class ModelAndFoldsFlags(ModelFlags):
    """Trained models of which no calibration tells the folds."""

    folds: Annotated[list[str] | None, _of_models("-f", help="Folds to average; default: all trained.")] = None


@dataclass(frozen=True, kw_only=True)
class CaseFlags:
    """Images with labels."""

    images: Annotated[
        Path | None,
        of_cases("-i", help="Images; default: the dataset's; where models predict, imagesTs, else the fold's cases."),
    ] = None
    labels: Annotated[
        list[Path], of_cases("-l", help="Their labels; a sweep takes a folder of each expert who drew all cases.")
    ]


@dataclass(frozen=True, kw_only=True)
class DeviceFlags:
    """On what a model runs."""

    device: Annotated[str | None, of_execution("-device", help="cpu, cuda or mps; default: cuda if there.")] = None


@dataclass(frozen=True, kw_only=True)
class PredictionFlags(DeviceFlags):
    """How a model predicts."""

    mirroring: Annotated[bool, of_execution(" /--disable-tta", help="No test-time mirroring.", show_default=False)] = (
        True
    )
    precision: Annotated[
        str, of_execution("--precision", help="exact: as nnUNetv2_predict; fast: nearly, and faster.")
    ] = "exact"


@dataclass(frozen=True, kw_only=True)
class MemberFlags(PredictionFlags):
    """How a model's members predict."""

    members: Annotated[list[str], of_execution("--members", help="Tell apart: folds, mirroring; default: both.")]


@dataclass(frozen=True, kw_only=True)
class RatingFlags:
    """How segmentations are rated."""

    calibrations: Annotated[
        list[Path], _of_rating("--calibration", metavar="FILE", help="What nnunet-robust calibrate has written.")
    ]  # a list, so that two are refused: of an option with one value the last would count
    kind: Annotated[
        str, _of_rating("--kind", help="Inner and outer masks by a probability threshold, or by a margin in mm.")
    ] = "threshold"
    dice_limits: Annotated[
        tuple[float, float] | None,
        _of_rating(
            "--dice-limits",
            help="Review, and reject, where the Dice may be below; default: where it is lower than the calibration's.",
        ),
        SHARE,
    ] = None
    share_limits: Annotated[
        tuple[float, float] | None,
        _of_rating(
            "--share-limits",
            help="Review, and reject, where more of the outer mask is not in the inner one; default: not judged.",
        ),
        SHARE,
    ] = None

    def one_calibration(self) -> Path | None:
        """The calibration that is named; several are refused."""
        files = self.calibrations
        if len(files) > 1:
            named = ", ".join(map(str, files))
            raise UserError(f"{len(files)} calibrations are named ({named}): name the model's alone")
        return files[0] if files else None
