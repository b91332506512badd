"""How soon does `nnunet-robust monitor` see that images change, and how often for nothing? Real images, a real model.

    python benchmarks/drift_detection.py measure -m MODEL -i IMAGES -o MEASURED.jsonl --perturb gaussian_blur=1,2
    python benchmarks/drift_detection.py measure -m MODEL -i OTHER_DATASETS_IMAGES -o OTHER.jsonl
    python benchmarks/drift_detection.py streams MEASURED.jsonl --other "another dataset=OTHER.jsonl"
    python benchmarks/drift_detection.py cost -m MODEL -i IMAGES

The images must be of cases that the model was not trained on. `measure` does so once for each case and condition, and
goes on where it was stopped. `streams` draws references and streams from these, no case twice in a reference and its
stream: a draw is a random order of the cases, so that without a change all of them are exchangeable. A stream that
changes has some clean images first, then perturbed ones of other cases.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_robust.common.console import quiet
from nnunet_robust.common.seeding import numpy_generator, torch_generator
from nnunet_robust.deployment.drift.martingale import DriftTest
from nnunet_robust.deployment.drift.measuring import Meter, new_images
from nnunet_robust.deployment.drift.reference import MeasuredImage, Reference, image_from_json, image_to_json
from nnunet_robust.eval.inference.loading import load_model
from nnunet_robust.eval.inference.predictor import Predictor
from nnunet_robust.eval.sweep.conditions import conditions_for
from nnunet_robust.perturbations import perturb

CLEAN = "clean"
RATE = 0.01


def load(given: argparse.Namespace) -> tuple[Predictor, list[Any]]:
    model = load_model(given.model, None, "checkpoint_final.pth", torch.device("cpu"), given.mirroring, None)
    predictor = Predictor(model, ("folds", "mirroring"), given.precision)
    images = new_images(given.images, str(model.predictor.dataset_json["file_ending"]), model.channels)
    return predictor, images[: given.cases]


def read(predictor: Predictor, image: Any) -> tuple[np.ndarray, dict[str, Any]]:
    with quiet():
        array, properties = predictor.model.reader.read_images([str(path) for path in image.images])
    return array.astype(np.float32), properties


def measure(given: argparse.Namespace) -> None:
    predictor, images = load(given)
    meter = Meter(predictor)
    conditions = conditions_for(given.perturb, None, None) if given.perturb else {}
    wanted = [(CLEAN, 0.0), *((name, level) for name, levels in conditions.items() for level in levels)]
    done = {(line["condition"], line["case"]) for line in lines(given.output)} if given.output.exists() else set()
    with given.output.open("a", encoding="utf-8") as file:
        for number, image in enumerate(images):
            array, properties = read(predictor, image)
            for name, level in wanted:
                condition = name if name == CLEAN else f"{name} {level:g}"
                first = 0 if name == CLEAN else len(images) - (given.perturbed or len(images))
                if number < first or (condition, image.name) in done:
                    continue
                changed = array
                if name != CLEAN:
                    generator = torch_generator(0, image.name, name, 0)
                    spacing = tuple(float(s) for s in properties["spacing"])
                    changed = perturb(torch.from_numpy(array), name, level, generator, None, spacing).numpy()
                found = MeasuredImage(image.name, image.name, image.name, *meter.features(changed, properties))
                file.write(json.dumps({"condition": condition, **image_to_json(found)}) + "\n")
                file.flush()


def lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def by_condition(path: Path) -> dict[str, list[MeasuredImage]]:
    found: dict[str, list[MeasuredImage]] = {}
    for line in lines(path):
        found.setdefault(line["condition"], []).append(image_from_json(line))
    return found


def run(references: list[Reference], coming: list[list[MeasuredImage]]) -> tuple[np.ndarray, np.ndarray]:
    """Streams of one length, with their references, as columns of one test, which is quicker than one after the other.

    Returns:
        Which image of each stream sets off its alarm, from 1; 0: none. And bool (streams, features), which are named.
    """
    names = references[0].names
    columns = [str(i) for i in range(len(references) * len(names))]
    rows, measured = (np.hstack([getattr(r, what) for r in references]) for what in ("rows", "measured"))
    test = DriftTest(columns, rows, RATE, 0, measured)
    test.update(np.hstack([[r.row(image) for image in stream] for r, stream in zip(references, coming, strict=True)]))
    over = test.evidence.reshape(len(test), len(references), len(names)) >= np.log(len(names) / RATE)
    alarm = over.any(axis=2)
    return np.where(alarm.any(axis=0), alarm.argmax(axis=0) + 1, 0), over.any(axis=0)


def reference_of(images: list[MeasuredImage]) -> Reference:
    return Reference.of(images, {}, CLEAN, RATE)


def false_alarms(clean: list[MeasuredImage], sizes: list[int], streams: int) -> None:
    for n in sizes:
        references, coming = [], []
        for number in range(streams):
            order = numpy_generator("detection", "clean", n, number).permutation(len(clean))
            references.append(reference_of([clean[i] for i in order[:n]]))
            coming.append([clean[i] for i in order[n:]])
        alarms = int(np.count_nonzero(run(references, coming)[0]))
        print(
            f"False alarms, reference of {n}, streams of the other {len(clean) - n} clean images in random order: "
            f"{alarms} of {streams} ({100 * alarms / streams:.1f} %) at a rate of {100 * RATE:g} %\n",
            flush=True,
        )


def delays(
    clean: list[MeasuredImage], changed: dict[str, list[MeasuredImage]], n: int, before: int, most: int, streams: int
) -> None:
    rows = []
    for condition, images in changed.items():
        references, coming = [], []
        for number in range(streams):
            rng = numpy_generator("detection", "delay", condition, n, before, number)
            after = [images[i] for i in rng.permutation(len(images))[:most]]
            free = [image for image in clean if image.case not in {other.case for other in after}]
            drawn = [free[i] for i in rng.permutation(len(free))[: n + before]]
            references.append(reference_of(drawn[:n]))
            coming.append(drawn[n:] + after)
        alarms, moved = run(references, coming)
        found = np.where(alarms > before, alarms - before, np.inf)  # an alarm before the change does not count
        shares = sorted(zip(-moved.mean(axis=0), references[0].names, strict=True))
        length = min(most, len(images))
        caught = np.isfinite(found).mean()
        median = f"{np.median(found):.0f}" if np.isfinite(np.median(found)) else "-"
        late = f"{np.quantile(found, 0.9, method='higher'):.0f}" if caught >= 0.9 else "-"
        often = ", ".join(f"{name} {-100 * share:.0f} %" for share, name in shares[:3] if share < 0)
        rows.append(f"| {condition} | {median} | {late} | {100 * caught:.0f} % of streams within {length} | {often} |")
    print(f"Reference of {n}, {before} clean images before the change, {streams} streams, rate {100 * RATE:g} %.\n")
    print("| change | images to the alarm, median | 90 % of streams by | caught | named by the end of the stream |")
    print("|---|--:|--:|--:|---|")
    print("\n".join(rows) + "\n", flush=True)


def streams(given: argparse.Namespace) -> None:
    found = by_condition(given.measured)
    clean = found.pop(CLEAN)
    changed = dict(found)
    for text in given.other:
        name, _, path = text.partition("=")
        # another dataset's cases may have the same names
        changed[name] = [
            MeasuredImage(f"{name} {i.case}", f"{name} {i.case}", f"{name} {i.case}", i.features, i.activations)
            for i in by_condition(Path(path))[CLEAN]
        ]
    print(f"{len(clean)} clean images, {len(reference_of(clean).names)} features\n")
    false_alarms(clean, given.reference, given.clean_streams)
    for n in given.reference:
        delays(clean, changed, n, given.before, given.after, given.streams)


def cost(given: argparse.Namespace) -> None:
    predictor, images = load(given)
    meter, model = Meter(predictor), predictor.model
    seconds: dict[str, list[float]] = {"prediction": [], "prediction and features": []}
    for image in images:
        array, properties = read(predictor, image)
        began = time.perf_counter()
        with quiet():
            data, found = model.preprocess(array, properties)
            model.export(predictor.window.logits(data), found)
        middle = time.perf_counter()
        meter.features(array, properties)
        seconds["prediction"].append(middle - began)
        seconds["prediction and features"].append(time.perf_counter() - middle)
    for name, values in seconds.items():  # the first also chooses how to run the network
        print(f"{name}: {np.median(values[1:]):.3f} s per image, median of {len(values) - 1}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for name, function in (("measure", measure), ("cost", cost)):
        verb = verbs.add_parser(name)
        verb.set_defaults(run=function)
        verb.add_argument("-m", dest="model", type=Path, required=True)
        verb.add_argument("-i", dest="images", type=Path, required=True)
        verb.add_argument("--cases", type=int, help="the largest number of cases")
        verb.add_argument("--mirroring", action="store_true")
        verb.add_argument("--precision", default="exact")
        if name == "measure":
            verb.add_argument("-o", dest="output", type=Path, required=True)
            verb.add_argument("--perturb", nargs="*", default=[])
            verb.add_argument("--perturbed", type=int, help="number of perturbed cases, the last ones; default: all")
    verb = verbs.add_parser("streams")
    verb.set_defaults(run=streams)
    verb.add_argument("measured", type=Path)
    verb.add_argument("--other", nargs="*", default=[], metavar="NAME=FILE")
    verb.add_argument("--reference", type=int, nargs="*", default=[20])
    verb.add_argument("--before", type=int, default=20, help="clean images before the change")
    verb.add_argument("--after", type=int, default=60, help="images after it, at most")
    verb.add_argument("--streams", type=int, default=200)
    verb.add_argument("--clean-streams", type=int, default=1000)
    given = parser.parse_args()
    given.run(given)


if __name__ == "__main__":
    main()
