"""The grammar of trainer names."""

from __future__ import annotations

import itertools
import math
import pickle

import pytest

from nnunet_robust import trainers
from nnunet_robust.common.errors import UserError
from nnunet_robust.trainers.names import Options, in_words, name_of, parse

KNOWN = ("nnUNetTrainer", "nnUNetTrainerNoSkip")
VALUES = {
    "patch_size": (None, (64,), (64, 96), (32, 64, 96)),
    "stages": (None, 5),
    "batch_size": (None, 12),
    "epochs": (None, 1, 100),
    "iterations": (None, 50),
    "augmentation": (None, "noDA", "textureDA"),
    "adversarial": (None, True),
    "seed": (None, 0, 7),
}


def test_every_combination_is_read_as_it_was_written() -> None:
    for trainer in KNOWN:
        for values in itertools.product(*VALUES.values()):
            options = Options(**dict(zip(VALUES, values, strict=True)))
            assert parse(name_of(trainer, options), KNOWN) == (trainer, options)


def test_examples_of_the_design() -> None:
    assert parse("nnUNetTrainer_ps64_st5", KNOWN) == ("nnUNetTrainer", Options(patch_size=(64,), stages=5))
    name = "nnUNetTrainerNoSkip_2epochs_50iters_seed1"
    assert parse(name, KNOWN) == ("nnUNetTrainerNoSkip", Options(epochs=2, iterations=50, seed=1))
    assert parse("nnUNetTrainerNoSkip_ps32x64x96_noDA", KNOWN)[1].patch_size == (32, 64, 96)


@pytest.mark.parametrize(
    ("broken", "nearest"),
    [
        ("nnUNetTrainerNoSkp", "nnUNetTrainerNoSkip"),
        ("nnUNetTrainerNoskip_ps64", "nnUNetTrainerNoSkip_ps64"),
        ("nnUNetTrainerNoSkip_seed1_ps64", "nnUNetTrainerNoSkip_ps64_seed1"),  # order
        ("nnUNetTrainerNoSkip_ps64_ps96", "nnUNetTrainerNoSkip_ps64"),  # twice
        ("nnUNetTrainerNoSkip_ps64x64x64x64", "nnUNetTrainerNoSkip_ps64x64x64"),
        ("nnUNetTrainerNoSkip_ps64x", "nnUNetTrainerNoSkip_ps64"),
        ("nnUNetTrainer_ps064", "nnUNetTrainer_ps64"),
        ("nnUNetTrainer_bs0", "nnUNetTrainer_bs1"),
        ("nnUNetTrainerNoSkip_10epoch", "nnUNetTrainerNoSkip_10epochs"),
        ("nnUNetTrainerNoSkip_50it", "nnUNetTrainerNoSkip_50iters"),
        ("nnUNetTrainer_noda", "nnUNetTrainer_noDA"),
        ("nnUNetTrainer_adversarial", "nnUNetTrainer_adv"),
        ("nnUNetTrainer_ADV_seed1", "nnUNetTrainer_adv_seed1"),
        ("nnUNetTrainer_at_ps64", "nnUNetTrainer_ps64_adv"),
        ("nnUNetTrainer_pgdAT", "nnUNetTrainer_adv"),
        ("nnUNetTrainer_adv_noDA", "nnUNetTrainer_noDA_adv"),  # order
        ("nnUNetTrainer_adv_training_adv", "nnUNetTrainer_adv"),
        ("nnUNetTrainer_seed1_adv_textureda", "nnUNetTrainer_textureDA_adv_seed1"),
        ("nnUNetTrainerNoSkip__ps64", "nnUNetTrainerNoSkip_ps64"),
        ("nnUNetTrainerNoSkip_ps-64", "nnUNetTrainerNoSkip_ps64"),
        ("nnUNetTrainerNoSkip_fast", "nnUNetTrainerNoSkip"),
    ],
)
def test_a_broken_name_is_answered_with_the_rule_and_the_nearest(broken: str, nearest: str) -> None:
    with pytest.raises(UserError) as error:
        parse(broken, KNOWN)
    message = str(error.value)
    assert repr(broken) in message and "<trainer>[_ps<N>" in message and message.endswith(repr(nearest))
    assert "\n" not in message
    parse(nearest, KNOWN)  # and that one is valid


@pytest.mark.parametrize(
    "foreign", ["nnUNetTrainerMine", "nnUNetTrainerMine_ps64", "nnUNetTrainerNoMirroring", "Other"]
)
def test_names_of_others_are_left_to_others(foreign: str) -> None:
    with pytest.raises(AttributeError):
        parse(foreign, KNOWN)
    assert not hasattr(trainers, foreign)


@pytest.mark.parametrize("trainer", trainers.TRAINERS)
def test_classes_are_made_on_demand(trainer: str) -> None:
    name = f"{trainer}_ps32_3epochs_noDA_seed2"
    cls = getattr(trainers, name)
    assert cls is trainers.trainer_class(name)
    assert cls.__name__ == name and cls.options == Options(patch_size=(32,), epochs=3, augmentation="noDA", seed=2)
    assert pickle.loads(pickle.dumps(cls)) is cls
    assert trainers.trainer_class(trainer).__name__ == trainer


def test_every_trainer_has_a_display_name_of_its_own_and_one_is_the_baseline() -> None:
    described = {name: trainers.describe(f"{name}_ps64_seed1") for name in trainers.TRAINERS}
    names = [each.display_name for each in described.values()]
    assert all(name and name == name.strip() and "nnUNet" not in name for name in names)
    assert len(set(map(str.casefold, names))) == len(names) == len(trainers.TRAINERS)
    assert [name for name, each in described.items() if each.baseline] == [trainers.BASELINE]


def test_every_option_has_words_and_different_options_have_different_ones() -> None:
    said = set()
    for values in itertools.product(*VALUES.values()):
        options = Options(**dict(zip(VALUES, values, strict=True)))
        words = in_words(options)
        expected = {field for field in VALUES if getattr(options, field) is not None} - {"iterations"}
        assert words.keys() == expected | ({"epochs"} if options.iterations else set())
        said.add(tuple(words.items()))
    assert len(said) == math.prod(map(len, VALUES.values()))
    assert in_words(Options(epochs=1)) == {"epochs": "1 epoch"}
    assert in_words(Options(iterations=50)) == {"epochs": "50 iterations an epoch"}


def test_a_trainer_that_is_not_ours_keeps_its_name() -> None:
    for name in ("nnUNetTrainerDiceCELoss_noSmooth", "SomebodysTrainer", "nnUNetTrainer_probabilisticOversampling"):
        assert trainers.describe(name) == (name, {}, False)
