"""A person in a browser: logs in, fills the trigger form, presses the button, follows the run to its end.

With MLOPS_SCREENSHOTS set to a folder, the pages are kept there as pictures for the docs.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from demo.airflow_process import Airflow
from demo.rest import AirflowApi
from tests.end_to_end.flights import NAME, wait

pytestmark = [pytest.mark.airflow, pytest.mark.browser, pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(1800)]

expect.set_options(timeout=60_000)
DAG_ID = f"{NAME}.train"
REASON = "the first model, by hand"
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def page(flights_airflow: Airflow) -> Iterator[Page]:
    """A logged-in browser."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "this test needs a browser: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(QUIET))
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(60_000)
        page.goto(flights_airflow.url)
        page.get_by_label(re.compile("username", re.IGNORECASE)).fill("admin")
        page.get_by_label(re.compile("password", re.IGNORECASE)).fill(flights_airflow.password)
        page.get_by_role("button", name=re.compile("sign in|log in", re.IGNORECASE)).click()
        expect(page.get_by_role("link", name="Dags", exact=True).first).to_be_visible()  # leaving sooner aborts the login
        yield page
        browser.close()


def keep(page: Page, name: str) -> None:
    """Keep a picture of the page where pictures are wanted."""
    folder = os.environ.get("MLOPS_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(1500)
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_a_person_trains_a_model_from_the_form(page: Page, flights_airflow: Airflow, flights_api: AirflowApi) -> None:
    page.goto(f"{flights_airflow.url}/dags")
    expect(page.get_by_text(DAG_ID, exact=True).first).to_be_visible()
    keep(page, "dags")
    page.goto(f"{flights_airflow.url}/dags/{DAG_ID}")
    page.get_by_role("button", name=re.compile("^trigger", re.IGNORECASE)).first.click()
    fill_form(page)
    keep(page, "trigger_form")
    before = runs_by_hand(flights_api)
    page.get_by_test_id("trigger-dag-submit").click()
    wait(lambda: bool(runs_by_hand(flights_api) - before), 60)
    (run_id,) = runs_by_hand(flights_api) - before
    wait(lambda: (flights_api.run(DAG_ID, run_id) or {})["state"] in {"success", "failed"}, 1200)
    found = flights_api.run(DAG_ID, run_id)
    assert found is not None
    assert found["state"] == "success"
    assert found["conf"]["reason"] == REASON
    page.goto(f"{flights_airflow.url}/dags/{DAG_ID}/runs/{run_id}")
    expect(page.get_by_text("Success").first).to_be_visible()
    keep(page, "run")
    follow_report(page, flights_airflow, run_id)


def runs_by_hand(api: AirflowApi) -> set[str]:
    """Return the ids of the runs that people started: unpausing starts a scheduled one too."""
    return {str(run["dag_run_id"]) for run in api.runs(DAG_ID) if run["run_type"] == "manual"}


def fill_form(page: Page) -> None:
    """Fill the dates and the reason; everything else keeps its default."""
    form = page.get_by_role("dialog").filter(has=page.get_by_test_id("trigger-dag-submit"))
    for label, date in (("Start", "2013/01/01"), ("End", "2013/02/15")):
        field = form.get_by_role("group").filter(has=page.get_by_text(label, exact=True))
        field.get_by_test_id("datetime-input").click()
        picker = page.get_by_role("dialog").filter(has=page.get_by_placeholder("YYYY/MM/DD")).last
        picker.get_by_placeholder("YYYY/MM/DD").fill(date)
        picker.get_by_placeholder("HH:mm").fill("00:00")
        page.keyboard.press("Escape")
        expect(field.get_by_text(", 2013 00:00")).to_be_visible()
    form.locator("[name=element_reason]").fill(REASON)


def follow_report(page: Page, airflow: Airflow, run_id: str) -> None:
    """Open the evaluation's report by the button on its task."""
    page.goto(f"{airflow.url}/dags/{DAG_ID}/runs/{run_id}/tasks/evaluate/details")
    link = page.get_by_role("link", name="Report")
    expect(link).to_be_visible()
    keep(page, "task")
    page.goto(f"{airflow.url}{link.get_attribute('href')}")
    expect(page.get_by_text("evaluation of a candidate")).to_be_visible()
    keep(page, "report")
