"""The pages in a real browser: the viewer is worked by keyboard and mouse, nothing is fetched, nothing overflows."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nnunet_robust.eval.report import write_report
from nnunet_robust.eval.report.compare_page import write_comparison
from tests.eval.attacked_output import write_attacked_output
from tests.eval.sweep_output import MODELS, write_sweep_output

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
selenium = pytest.importorskip("selenium", reason="the browser tests need selenium")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="the browser tests need chromium and chromedriver (Debian: chromium-driver)"
)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

THREE = (*MODELS, "nnUNetTrainerAttentionGated_2epochs_50iters_seed1")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    first = write_sweep_output(root / "first", models=THREE, labels=("disc", "ring"))
    second = write_sweep_output(root / "second", n_cases=5, dataset="Dataset502_Others", levels={"salt_noise": [0.1]})
    other = write_sweep_output(root / "other", models=THREE, labels=("disc", "ring"), n_cases=9, pictures=False)
    attacked = write_attacked_output(root / "attacked", models=(*MODELS, f"{MODELS[0]}+denoise"), pictures=True)
    return {
        "attacked": write_report(attacked),
        "report": write_report(first, second, target=root),
        "compare": write_comparison(first, other, root),
    }


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in [*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=str(DRIVER)))
    yield driver
    driver.quit()


def _open(
    browser: webdriver.Chrome, page: Path, width: int = 1280, scheme: str = "light", motion: str = "no-preference"
) -> None:
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)  # of the page before
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": motion}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())


@pytest.fixture
def shown(browser: webdriver.Chrome, pages: dict[str, Path]) -> Callable[..., webdriver.Chrome]:
    """Opens a page, and waits until the viewer has drawn."""

    def show(page: str = "report", **how: Any) -> webdriver.Chrome:
        _open(browser, pages[page], **how)
        if page != "compare":
            _wait(browser, lambda: browser.execute_script("return !!document.getElementById('viewer').dataset.shown"))
        return browser

    return show


def _wait(browser: webdriver.Chrome, condition: Callable[[], Any]) -> None:
    WebDriverWait(browser, 10, poll_frequency=0.05).until(lambda _: condition())


# What the viewer shows, as (place, each canvas's pixels hashed, each caption, what the slider says).
_STATE = """
const hash = (canvas) => {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let h = 0;
  for (const value of pixels) h = (h * 31 + value) | 0;
  return h;
};
const viewer = document.getElementById("viewer");
return [
  viewer.dataset.shown,
  [...viewer.querySelectorAll("canvas")].map(hash),
  [...viewer.querySelectorAll("canvas + figcaption")].map((caption) => caption.textContent),
  viewer.querySelector("input").getAttribute("aria-valuetext"),
  viewer.querySelector("output").textContent,
  viewer.querySelector("[role=status]").textContent,
];
"""


def _state(browser: webdriver.Chrome) -> list[Any]:
    return browser.execute_script(_STATE)


def _slider(browser: webdriver.Chrome) -> Any:
    return browser.find_element(By.CSS_SELECTOR, "#viewer input[type=range]")


def test_the_slider_by_keyboard_changes_pixels_captions_and_words(shown: Callable[..., webdriver.Chrome]) -> None:
    browser = shown()
    place, pixels, captions, said, output, status = _state(browser)
    assert place.endswith("|speckle noise|0 (clean)")
    assert said == "clean image"
    assert output == "0 (clean), step 1 of 5"
    assert len(pixels) == len(captions) == 2 + len(THREE)
    _slider(browser).send_keys(Keys.ARROW_RIGHT)
    _wait(browser, lambda: _state(browser)[0] != place)
    after = _state(browser)
    assert after[0].endswith("|speckle noise|0.1")
    assert all(a != b for a, b in zip(pixels, after[1], strict=True))
    assert all(re.search(r"Dice 0\.\d{3}", caption) for caption in after[2][2:])
    assert after[2][2:] != captions[2:]
    assert after[3] == "speckle noise 0.1"
    assert after[4] == "0.1, step 2 of 5"
    assert status.startswith("clean image. ")
    assert after[5].startswith("speckle noise 0.1. ")
    _slider(browser).send_keys(Keys.END)
    _wait(browser, lambda: _state(browser)[0].endswith("|0.45"))
    _slider(browser).send_keys(Keys.HOME)
    _wait(browser, lambda: _state(browser)[0] == place)
    assert _state(browser)[1] == pixels


def test_the_slider_by_script_and_the_numbers_are_the_results(
    shown: Callable[..., webdriver.Chrome], pages: dict[str, Path]
) -> None:
    import pandas as pd

    browser = shown()
    browser.execute_script(
        "const s = document.querySelector('#viewer input'); s.value = 3; s.dispatchEvent(new Event('input'));"
    )
    _wait(browser, lambda: _state(browser)[0].endswith("|speckle noise|0.3"))
    case = _state(browser)[0].split("|")[0]
    results = pd.read_csv(pages["report"].parent / "first" / "results.csv")
    here = results[(results["case"] == case) & (results["perturbation"] == "speckle_noise") & (results["level"] == 0.3)]
    for model, caption in zip(THREE, _state(browser)[2][2:], strict=True):
        assert f"Dice {here.loc[here['model'] == model, 'dice'].mean():.3f}" in caption


def test_menus_choose_dataset_case_and_perturbation(shown: Callable[..., webdriver.Chrome]) -> None:
    browser = shown()

    def choose(menu: str, text: str) -> list[Any]:
        Select(browser.find_element(By.CSS_SELECTOR, f"[data-menu={menu}] select")).select_by_visible_text(text)
        time.sleep(0.1)
        return _state(browser)

    before = _state(browser)
    blurred = choose("perturbation", "Gaussian blur")
    assert blurred[0].endswith("|Gaussian blur|0 (clean)")
    _slider(browser).send_keys(Keys.ARROW_RIGHT)
    _wait(browser, lambda: _state(browser)[0].endswith("|Gaussian blur|1"))
    cases = [o.text for o in Select(browser.find_element(By.CSS_SELECTOR, "[data-menu=case] select")).options]
    assert [re.sub(r".*\((.*)\)", r"\1", case) for case in cases] == ["good", "median", "bad"]
    bad = choose("case", cases[2])
    assert bad[0] == "tex_011|Gaussian blur|1"  # the perturbation and the level stay
    assert bad[1] != before[1]
    other = choose("dataset", "Dataset502_Others")
    _wait(browser, lambda: "|salt noise|" in _state(browser)[0])
    other = _state(browser)
    assert len(other[1]) == 2 + len(MODELS)


def test_under_an_attack_on_each_model_itself_each_has_its_own_image(shown: Callable[..., webdriver.Chrome]) -> None:
    browser = shown("attacked")
    Select(browser.find_element(By.CSS_SELECTOR, "[data-menu=perturbation] select")).select_by_visible_text("PGD, l∞")
    _wait(browser, lambda: _state(browser)[0].endswith("|PGD, l∞|0 (clean)"))
    clean = _state(browser)
    _slider(browser).send_keys(Keys.END)
    _wait(browser, lambda: _state(browser)[0].endswith("|PGD, l∞|0.05"))
    after = _state(browser)
    assert after[1][:2] == clean[1][:2]  # the clean image, and the ground truth on it
    assert "the clean one" in after[2][0]
    assert all(a != b for a, b in zip(clean[1][2:], after[1][2:], strict=True))
    grey = """
    return [...document.querySelectorAll("#viewer canvas")].map((canvas) => {
      const pixels = canvas.getContext("2d").getImageData(4, 4, 12, 12).data;
      return pixels.reduce((sum, value, i) => sum + (i % 4 === 3 ? 0 : value), 0) / (3 * 144);
    });
    """
    image, _, *own = browser.execute_script(grey)
    assert own == pytest.approx([image / 2 + 60 * at for at in range(3)], abs=5)  # as they were painted


def test_playing_steps_through_the_levels_and_stops(shown: Callable[..., webdriver.Chrome]) -> None:
    browser = shown()
    button = browser.find_element(By.CSS_SELECTOR, "#viewer button")
    assert button.text == "Play"
    button.click()
    assert button.text == "Pause"
    _wait(browser, lambda: _state(browser)[0].endswith("|0.2"))
    button.click()
    assert button.text == "Play"
    place = _state(browser)[0]
    time.sleep(1.1)
    assert _state(browser)[0] == place


def test_who_wants_no_motion_gets_one_step_a_press(shown: Callable[..., webdriver.Chrome]) -> None:
    browser = shown(motion="reduce")
    button = browser.find_element(By.CSS_SELECTOR, "#viewer button")
    assert button.text == "Next"
    button.click()
    _wait(browser, lambda: _state(browser)[0].endswith("|0.1"))
    time.sleep(1.1)
    assert _state(browser)[0].endswith("|0.1")


def test_everything_is_reached_by_the_keyboard_alone(shown: Callable[..., webdriver.Chrome]) -> None:
    browser = shown()
    reached = []
    browser.execute_script("document.querySelector('#viewer select').focus();")
    for _ in range(4):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        active = browser.switch_to.active_element
        reached.append(active.tag_name)
        width = browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", active)
        assert width == "solid", active.tag_name
    assert reached == ["select", "select", "button", "input"]


def test_tables_sort_by_a_heading(shown: Callable[..., webdriver.Chrome]) -> None:
    browser = shown()
    column = """
    const table = document.querySelector("#statistics table.sortable"), heads = [...table.tHead.rows[0].cells];
    const at = heads.findIndex((head) => head.classList.contains("num"));
    if (arguments[0]) heads[at].querySelector("button").click();
    return [heads[at].ariaSort, [...table.tBodies[0].rows].map((row) => +row.cells[at].dataset.key)];
    """
    _, values = browser.execute_script(column, False)
    for direction, expected in (("ascending", sorted(values)), ("descending", sorted(values, reverse=True))):
        assert browser.execute_script(column, True) == [direction, expected]
    assert values not in (sorted(values), sorted(values, reverse=True))


_LUMINANCE = """
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const luminance = (colour) => {
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = rgb(colour).slice(0, 3).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if ((rgb(colour)[3] ?? 1) > 0.99) return colour;
  }
  return "rgb(255, 255, 255)";
};
const found = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const element = walk.currentNode.parentElement;
  if (!walk.currentNode.textContent.trim() || !element.checkVisibility()) continue;
  if (element.closest("svg, script, style, button:disabled")) continue;
  const pair = [luminance(getComputedStyle(element).color), luminance(behind(element))].sort();
  const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  if (contrast < 4.5) found.push([element.tagName, element.className, contrast, element.textContent.slice(0, 40)]);
}
return found;
"""


@pytest.mark.parametrize("page", ["report", "compare", "attacked"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_fit_are_legible_and_fetch_nothing(
    shown: Callable[..., webdriver.Chrome], page: str, scheme: str, width: int
) -> None:
    browser = shown(page, width=width, scheme=scheme)
    browser.execute_script("document.querySelectorAll('details').forEach((details) => { details.open = true; });")
    time.sleep(0.2)
    root = "document.documentElement"
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    light = browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
    assert browser.execute_script(_LUMINANCE) == []
    assert browser.get_log("browser") == []
    requests = [
        json.loads(entry["message"])["message"]["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if '"Network.requestWillBeSent"' in entry["message"]
    ]
    assert requests
    assert {url.split(":")[0] for url in requests} <= {"file", "data", "about"}


def test_without_scripts_there_are_still_pictures(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        _open(browser, pages["report"])
        assert "The slider needs scripts" in browser.find_element(By.CSS_SELECTOR, "#viewer noscript").text
        assert not browser.find_element(By.CSS_SELECTOR, "#viewer .viewer-live").is_displayed()
        drawn = browser.find_elements(By.CSS_SELECTOR, "#viewer .viewer-fixed svg")
        assert drawn[0].is_displayed()
        assert len(drawn) == 2 * 5 * (1 + len(THREE)) + 2 * (1 + len(MODELS))
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_what_is_printed_has_the_pictures_and_not_the_controls(shown: Callable[..., webdriver.Chrome]) -> None:
    browser = shown()
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not browser.find_element(By.CSS_SELECTOR, "#viewer .viewer-live").is_displayed()
        assert browser.find_element(By.CSS_SELECTOR, "#viewer .viewer-fixed svg").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
