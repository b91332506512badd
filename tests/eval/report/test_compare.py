"""Two sweeps against each other: who is paired with whom, what that gives, and what is said of the rest."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nnunet_robust.cli.main import main
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.report.compare import Comparison, compare
from nnunet_robust.eval.report.compare_page import comparison_sentences, manifest_differences, write_comparison
from nnunet_robust.eval.report.shared.read import read_sweep
from nnunet_robust.eval.results.display_names import DisplayNames
from nnunet_robust.eval.results.manifest import Manifest
from tests.eval.sweep_output import MODELS, write_sweep_output

PLAIN, NOSKIP = (name.removesuffix("_seed1") for name in MODELS)
GAIN = 0.02


def _changed(out: Path, to: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    """A copy of a sweep's folder with other results."""
    shutil.copytree(out, to)
    results = pd.read_csv(out / "results.csv", dtype={"fold": str})
    change(results).to_csv(to / "results.csv", index=False)
    return to


def _manifest(out: Path, **changes: object) -> Path:
    file = out / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return out


def _gain(results: pd.DataFrame) -> pd.DataFrame:
    """The plain model gains, a little more in some patients; the other one stays."""
    number = results["patient"].str[1:].astype(int)
    better = results["dice"] + GAIN + 0.001 * (number - number.mean())
    return results.assign(dice=better.where(results["model"] == MODELS[0], results["dice"]))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = write_sweep_output(tmp_path_factory.mktemp("compare") / "before", labels=("disc", "ring"), pictures=False)
    cases = {f"tex_{i:03d}": f"digest{i}" for i in range(12)}
    return _manifest(out, identity={"dataset": "Dataset501_Textures", "precision": "exact", "cases": cases})


@pytest.fixture(scope="module")
def after(before: Path) -> Path:
    return _changed(before, before.parent / "after", _gain)


def _compare(first: Path, second: Path) -> Comparison:
    return compare(read_sweep(first), read_sweep(second))


def test_the_same_cases_are_paired_by_patient(before: Path, after: Path) -> None:
    comparison = _compare(before, after)
    table = comparison.table.set_index(["architecture", "perturbation", "level"])
    assert len(table) == 2 * (1 + 4 + 4)
    assert comparison.left_out == []
    assert table["paired"].all()
    here, there = (pd.read_csv(folder / "results.csv") for folder in (before, after))
    for (architecture, perturbation, level), row in table.iterrows():
        means = []
        for results in (here, there):
            rows = results[
                results["model"].eq(f"{architecture}_seed1")
                & results["perturbation"].eq(perturbation)
                & results["level"].eq(level)
            ]
            means.append(rows.groupby("patient")["dice"].mean())
        differences = (means[1] - means[0]).to_numpy()
        assert (row["first"], row["second"]) == pytest.approx((means[0].mean(), means[1].mean()))
        assert row["change"] == pytest.approx(differences.mean(), abs=1e-12)
        assert (row["n_first"], row["n_cases_second"]) == (12, 12)
        if architecture == NOSKIP:
            assert (row["change"], row["low"], row["high"], row["p"]) == (0, 0, 0, 1)
            continue
        assert row["p"] == pytest.approx(stats.wilcoxon(differences).pvalue)
        oracle = stats.bootstrap((differences,), np.mean, n_resamples=20_000, rng=np.random.default_rng(5))
        width = np.ptp(oracle.confidence_interval)
        assert np.abs(np.subtract(oracle.confidence_interval, (row["low"], row["high"]))).max() < 0.08 * width
        assert row["change"] == pytest.approx(GAIN, abs=1e-9)


def test_holm_is_over_the_levels_and_architectures_of_a_perturbation(before: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    noisy = _changed(
        before, tmp_path / "noisy", lambda r: r.assign(dice=r["dice"] + rng.normal(0.01, 0.02, len(r)) * r["level"])
    )
    for name, part in _compare(before, noisy).table.groupby("perturbation"):
        p = np.sort(part["p"])
        stepped = np.maximum.accumulate(np.minimum(1, p * (len(p) - np.arange(len(p)))))
        np.testing.assert_allclose(np.sort(part["p_holm"]), stepped)
        if name != "clean":
            assert len(np.unique(p)) > 4


def test_a_case_that_one_sweep_lacks_is_left_out_of_both_and_named(before: Path, after: Path, tmp_path: Path) -> None:
    fewer = _changed(after, tmp_path / "fewer", lambda r: r[~r["case"].isin(["tex_003", "tex_007"])])
    comparison = _compare(before, fewer)
    assert set(comparison.table["n_first"]) == set(comparison.table["n_second"]) == {10}
    (said,) = comparison.left_out
    assert "clean, speckle noise, Gaussian blur" in said
    assert "2 of 12 cases (tex_003, tex_007) of the first sweep are left out." in said
    kept = pd.read_csv(before / "results.csv").query("case not in ['tex_003', 'tex_007'] and perturbation == 'clean'")
    clean = comparison.table.set_index(["architecture", "perturbation"]).loc[(PLAIN, "clean")]
    assert clean["first"].item() == pytest.approx(kept.loc[kept["model"] == MODELS[0], "dice"].mean())
    assert set(comparison.points["n_patients"]) == {10}


def test_cases_of_one_name_with_other_files_are_not_paired(before: Path, after: Path, tmp_path: Path) -> None:
    other = shutil.copytree(after, tmp_path / "other")
    cases = {f"tex_{i:03d}": f"digest{i}" for i in range(12)} | {"tex_004": "another"}
    _manifest(other, identity={"cases": cases})
    comparison = _compare(before, other)
    assert set(comparison.table["n_first"]) == {11}
    assert any("tex_004 has other files in the second sweep: not paired." in said for said in comparison.left_out)
    _manifest(other, identity={"cases": {name: f"new {digest}" for name, digest in cases.items()}})
    unpaired = _compare(before, other)
    assert not unpaired.table["paired"].any()
    assert any("no case is in both sweeps: compared unpaired" in said for said in unpaired.left_out)


def test_two_sites_are_compared_as_two_samples(before: Path, tmp_path: Path) -> None:
    site = write_sweep_output(tmp_path / "site", n_cases=20, dataset="Dataset502_Site", pictures=False)
    changed = _changed(site, tmp_path / "worse", lambda r: r.assign(dice=(r["dice"] - 0.05).clip(0)))
    results = pd.read_csv(before / "results.csv")
    results[results["label"] == "disc"].replace("disc", "foreground").to_csv(tmp_path / "one.csv", index=False)
    here = shutil.copytree(before, tmp_path / "here")
    shutil.copy(tmp_path / "one.csv", here / "results.csv")
    comparison = _compare(here, changed)
    assert list(comparison.matched) == ["Dataset501_Textures and Dataset502_Site"]
    table = comparison.table
    assert not table["paired"].any()
    assert table[["p", "p_holm"]].isna().all(axis=None)
    assert set(table["n_first"]) == {12}
    assert set(table["n_second"]) == {20}
    row = table.set_index(["architecture", "perturbation", "level"]).loc[(PLAIN, "speckle_noise", 0.2)]
    samples = []
    for folder in (here, changed):
        rows = pd.read_csv(folder / "results.csv").query("perturbation == 'speckle_noise' and level == 0.2")
        samples.append(rows.loc[rows["model"] == MODELS[0], "dice"].to_numpy())
    assert row["change"] == pytest.approx(samples[1].mean() - samples[0].mean())
    welch = stats.ttest_ind(samples[1], samples[0], equal_var=False).confidence_interval()
    assert (row["low"], row["high"]) == pytest.approx(tuple(welch), abs=0.25 * (welch.high - welch.low))


def test_architectures_are_matched_by_name_then_by_trainer(before: Path, after: Path, tmp_path: Path) -> None:
    def elsewhere(results: pd.DataFrame) -> pd.DataFrame:
        renamed = {MODELS[0]: f"{MODELS[0]}@Dataset501_Textures", MODELS[1]: "nnUNetTrainerUNETR_2epochs"}
        return results.assign(model=results["model"].map(renamed))

    comparison = _compare(before, _changed(after, tmp_path / "elsewhere", elsewhere))
    (matched,) = comparison.matched.values()
    assert matched == {PLAIN: f"{PLAIN}@Dataset501_Textures"}
    assert set(comparison.table["architecture"]) == {PLAIN}
    assert set(comparison.points["line"]) == {PLAIN}
    said = "\n".join(comparison.left_out)
    assert f"{NOSKIP} is in the first sweep only." in said
    assert "nnUNetTrainerUNETR_2epochs is in the second sweep only." in said
    assert f"{PLAIN} (nnUNetPlans, 2d) of the first sweep is compared with {PLAIN}@Dataset501_Textures" in said


def test_seeds_of_an_architecture_are_averaged_before_the_pairing(before: Path, after: Path, tmp_path: Path) -> None:
    def two_seeds(results: pd.DataFrame) -> pd.DataFrame:
        second = results.assign(model=results["model"].str.replace("seed1", "seed2"), dice=results["dice"] - 0.01)
        return pd.concat([results, second])

    comparison = _compare(before, _changed(after, tmp_path / "seeds", two_seeds))
    clean = comparison.table.set_index(["perturbation", "architecture"]).loc[("clean", PLAIN)]
    assert clean["change"].item() == pytest.approx(GAIN - 0.005)
    assert set(comparison.table["n_first"]) == {12}
    assert comparison.table["paired"].all()


def test_levels_and_perturbations_of_one_sweep_only_are_said(before: Path, after: Path, tmp_path: Path) -> None:
    def fewer(results: pd.DataFrame) -> pd.DataFrame:
        return results[(results["perturbation"] != "gaussian_blur") & (results["level"] != 0.3)]

    comparison = _compare(before, _changed(after, tmp_path / "fewer", fewer))
    assert set(comparison.table["perturbation"]) == {"clean", "speckle_noise"}
    assert 0.3 not in set(comparison.table["level"])
    said = "\n".join(comparison.left_out)
    assert "speckle noise: level 0.3 is in the first sweep only." in said
    assert "Gaussian blur: this is in the first sweep only" in said


def test_nothing_in_common_is_refused_in_one_line(before: Path, after: Path, tmp_path: Path) -> None:
    stranger = _changed(after, tmp_path / "stranger", lambda r: r.assign(model="nnUNetTrainerOther_" + r["fold"]))
    with pytest.raises(UserError, match="no architecture under the same perturbation"):
        _compare(before, _changed(stranger, tmp_path / "one", lambda r: r.drop_duplicates(_CASE)))
    two = _changed(before, tmp_path / "two", lambda r: pd.concat([r.assign(dataset="A"), r.assign(dataset="B")]))
    with pytest.raises(UserError, match=r"holds A, B.*sweeps that have a dataset in common"):
        _compare(before, two)


_CASE = ["case", "perturbation", "level", "label"]


def test_one_patient_gives_means_and_no_interval(tmp_path: Path) -> None:
    first = write_sweep_output(tmp_path / "first", n_cases=1, pictures=False)
    second = _changed(first, tmp_path / "second", _gain)
    table = _compare(first, second).table
    assert table[["low", "high"]].isna().all(axis=None)
    assert (table["p"] == 1).all()
    page = write_comparison(first, second).read_text()
    assert "None of the 16 changes" in page
    assert "With 1 paired patient p cannot be below 1," in page
    assert "nan" not in re.sub(r"<script.*?</script>|<[^>]*>", "", page, flags=re.DOTALL).lower()


def test_constant_scores_give_an_interval_of_no_width(tmp_path: Path) -> None:
    first = write_sweep_output(tmp_path / "first", n_cases=4, dataset="A", pictures=False)
    here = _changed(first, tmp_path / "here", lambda r: r.assign(dice=0.5))
    there = _changed(first, tmp_path / "there", lambda r: r.assign(dice=0.75, dataset="B"))
    table = _compare(here, there).table
    assert (table[["change", "low", "high"]] == 0.25).all(axis=None)


# ---- the page ----


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_says_what_changed_and_stands_alone(before: Path, after: Path, tmp_path: Path) -> None:
    page = write_comparison(before, after, tmp_path / "new")
    assert page == tmp_path / "new" / "compare.html"
    text = page.read_text()
    plain = re.sub(r"<[^>]*>", "", text)
    clean = _compare(before, after).table.set_index(["perturbation", "architecture"]).loc[("clean", PLAIN)]
    assert f"(a change of +0.020 [{clean['low'].item():.3f}, {clean['high'].item():.3f}]) for {PLAIN}" in plain
    assert "12 images that both sweeps have" in plain
    assert "Of 16 changes" in plain
    assert "8 have an interval above zero" in plain
    assert "Nothing: both sweeps have the same architectures, cases and levels." in plain
    assert "Both sweeps are of the same 2 checkpoints." in plain
    assert plain.count("paired by patient") >= 18
    parsed = _Page(text)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in parsed.tags:
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:") or value.lstrip("#") in ids
    assert (
        len([1 for tag, _ in parsed.tags if tag == "svg"]) == 2 * 2 + 2
    )  # two architectures, two perturbations, legend
    assert write_comparison(before, after, tmp_path / "new").read_text() == text


def test_the_command_takes_two_sweeps_and_writes_into_the_second(
    before: Path, after: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(after, tmp_path / "copy")
    assert main(["report", "--compare", str(before), str(copy)]) == 0
    assert capsys.readouterr().out.strip() == str(copy / "compare.html")
    assert (copy / "compare.html").is_file()
    assert main(["report", "--compare", str(before)]) == 2
    assert "--compare takes two sweeps, got 1" in capsys.readouterr().err


def test_sentences_tell_the_direction() -> None:
    rows = [("clean", "A", 0.0, 0.9, 0.8, -0.1, -0.15, -0.05), ("noise", "A", 0.2, 0.5, 0.7, 0.2, 0.1, 0.3)]
    columns = ["perturbation", "architecture", "level", "first", "second", "change", "low", "high"]
    table = pd.DataFrame(rows, columns=columns).assign(
        paired=False, n_first=9, n_second=8, n_cases_first=10, n_cases_second=8
    )
    clean, many, largest = comparison_sentences(table, {}, DisplayNames())
    assert "10 cases (9 patients) in the first sweep and 8 images, others, in the second" in clean
    assert "0.900 in the first and 0.800 in the second (a change of −0.100 [−0.150, −0.050]) for A" in clean
    assert many.startswith("Of 1 change (")
    assert "1 has an interval above zero" in many
    assert "A under noise at level 0.2: 0.500 in the first and 0.700 in the second (a change of +0.200" in largest


def test_manifests_are_compared_setting_by_setting() -> None:
    def manifest(torch: str, digest: str, seed: int) -> Manifest:
        stored = {
            "dataset": "A",
            "seed": seed,
            "identity": {"dataset": "A", "seed": seed, "precision": "exact", "cases": {"a": torch}},
            "versions": {"torch": torch, "numpy": "2"},
            "models": {"m": {"folder": torch, "checkpoints": {"0": digest * 20}, "choices": {"backend": "torch"}}},
            "pictures": {"cases": {"good": torch}},
        }
        return Manifest.from_json(stored)

    differs, same = manifest_differences(manifest("2.9", "ab", 0), manifest("2.10", "cd", 0))
    assert differs == [("versions: torch", "2.9", "2.10"), ("checkpoint of m, fold 0", "ab" * 8, "cd" * 8)]
    assert same == ["seed", "identity: precision", "versions: numpy", "backend of m"]
    differs, _ = manifest_differences(manifest("2.9", "ab", 0), Manifest.from_json({"seed": 1}))
    assert ("seed", "0", "1") in differs
    assert ("versions: numpy", "2", "–") in differs
