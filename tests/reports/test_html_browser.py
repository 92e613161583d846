"""The HTML report in a browser: its tables sort and it prints."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reports.browser import Page, open_browser
from tests.reports.test_scores import EPOCHS, report_page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report_page(history=EPOCHS)[0], encoding="utf-8")
    with open_browser() as page:
        page.open(path.as_uri())
        yield page
        assert page.complaints == []
        assert {address[:5] for address in page.requests} <= {"file:", "about", "data:"}


def column(page: Page, table: int, number: int) -> list[str]:
    return page.evaluate(
        f"[...document.querySelectorAll('table')[{table}].tBodies[0].rows]"
        f".map(row => row.cells[{number}].textContent)"
    )


def heading(table: int, number: int) -> str:
    return f"section:nth-of-type({table + 1}) thead th:nth-child({number + 1})"


def test_a_heading_sorts_its_column(page: Page) -> None:
    button = f"{heading(1, 2)} button"
    page.click(button)
    assert column(page, 1, 2) == ["78.6", "66.7", "–"]
    assert page.evaluate(f"document.querySelector('{heading(1, 2)}').ariaSort") == "descending"
    page.click(button)
    assert column(page, 1, 2) == ["66.7", "78.6", "–"], "a class that does not occur stays last"
    assert column(page, 1, 0) == ["floor", "wall", "sofa"]
    page.click(f"{heading(1, 0)} button")
    assert column(page, 1, 0) == ["wall", "sofa", "floor"]
    assert page.evaluate(f"document.querySelector('{heading(1, 2)}').ariaSort") is None
    assert page.evaluate(f"document.querySelector('{heading(1, 1)} button')") is None, "the bars"


def test_it_prints(page: Page) -> None:
    data = page.call("Page.printToPDF", printBackground=False)["data"]
    assert base64.b64decode(data).startswith(b"%PDF")


def test_axe_finds_nothing(page: Page) -> None:
    program = os.environ.get("AXE_CORE")
    if not program:
        pytest.skip("AXE_CORE is not set; npm install axe-core, then AXE_CORE=…/axe.min.js")
    page.evaluate(Path(program).read_text(encoding="utf-8") + ";0")
    found = page.evaluate("axe.run().then(found => JSON.stringify(found.violations))")
    assert json.loads(found) == []
