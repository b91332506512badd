"""The grammar of trainer names: a trainer, then options, each at most once and in a fixed order.

    <trainer>[_ps<N>[x<N>[x<N>]]][_st<N>][_bs<N>][_<N>epochs][_<N>iters][_noDA|_textureDA][_adv][_seed<N>]

The name alone rebuilds the model: nothing comes from the environment.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields

from nnunet_robust.common.errors import UserError, shortened

RULE = "<trainer>[_ps<N>[x<N>[x<N>]]][_st<N>][_bs<N>][_<N>epochs][_<N>iters][_noDA|_textureDA][_adv][_seed<N>]"


@dataclass(frozen=True)
class Options:
    """What the options of a name say; None leaves a thing as the plans and nnU-Net have it.

    Attributes:
        patch_size: voxels per axis, in the plans' axis order; a single number holds for every axis.
        stages: stages kept of the plans' network, counted from full resolution.
        batch_size: samples per iteration.
        epochs: epochs of the whole training.
        iterations: training iterations per epoch; a fifth as many validation iterations (nnU-Net's 250 to 50).
        augmentation: "noDA" for none, neither in training nor (mirroring) in prediction; "textureDA" for textural noise
            beside nnU-Net's own.
        adversarial: True for training on adversarial patches, half of each batch.
        seed: makes initialisation, sampling and augmentation reproducible.
    """

    patch_size: tuple[int, ...] | None = None
    stages: int | None = None
    batch_size: int | None = None
    epochs: int | None = None
    iterations: int | None = None
    augmentation: str | None = None
    adversarial: bool | None = None
    seed: int | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) is not None for field in fields(self))


_AUGMENTATIONS_IN_WORDS = {"noDA": "no augmentation", "textureDA": "texture augmentation"}
_N, _SEED = "[1-9][0-9]{0,8}", "(?:0|[1-9][0-9]{0,17})"  # what 32 and 64 bits hold
# In the grammar's order: field, strict pattern, and a lenient one by which a slip is recognised.
_OPTIONS: tuple[tuple[str, str, str], ...] = (
    ("patch_size", f"ps{_N}(?:x{_N}){{0,2}}", r"(?:ps|patch)\D?(?P<value>\d{1,9}(?:[x*]\d{1,9}){0,2})(?:[x*]\d*)*"),
    ("stages", f"st{_N}", r"(?:st|stages?)\D?(?P<value>\d{1,9})"),
    ("batch_size", f"bs{_N}", r"(?:bs|batch)\D?(?P<value>\d{1,9})"),
    ("epochs", f"{_N}epochs", r"(?P<value>\d{1,9})\D?ep(?:ochs?)?|ep(?:ochs?)?(?P<value2>\d{1,9})"),
    ("iterations", f"{_N}iters", r"(?P<value>\d{1,9})\D?it(?:er)?s?|it(?:er)?s?(?P<value2>\d{1,9})"),
    ("augmentation", "noDA|textureDA", r"(?P<value>no)da|(?P<value2>texture)s?(?:da)?"),
    ("adversarial", "adv", r"(?P<value>adv(?:ers[a-z]*)?|at|pgd(?:at)?)\d*"),
    ("seed", f"seed{_SEED}", r"s(?:eed)?\D?(?P<value>\d{1,18})"),
)
_NAME = re.compile(
    "(?P<trainer>nnUNetTrainer[A-Za-z0-9]*)" + "".join(f"(?:_(?P<{field}>{strict}))?" for field, strict, _ in _OPTIONS)
)


def parse(name: str, trainers: Iterable[str]) -> tuple[str, Options]:
    """Split a name into its trainer and options.

    Args:
        name: e.g. `nnUNetTrainerNoSkip_ps64x96_2epochs`.
        trainers: the known trainers.

    Raises:
        AttributeError: neither a name of ours nor close to one (nnU-Net's lookup then searches on).
        UserError: close to one of ours, or with options that break the grammar.

    Example:
        >>> trainer, options = parse("nnUNetTrainerNoSkip_ps64x96_2epochs", ["nnUNetTrainer", "nnUNetTrainerNoSkip"])
        >>> trainer, options.patch_size, options.epochs, options.seed
        ('nnUNetTrainerNoSkip', (64, 96), 2, None)
    """
    known = list(trainers)
    match = _NAME.fullmatch(name)
    if match and match["trainer"] in known:
        return match["trainer"], _options(match.groupdict())
    nearest = nearest_name(name, known)
    if nearest is None:
        raise AttributeError(f"no trainer {shortened(name)!r} in nnunet_robust")
    long = ", with numbers of at most 9 digits (seeds: 18)" if re.search("[0-9]{10}", name) else ""
    raise UserError(
        f"trainer name {shortened(name)!r} breaks the rule {RULE}{long}; the nearest valid name is {nearest!r}"
    )


def _options(texts: dict[str, str | None]) -> Options:
    def number(field: str) -> int | None:
        text = texts[field]
        return int(re.sub(r"\D", "", text)) if text else None

    patch = texts["patch_size"]
    return Options(
        patch_size=tuple(int(n) for n in patch[2:].split("x")) if patch else None,
        stages=number("stages"),
        batch_size=number("batch_size"),
        epochs=number("epochs"),
        iterations=number("iterations"),
        augmentation=texts["augmentation"],
        adversarial=True if texts["adversarial"] else None,
        seed=number("seed"),
    )


def name_of(trainer: str, options: Options) -> str:
    """The name that `parse` reads as `trainer` and `options`.

    Example:
        >>> name_of("nnUNetTrainer", Options(patch_size=(64,), seed=1))
        'nnUNetTrainer_ps64_seed1'
    """
    parts = {
        "patch_size": "ps{}", "stages": "st{}", "batch_size": "bs{}", "epochs": "{}epochs", "iterations": "{}iters",
        "augmentation": "{}", "adversarial": "adv", "seed": "seed{}",
    }  # fmt: skip
    name = trainer
    for field, form in parts.items():
        value = getattr(options, field)
        if value is not None and value is not False:
            name += "_" + form.format("x".join(map(str, value)) if isinstance(value, tuple) else value)
    return name


def in_words(options: Options) -> dict[str, str]:
    """Say the options as tables and figures write them, those that are set.

    Returns:
        Option -> its words, in the grammar's order; epochs and their iterations are said together.

    Example:
        >>> in_words(Options(patch_size=(64, 96), epochs=2, iterations=50, seed=1))
        {'patch_size': 'patch 64x96', 'epochs': '2 epochs of 50 iterations', 'seed': 'seed 1'}
    """
    length = [_counted(options.epochs, "epoch"), _counted(options.iterations, "iteration")]
    found = {
        "patch_size": options.patch_size and f"patch {'x'.join(map(str, options.patch_size))}",
        "stages": _counted(options.stages, "stage"),
        "batch_size": options.batch_size and f"batch {options.batch_size}",
        "epochs": " of ".join(filter(None, length)) + " an epoch" * (length[0] is None and length[1] is not None),
        "augmentation": options.augmentation and _AUGMENTATIONS_IN_WORDS[options.augmentation],
        "adversarial": options.adversarial and "adversarial training",
        "seed": None if options.seed is None else f"seed {options.seed}",
    }
    return {option: words for option, words in found.items() if words}


def _counted(n: int | None, what: str) -> str | None:
    return None if n is None else f"{n} {what}{'s' * (n != 1)}"


def nearest_name(name: str, trainers: Iterable[str]) -> str | None:
    """The valid name closest to `name`: its trainer spelled right, its options repaired, sorted, without repeats.

    Returns:
        None if the part before the first underscore is like no known trainer.

    Example:
        >>> nearest_name("nnUNetTrainerNoskip_seed1_patch64", ["nnUNetTrainer", "nnUNetTrainerNoSkip"])
        'nnUNetTrainerNoSkip_ps64_seed1'
    """
    trainer, *tokens = name.split("_")
    close = difflib.get_close_matches(trainer, list(trainers), n=1, cutoff=0.9)
    if not close:
        return None
    found: dict[str, str] = {}
    for token in tokens:
        for field, _, lenient in _OPTIONS:
            match = re.fullmatch(lenient, token, re.IGNORECASE)
            if match and field not in found:
                found[field] = next(value for value in match.groupdict().values() if value is not None)
                break

    def number(field: str, least: int) -> int | None:
        return max(least, int(found[field])) if field in found else None

    patch = found.get("patch_size")
    options = Options(
        patch_size=tuple(max(1, int(n)) for n in re.split("[x*]", patch)) if patch else None,
        stages=number("stages", 1),
        batch_size=number("batch_size", 1),
        epochs=number("epochs", 1),
        iterations=number("iterations", 1),
        augmentation=f"{found['augmentation'].lower()}DA" if "augmentation" in found else None,
        adversarial=True if "adversarial" in found else None,
        seed=number("seed", 0),
    )
    return name_of(close[0], options)
