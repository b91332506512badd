"""The registry of sections: nothing is forgotten, and what a section has is on the page, in its place."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from nnunet_robust import pages
from nnunet_robust.eval.report import Analysis, analyse, sections, write_page
from nnunet_robust.eval.report.sections import SECTIONS
from nnunet_robust.pages.plots import line_styles
from tests.eval.attacked_output import write_attacked_output
from tests.eval.report.pages import Page, section_text, tables
from tests.eval.sweep_output import MODELS, write_sweep_output

LEVELS = {"speckle_noise": [0.1]}


@pytest.fixture(scope="module")
def analyses(tmp_path_factory: pytest.TempPathFactory) -> list[Analysis]:
    """Reports that have every section between them."""
    root = tmp_path_factory.mktemp("sweeps")
    models = (*MODELS, "nnUNetTrainerUNETR")
    sizes = write_sweep_output(root / "sizes", models, 6, levels=LEVELS, pictures=False)
    results = pd.read_csv(sizes / "results.csv", dtype={"fold": str})
    sizes_of = dict(zip(models, ("64x64", "96x96", "96x96"), strict=True))
    results["patch_size"] = results["tile_size"] = results["model"].map(sizes_of)
    # a model that finds nothing on clean images: the warnings have something to say
    results.loc[(results["model"] == models[2]) & (results["perturbation"] == "clean"), "n_pred"] = 0
    results.to_csv(sizes / "results.csv", index=False)
    with_denoising = (MODELS[0], f"{MODELS[0]}+denoise")
    folders = [
        write_sweep_output(
            root / "confidence", MODELS, 4, ("disc", "ring"), LEVELS, pictures=False, uncertainty=True,
            calibrated=MODELS, experts=True,
        ),
        write_attacked_output(root / "attacked", n_cases=3),
        write_sweep_output(root / "denoised", with_denoising, 3, levels=LEVELS, pictures=False),
        sizes,
    ]  # fmt: skip
    return [analyse([folder]) for folder in folders]


def test_every_module_is_in_the_registry_and_every_template_is_used() -> None:
    modules = {path.stem for path in Path(str(sections.__file__)).parent.glob("*.py")} - {"__init__"}
    assert Counter(section.name.replace("-", "_") for section in SECTIONS) == Counter(modules)
    templates = Path(str(pages.__file__)).parent / "templates" / "sections"
    assert {section.template for section in SECTIONS} == {path.name.partition(".")[0] for path in templates.iterdir()}


def test_names_of_tables_and_groups_are_unique() -> None:
    for names in (
        [table.name for section in SECTIONS for table in section.tables],
        [group for section in SECTIONS for group in section.groups],
    ):
        assert len(names) == len(set(names))


def test_every_figure_and_table_is_on_the_page_in_its_section(analyses: list[Analysis], tmp_path: Path) -> None:
    """A figure whose group has no title in its section would be in files alone."""
    shown, with_figures, with_tables = set(), set(), set()
    for analysis in analyses:
        html = write_page(analysis, tmp_path / "report.html").read_text(encoding="utf-8")
        links = {attributes["href"] for attributes in Page(html).named("a")}
        for section in (section for section in SECTIONS if f'<section id="{section.name}"' in html):
            shown.add(section.name)
            text = section_text(html, section.name)
            assert f"#{section.name}" in links
            drawn = {attributes["aria-label"] for attributes in Page(text).named("div") if "aria-label" in attributes}
            figures = list(section.figures(analysis, line_styles(analysis.architectures)))
            assert {figure.alt for figure in figures} <= drawn
            titles = {table.title for table in section.all_tables(analysis)}
            assert titles <= set(tables(text))
            with_figures |= {figure.group for figure in figures}
            with_tables |= titles
    assert shown == {section.name for section in SECTIONS}
    assert with_figures == {group for section in SECTIONS for group in section.groups}
    assert with_tables == {table.title for section in SECTIONS for table in section.tables}
