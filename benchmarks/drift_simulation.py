"""How often does the test of drift alarm for nothing, and how soon where there is something? In a minute or two.

    python benchmarks/drift_simulation.py

Features are independent draws of a normal distribution; nothing here depends on images. All streams of a row are
columns of one test, of which each is what the test makes of one feature.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np

from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.deployment.drift.martingale import JUMP, DriftTest, jump, payoffs, places

RATE = 0.01
FEATURES = 10


def test_of(reference: np.ndarray, stream: np.ndarray) -> np.ndarray:
    """(n, columns) and (images, columns) -> evidence (images, columns)."""
    test = DriftTest([str(i) for i in range(reference.shape[1])], reference, RATE)
    test.update(stream)
    return test.evidence


def alarms(evidence: np.ndarray, features: int) -> np.ndarray:
    """(images, streams * features) -> (streams,), the image that sets off the alarm, from 1; 0: none."""
    over = evidence.reshape(len(evidence), -1, features).max(axis=2) >= np.log(features / RATE)
    return np.where(over.any(axis=0), over.argmax(axis=0) + 1, 0)


def among_reference_alone(reference: np.ndarray, stream: np.ndarray, seed: str) -> np.ndarray:
    """What `DriftTest` does not do: evidence of places among the reference's images only."""
    rng = numpy_generator("simulation", "alone", seed)
    wealth = np.full((reference.shape[1], payoffs(np.array([0.5])).shape[1]), 1.0)
    wealth /= wealth.shape[1]
    earlier = [sorted(column) for column in reference.T.tolist()]
    gains = []
    for image in stream:
        gain, wealth = jump(wealth, payoffs(places(earlier, image.tolist(), rng.random(len(image)))), JUMP)
        gains.append(gain)
    return np.cumsum(gains, axis=0)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["--:"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def false_alarms(streams: int, images: int) -> str:
    rows = []
    for n in (10, 20, 50, 200):
        rng = numpy_generator("simulation", "false alarms", n)
        shares = []
        for features, length in ((1, images), (FEATURES, images // 5)):
            columns = streams * features
            reference, stream = rng.standard_normal((n, columns)), rng.standard_normal((length, columns))
            shares.append((alarms(test_of(reference, stream), features) > 0).mean())
            if features == 1:
                alone = (alarms(among_reference_alone(reference, stream, str(n)), 1) > 0).mean()
        rows.append([str(n), *(f"{100 * share:.1f} %" for share in shares), f"{100 * alone:.0f} %"])
    head = [
        "reference",
        f"1 feature, {images} images",
        f"{FEATURES} features, {images // 5} images",
        f"not done: places among the reference alone, 1 feature, {images} images",
    ]
    return (
        f"False alarms at a stated rate of {100 * RATE:g} %, {streams} streams, each with its own reference.\n\n"
        + table(head, rows)
    )


def per_reference(references: int, streams: int, images: int) -> str:
    rows = []
    for n in (10, 20, 50, 200):
        rng = numpy_generator("simulation", "per reference", n)
        reference = np.repeat(rng.standard_normal((n, references)), streams, axis=1)
        found = alarms(test_of(reference, rng.standard_normal((images, references * streams))), 1) > 0
        of_each = found.reshape(references, streams).mean(axis=1)
        middle, high = np.quantile(of_each, (0.5, 0.9))
        shares = (of_each.mean(), middle, high, of_each.max())
        above = f"{100 * (of_each > RATE).mean():.0f} %"
        rows.append([str(n), *(f"{100 * share:.2f} %" for share in shares), above])
    head = ["reference", "mean", "median", "90 % are below", "worst", f"references above {100 * RATE:g} %"]
    return (
        f"One reference kept: share of false alarms of each of {references} references over {streams} streams of "
        f"{images} images, 1 feature.\n\n" + table(head, rows)
    )


def delays(streams: int) -> str:
    rows = []
    for n in (10, 20, 50, 200):
        for before in (0, 200):
            row = [str(n), str(before)]
            for size in (0.5, 1.0, 2.0, 4.0):
                rng = numpy_generator("simulation", "delay", n, before, size)
                columns = streams * FEATURES
                stream = rng.standard_normal((before + 150, columns))
                stream[before:, ::FEATURES] += size  # the first feature of each stream
                found = alarms(test_of(rng.standard_normal((n, columns)), stream), FEATURES)
                after = np.where(found > before, found - before, np.inf)
                median = np.median(after)
                row.append(f"{median:.0f}" if np.isfinite(median) else "-")
                row[-1] += f" ({100 * np.isfinite(after).mean():.0f} %)"
            rows.append(row)
    head = ["reference", "images before the change", *(f"{size:g} sd" for size in (0.5, 1, 2, 4))]
    return (
        f"Images from the change to the alarm, median (and share of streams with an alarm within 150 images), rate "
        f"{100 * RATE:g} %, 1 of {FEATURES} features moves, {streams} streams.\n\n" + table(head, rows)
    )


def fewest_images(n_reference: int, rate: float, n_features: int = 1) -> int:
    """The number of images before which no such test can be sure of an alarm, however far all of them have moved.

    Where nothing has changed, the m new images are the highest of all n + m with probability 1 / C(n + m, m). So where
    they are, a martingale is C(n + m, m) on average at most: as long as that is below features / rate, an alarm is not
    certain. `DriftTest`, which does not know when and whither a feature will move, takes longer: see
    benchmarks/drift_simulation.py.

    Args:
        n_reference: images of the reference, >= 1.
        rate: of false alarms, in (0, 1).
        n_features: of which one moves.
    """
    images = 1
    while math.comb(n_reference + images, images) * rate < n_features:
        images += 1
    return images


def fewest(streams: int) -> str:
    rows = []
    for n in (1, 2, 3, 5, 7, 10, 15, 20, 50, 100):
        row = [str(n)]
        for features in (1, FEATURES):
            rng = numpy_generator("simulation", "fewest", n, features)
            columns = streams * features
            stream = rng.standard_normal((150, columns))
            stream[:, ::features] += 100.0  # beyond all that the reference has
            found = alarms(test_of(rng.standard_normal((n, columns)), stream), features)
            at = np.median(np.where(found > 0, found, np.inf))
            median = f"{at:.0f}" if np.isfinite(at) else "-"
            row += [str(fewest_images(n, RATE, features)), f"{median} ({100 * (found > 0).mean():.0f} %)"]
        rows.append(row)
    head = [
        "reference",
        "1 feature: no test is sure before",
        "ours",
        f"1 of {FEATURES}: no test is sure before",
        "ours",
    ]
    return (
        f"A feature that leaves the reference entirely: images to the alarm, rate {100 * RATE:g} %: the fewest at "
        f"which any such test can be sure, and the median of ours (and the share with an alarm within 150), {streams} "
        f"streams.\n\n" + table(head, rows)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--images", type=int, default=500)
    given = parser.parse_args()
    began = time.perf_counter()
    print(false_alarms(given.streams, given.images), flush=True)
    print(per_reference(100, given.streams // 10, given.images // 2), flush=True)
    print(delays(given.streams // 10), flush=True)
    print(fewest(given.streams // 5), flush=True)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
