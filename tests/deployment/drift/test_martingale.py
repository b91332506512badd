"""Against MAPIE and by hand; false alarms over 1,000 streams; delays, ties, undefined values, pieces, which moved."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from mapie.exchangeability_testing.martingales import OnlineMartingaleTest
from scipy import stats
from scipy.integrate import quad

from benchmarks.drift_simulation import fewest_images
from nnunet_robust.common.errors import UserError
from nnunet_robust.deployment.drift.martingale import BETS, JUMP, DriftTest, jump, payoffs, places


def evidence(reference: np.ndarray, stream: np.ndarray, **options: Any) -> np.ndarray:
    """Each column is a stream of one feature: (images, columns)."""
    test = DriftTest([str(i) for i in range(reference.shape[1])], reference, **options)
    test.update(stream)
    return test.evidence


def false_alarms(reference: np.ndarray, stream: np.ndarray, rate: float, features: int = 1) -> float:
    """Of streams of so many columns each, the share that ever sets off an alarm."""
    found = evidence(reference, stream)
    over = found.reshape(len(found), -1, features) >= math.log(features / rate)
    return float(over.any(axis=(0, 2)).mean())


def test_the_jumper_is_mapies() -> None:
    """With MAPIE's bets, 1 + e (p - 1/2) for e in -1, 0, 1."""
    rng = np.random.default_rng(0)
    theirs = OnlineMartingaleTest(test_method="jumper_martingale", jump_size=JUMP)
    money, wealth = 0.0, np.full((1, 3), 1 / 3)
    for p in rng.beta(0.6, 1, 200):
        gain, wealth = jump(wealth, 1 + np.array([[-1.0, 0.0, 1.0]]) * (p - 0.5), JUMP)
        money += gain[0]
        assert money == pytest.approx(math.log(theirs.update_simple_jumper_martingale(p)), abs=1e-10)
    assert abs(money) > 1


def test_places_are_mapies_p_values_from_the_other_end() -> None:
    rng = np.random.default_rng(1)
    theirs = OnlineMartingaleTest(random_state=5)
    draws = np.random.default_rng(5)
    for n in (1, 2, 10, 50):
        earlier, now = rng.integers(0, 4, n).astype(float), float(rng.integers(0, 4))
        expected = theirs.compute_p_value(-now, -earlier)
        found = places([sorted(earlier)], [now], np.array([draws.uniform()]))
        assert found[0] == pytest.approx(expected)


def test_places_by_hand() -> None:
    earlier = [[1.0, 2.0, 2.0, 3.0], [-np.inf, -np.inf, 5.0, 6.0], [0.0, 1.0]]
    now, draws = [2.0, -np.inf, 0.5], np.array([0.5, 0.25, 0.0])
    # lower, equal, of: (1, 2, 4), (0, 2, 4), and, where only two images count, (1, 0, 2)
    assert places(earlier, now, draws) == pytest.approx([2.5 / 5, 0.75 / 5, 1 / 3])


def test_every_bet_pays_its_beta_density_and_1_on_average() -> None:
    for number, (a, b) in enumerate(BETS.values()):
        for p in (0.01, 0.3, 0.9):
            assert payoffs(np.array([p]))[0, number] == pytest.approx(stats.beta(a, b).pdf(p))
        mean, _ = quad(lambda p, n=number: payoffs(np.array([p]))[0, n], 0, 1)
        assert mean == pytest.approx(1, abs=1e-6)


def test_places_are_uniform_and_independent_where_nothing_changed() -> None:
    """With ties: what an image's place is says nothing of the next."""
    rng = np.random.default_rng(2)
    rows, draws = rng.integers(0, 3, (8, 40_000)).astype(float), rng.random((8, 40_000))
    sixth, eighth = (places(np.sort(rows[:i].T).tolist(), rows[i].tolist(), draws[i]) for i in (5, 7))
    for found in (sixth, eighth):
        assert stats.kstest(found, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(sixth, eighth)[0, 1]) < 0.02
    table = np.histogram2d(sixth, eighth, bins=4, range=[[0, 1]] * 2)[0]
    assert stats.chi2_contingency(table).pvalue > 0.01


@pytest.mark.parametrize("kind", ["normal", "tied", "undefined at times"])
def test_false_alarms_stay_below_the_rate_over_long_streams(kind: str) -> None:
    """1,000 streams of 300 images, each with a reference of its own of 15; among 15 alone a third would alarm."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((315, 1000))
    if kind == "tied":
        rows = np.round(rows)
    if kind == "undefined at times":
        rows[rng.random(rows.shape) < 0.2] = np.nan
    highest = evidence(rows[:15], rows[15:]).max(axis=0)
    for rate in (0.01, 0.05, 0.2):
        # 3 standard deviations of 1,000 draws above the rate
        assert np.mean(highest >= -math.log(rate)) <= rate + 3 * math.sqrt(rate * (1 - rate) / 1000)


def test_false_alarms_of_features_that_depend_on_each_other() -> None:
    """1,000 streams of 8 features, of which four are the same and four are not."""
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((120, 1000, 8))
    rows[..., 1:4] = rows[..., :1]
    rows = rows.reshape(120, -1)
    assert false_alarms(rows[:20], rows[20:], 0.05, features=8) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)


def test_the_rate_holds_over_references_and_not_for_each() -> None:
    """An unlucky reference, whose images happen to lie higher than others, has its false alarms far more often."""
    rng = np.random.default_rng(5)
    reference, stream = rng.standard_normal((20, 1)), rng.standard_normal((200, 1000))
    unlucky = np.sort(rng.standard_normal((20, 1)) + 0.9, axis=0)
    assert false_alarms(np.repeat(reference, 1000, axis=1), stream, 0.05) <= 0.1
    assert false_alarms(np.repeat(unlucky, 1000, axis=1), stream, 0.05) > 0.2


def test_the_larger_the_change_the_sooner_the_alarm() -> None:
    rng = np.random.default_rng(6)
    reference, stream = rng.standard_normal((50, 200)), rng.standard_normal((160, 200))
    delays = []
    for size in (0.0, 1.0, 2.0, 4.0):
        changed = stream + np.where(np.arange(160)[:, None] < 60, 0, size)
        over = evidence(reference, changed) >= math.log(100)
        assert over[:60].any(axis=0).mean() <= 0.03
        delays.append(float(np.median(np.where(over.any(axis=0), over.argmax(axis=0) - 59, np.inf))))
    assert delays[0] == np.inf
    assert delays[1] > delays[2] > delays[3]
    assert delays[1] < 40 and delays[3] <= 7


@pytest.mark.parametrize(
    ("kind", "bets"),
    [
        ("higher", {"far higher", "higher"}),
        ("lower", {"far lower", "lower"}),
        ("wider", {"wider"}),
        ("narrower", {"narrower"}),
        ("undefined", {"far lower", "lower"}),
        ("stuck", {"narrower"}),
    ],
)
def test_what_moved_is_named_and_how(kind: str, bets: set[str]) -> None:
    changes = {
        "higher": lambda x: x + 3,
        "lower": lambda x: x - 3,
        "wider": lambda x: 5 * x,
        "narrower": lambda x: x / 5,
        "undefined": lambda x: np.nan * x,
        "stuck": lambda x: 0 * x,
    }
    rng = np.random.default_rng(7)
    test = DriftTest(["a", "moved", "c"], rng.standard_normal((200, 3)))
    stream = rng.standard_normal((60, 3))
    stream[:, 1] = changes[kind](stream[:, 1])
    test.update(stream)
    assert test.alarm is not None and test.alarm < 60
    (moved,) = test.moved()
    assert moved.name == "moved" and moved.bet in bets
    assert moved.image == test.alarm
    assert moved.evidence == test.evidence[:, 1].max() > test.limit


def test_what_has_not_moved_is_hardly_ever_named() -> None:
    """Of 300 streams in which two of six features move, at a rate of 10 %."""
    rng = np.random.default_rng(8)
    wrong = found = 0
    for _ in range(300):
        test = DriftTest(list("abcdef"), rng.standard_normal((30, 6)), rate=0.1)
        stream = rng.standard_normal((40, 6))
        stream[:, :2] += 2
        test.update(stream)
        names = {moved.name for moved in test.moved()}
        wrong, found = wrong + bool(names - {"a", "b"}), found + (names >= {"a", "b"})
    assert wrong <= 30 + 3 * math.sqrt(300 * 0.1 * 0.9)
    assert found > 250


def test_a_constant_feature_says_nothing() -> None:
    """It takes its share of the money, and no more: the other is found with it and without."""
    rng = np.random.default_rng(10)
    reference, stream = np.full((30, 2), 4.0), np.full((80, 2), 4.0)
    test = DriftTest(["never changes", "never defined"], reference * [1, np.nan])
    test.update(stream * [1, np.nan])
    assert test.alarm is None and test.moved() == ()
    reference[:, 1], stream[:, 1] = rng.standard_normal(30), rng.standard_normal(80) + 3
    test = DriftTest(["never changes", "changes"], reference)
    test.update(stream)
    assert [moved.name for moved in test.moved()] == ["changes"]


def test_an_image_that_sticks_out_does_not_count_more_than_by_its_place() -> None:
    rng = np.random.default_rng(11)
    reference, stream = rng.standard_normal((30, 1)), rng.standard_normal((10, 1))
    stream[4] = 10.0
    further = stream.copy()
    further[4] = np.inf
    assert np.array_equal(evidence(reference, stream), evidence(reference, further))


def test_in_pieces_as_at_once() -> None:
    rng = np.random.default_rng(12)
    reference, stream = rng.standard_normal((20, 3)), np.round(rng.standard_normal((30, 3)), 1)
    whole = DriftTest(list("abc"), reference)
    whole.update(stream)
    pieces = DriftTest(list("abc"), reference)
    for first, last in ((0, 1), (1, 1), (1, 14), (14, 30)):
        pieces.update(stream[first:last])
    assert np.array_equal(whole.evidence, pieces.evidence)
    assert whole.moved() == pieces.moved() and whole.alarm == pieces.alarm
    other_seed = evidence(reference, stream, seed=1)
    assert not np.array_equal(whole.evidence, other_seed)
    assert np.array_equal(whole.evidence, evidence(reference[::-1], stream))  # the reference has no order


def test_an_alarm_stays_and_numbers_stay_numbers() -> None:
    rng = np.random.default_rng(13)
    test = DriftTest(["a"], rng.standard_normal((3000, 1)))
    test.update(np.full((1500, 1), 50.0))
    assert test.alarm is not None
    at, money = test.alarm, test.evidence.max()
    assert money > 710  # more than a float holds
    test.update(rng.standard_normal((3, 1)))
    assert test.alarm == at and np.isfinite(test.evidence).all()


def test_images_of_the_reference_that_do_not_count() -> None:
    rng = np.random.default_rng(14)
    reference, stream = rng.standard_normal((30, 2)), rng.standard_normal((20, 2))
    counts = np.ones((30, 2), bool)
    counts[:10, 1] = False
    found = evidence(reference, stream, measured=counts)
    scrambled = reference.copy()
    scrambled[:10, 1] = 1e6
    assert np.array_equal(found, evidence(scrambled, stream, measured=counts))
    assert not np.array_equal(found, evidence(scrambled, stream))


def test_how_many_images_an_alarm_needs_at_least() -> None:
    """A single new image beyond 99 of the reference is as rare as 1 %; beyond 98 it is not."""
    assert [fewest_images(n, 0.01) for n in (99, 98, 10, 2, 1)] == [1, 2, 3, 13, 99]
    assert [fewest_images(n, 0.01, n_features=2) for n in (199, 198)] == [1, 2]
    # by counting: of all orders of 7 images those in which the last 2 are the highest
    orders = list(itertools.permutations(range(7)))
    share = np.mean([set(order[-2:]) == {5, 6} for order in orders])
    assert fewest_images(5, share) == 2 and fewest_images(5, 0.999 * share) == 3


def test_before_that_alarms_are_not_certain_and_with_ten_they_come() -> None:
    rng = np.random.default_rng(15)
    for n, low, high in ((1, 0.0, 0.05), (3, 0.1, 0.6), (10, 0.95, 1.0)):
        over = evidence(rng.standard_normal((n, 300)), rng.standard_normal((60, 300)) + 100) >= math.log(100)
        assert low <= over.any(axis=0).mean() <= high
        assert over[: fewest_images(n, 0.01) - 1].any(axis=0).mean() < 1


def test_bad_input() -> None:
    with pytest.raises(UserError, match="between 0 and 1, got 1"):
        DriftTest(["a"], [[1.0]], rate=1)
    with pytest.raises(UserError, match="the reference is empty"):
        DriftTest(["a"], np.zeros((0, 1)))
    with pytest.raises(UserError, match=r"rows of 2 features expected, got an array of shape \(3, 1\)"):
        DriftTest(["a", "b"], np.zeros((3, 2))).update(np.zeros((3, 1)))
