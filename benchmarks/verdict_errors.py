"""How often the verdict is wrong, and how often it finds what is there: simulated studies whose truth is known.

    python benchmarks/verdict_errors.py [alike trainings shapes planted pages] [--studies 1000] [--pages 50]

The first four go through the verdict (`decide`, `recipes`), `pages` through all of it, from `results.csv` to the
sentence in the page. Prints the tables of docs/statistics.md.
"""

from __future__ import annotations

import argparse
import html
import re
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

if __package__:
    from benchmarks.simulated_studies import Design, Study, draw
else:
    from simulated_studies import Design, Study, draw

from nnunet_robust.eval.report import analyse, printed_answer, write_page
from nnunet_robust.eval.report.shared.answer import all_verdicts, answers
from nnunet_robust.eval.statistics.bootstrap import CONFIDENCE
from nnunet_robust.eval.statistics.recipe import recipes
from nnunet_robust.eval.statistics.verdict import MARGIN, Verdict, decide

N_RESAMPLES = 299
"""As exact as 1,999 (the 15th largest of 299 is an exact 95 % quantile, on average), and faster."""

ERRORS = (0.4, 1.0, 3.0)  # standard error of a difference, in margins
NAMED = re.compile(r"\btake\b", flags=re.IGNORECASE)  # only where the sentence says to take another one
OF_THESE = "these trained models"

Found = dict[tuple[str, str, float], Verdict]


class Outcome(NamedTuple):
    """What a study made of the truth.

    Attributes:
        settled: whether a level is settled where no architecture is better.
        switch: whether another one than the baseline is recommended.
        told: whether two that are alike are told apart, at any level.
        power: share of the levels with a better architecture that are settled on it; NaN without any.
        right: whether it is recommended anywhere.
    """

    settled: float
    switch: float
    told: float
    power: float
    right: float


def outcome(found: Found, design: Design) -> Outcome:
    """Compare verdicts with the truth that a study was drawn by."""
    (recipe,) = recipes(found, {key[0]: design.names[0] for key in found})
    better, last = design.better, design.names[-1]
    taken = {name for switch in recipe.switches for name in switch.take} | {recipe.take}
    both = list(zip(found.values(), better, strict=True))
    told = any(
        pair.low > 0 or pair.high < 0
        for verdict, planted in both
        for names, pair in verdict.pairs.items()
        if not (planted and last in names)
    )
    power = [verdict.best == (last,) for verdict, planted in both if planted]
    return Outcome(
        any(verdict.settled and not (planted and verdict.best == (last,)) for verdict, planted in both),
        taken != {recipe.baseline},
        told,
        float(np.mean(power)) if power else np.nan,
        last in taken,
    )


def simulate(
    design: Design, n_studies: int, margins: Sequence[float] = (MARGIN,), n_resamples: int = N_RESAMPLES
) -> list[Outcome]:
    """Average the outcomes of many studies, for each margin.

    The intervals do not depend on the margin, so that each study is decided once.
    """
    of_studies = []
    for number in range(n_studies):
        found = decide(draw(design, number, repr(design)).samples, n_resamples=n_resamples, seed=number)
        of_studies.append(
            [outcome({key: replace(one, margin=margin) for key, one in found.items()}, design) for margin in margins]
        )
    return [Outcome(*row) for row in np.mean(np.array(of_studies, dtype=float), axis=0)]


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table in markdown, row by row as they come."""
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def alike(n_studies: int) -> None:
    def rows() -> Iterable[Sequence[object]]:
        for n_names in (2, 3, 5):
            for n in (5, 6, 10, 20, 40, 100):
                for rho in (0.5, 0.0) if n == 10 else (0.5,):
                    design = Design((1,) * n_names, n, rho=rho)
                    found = simulate(design, n_studies, [design.error / error for error in ERRORS])
                    shares = [percent(one.switch) for one in found]
                    yield n_names, n, rho, percent(found[0].settled), percent(found[0].told), *shares

    switches = [f"switch, SE {error:g} margins" for error in ERRORS]
    table(
        "Architectures that are alike, 13 conditions, one training each: percent of studies with any",
        ["architectures", "patients", "rho", "level settled", "pair told apart", *switches], rows(),
    )  # fmt: skip
    design = Design((1, 1, 1), 20)
    found = simulate(design, n_studies, n_resamples=1999)[0]
    print(f"\nThe same with 1,999 draws (3 architectures, 20 patients): {percent(found.told)} % told apart.")


def trainings(n_studies: int) -> None:
    def rows() -> Iterable[Sequence[object]]:
        for of_names in ((3, 3), (5, 5), (3, 3, 3), (5, 5, 5), (2, 2, 2), (3, 1), (3, 1, 1), (1, 1, 1)):
            for n, rho in ((10, 0.5), (20, 0.5), (20, 0.0)):
                design = Design(of_names, n, rho=rho, training_sd=0.02)
                (found,) = simulate(design, n_studies)
                shares = [percent(share) for share in (found.settled, found.told, found.switch)]
                yield ", ".join(map(str, of_names)), n, rho, *shares

    table(
        "Architectures that are alike, trainings differ (SD .02; SE by patients .01), 13 conditions: percent of "
        "studies with any",
        ["trainings", "patients", "rho", "level settled", "pair told apart", "switch"], rows(),
    )  # fmt: skip


def shapes(n_studies: int) -> None:
    said = {
        "heavy": "Student's t, 3 degrees of freedom",
        "dice": "beta(19, 1), 3 % failures",
        "failing": "same means, one fails in 5 %",
    }

    def rows() -> Iterable[Sequence[object]]:
        for shape, name in said.items():
            for n in (6, 10, 20, 40, 100):
                (found,) = simulate(Design((1, 1, 1), n, shape=shape), n_studies)  # type: ignore[arg-type]
                yield name, n, percent(found.settled), percent(found.told), percent(found.switch)

    table(
        "Three architectures with the same means, other distributions, 13 conditions: percent of studies with any",
        ["scores", "patients", "level settled", "pair told apart", "switch"], rows(),
    )  # fmt: skip


def limit(n_patients: int, effect: float, n_comparisons: int) -> float:
    """The power of a t test of one difference among many independent ones, by Sidak's correction.

    Args:
        n_patients: patients.
        effect: the difference in standard errors.
        n_comparisons: how many there are.
    """
    one = 1 - CONFIDENCE ** (1 / n_comparisons)
    critical = stats.t.ppf(1 - one / 2, n_patients - 1)
    return float(stats.nct.sf(critical, n_patients - 1, effect))


def planted(n_studies: int) -> None:
    def rows() -> Iterable[Sequence[object]]:
        for n_names, n_levels in ((2, 13), (3, 4)):
            for only in ("", "speckle_noise"):
                for n, rho in ((5, 0.5), (6, 0.5), (10, 0.5), (20, 0.5), (20, 0.0), (30, 0.5), (40, 0.5), (100, 0.5)):
                    design = Design((1,) * n_names, n, n_levels, rho=rho, planted=0.05, only=only)
                    (found,) = simulate(design, max(n_studies // 4, 1))  # each has several such levels
                    n_pairs = n_names * (n_names - 1) // 2
                    of_one = limit(n, design.planted / design.error, len(design.conditions) * n_pairs)
                    shares = [percent(share) for share in (found.power, found.right, found.told)]
                    where = "one perturbation" if only else "everywhere"
                    yield n_names, len(design.conditions) * n_pairs, where, n, rho, *shares, percent(of_one)

    table(
        "One architecture better by .05 (SE .01): percent",
        ["architectures", "comparisons", "where", "patients", "rho", "of such levels settled", "studies that recommend "
         "it", "studies with others told apart", "limit of one difference (Sidak, t)"], rows(),
    )  # fmt: skip


class Told(NamedTuple):
    """What the page of a study says.

    Attributes:
        take: the sentence.
        evidence: the sentence after it.
        printed: the lines for a terminal.
        settled: whether it calls any level settled.
        text: the page without its tags; empty where none was written.
    """

    take: str
    evidence: str
    printed: list[str]
    settled: bool
    text: str

    @property
    def names_another(self) -> bool:
        """Whether the sentence says to take another one than the baseline."""
        return bool(NAMED.search(self.take))

    @property
    def of_these_models(self) -> bool:
        """Whether both sentences say that they are about these trained models; of a refusal the second one."""
        refused = self.take.startswith("No architecture can be told from another")
        return OF_THESE in self.evidence and (refused or OF_THESE in self.take)


def told(study: Study, folder: Path, page: bool) -> Told:
    """Write a study as a sweep's output, and read what the report makes of it.

    Args:
        study: to write.
        folder: for `results.csv`, `manifest.json` and the page.
        page: whether to write the page, too.
    """
    analysis = analyse([study.write(folder)])
    (answer,) = answers(analysis)
    text = ""
    if page:
        source = write_page(analysis, folder / "report.html").read_text(encoding="utf-8")
        text = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", "", source)))
        assert answer.take in text, answer.take
        assert answer.evidence in text, answer.evidence
    settled = any(verdict.settled for verdict in all_verdicts(analysis).values())
    return Told(answer.take, answer.evidence, printed_answer(analysis), settled, text)


PAGES = {
    "alike, 2 x 1 training, 10 patients": Design((1, 1), 10),
    "alike, 3 x 1, 20": Design((1, 1, 1), 20),
    "alike, 5 x 1, 6": Design((1,) * 5, 6),
    "training SD .02, 3 x 3, 20": Design((3, 3, 3), 20, training_sd=0.02),
    "training SD .02, 2 x 5, 20": Design((5, 5), 20, training_sd=0.02),
    "training SD .02, 3 x 1, 20": Design((1, 1, 1), 20, training_sd=0.02),
    ".05 better, 2 x 1, 20": Design((1, 1), 20, planted=0.05),
    ".05 better under speckle noise, 3 x 1, 40": Design((1, 1, 1), 40, planted=0.05, only="speckle_noise"),
    ".05 better, 3 x 1, 5": Design((1, 1, 1), 5, planted=0.05),
}


def pages(n_studies: int, written: int = 2) -> None:
    def rows() -> Iterable[Sequence[object]]:
        for name, design in PAGES.items():
            with tempfile.TemporaryDirectory() as folder:
                found = [
                    told(draw(design, "page", number), Path(folder) / str(number), number < written)
                    for number in range(n_studies)
                ]
            settled, another = (np.mean([getattr(one, key) for one in found]) for key in ("settled", "names_another"))
            trained = np.mean(["these trained models" in one.evidence for one in found])
            yield (
                name,
                *map(percent, (settled, another, trained)),
                max(len(one.printed) for one in found),
                found[0].take,
            )

    table(
        f"Through the whole page, {n_studies} studies each: percent",
        ["studies", "a level settled", "another one than the baseline named", '"about these trained models"',
         "most lines on the terminal", "the first one's sentence"], rows(),
    )  # fmt: skip


PARTS = {"alike": alike, "trainings": trainings, "shapes": shapes, "planted": planted, "pages": pages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--studies", type=int, default=1000, help="studies for each row")
    parser.add_argument("--pages", type=int, default=50, help="studies for each row of `pages`")
    arguments = parser.parse_args()
    for name in arguments.parts or PARTS:
        start = time.process_time()
        PARTS[name](arguments.pages if name == "pages" else arguments.studies)
        print(f"\n{name}: {time.process_time() - start:.0f} s of a core", flush=True)


if __name__ == "__main__":
    main()
