"""The pages of the documentation fit a phone and a wide window, in light and in dark."""

import pytest
from browser import LAYOUTS, check_accessibility, check_layout, open_page
from documents import CHECKOUT

pytestmark = pytest.mark.slow
BUILT = CHECKOUT / "build" / "docs"
MENUS = (".sidebar-drawer", ".toc-drawer")
MADE_BY_FURO = (*MENUS, ".mobile-header", ".content-icon-container")
REMOVE = "document.querySelectorAll(arguments[0]).forEach((each) => each.remove())"


@pytest.fixture(scope="module")
def pages():
    """The pages that `make docs` has built; the tests skip, saying so, if it has not."""
    found = sorted(BUILT.glob("*.html")) + sorted(BUILT.glob("api/*.html"))
    if not found:
        pytest.skip("needs the pages in build/docs: make docs")
    return [page for page in found if page.stem not in ("genindex", "py-modindex", "search")]


def test_nothing_is_cut_off(browser, pages):
    for page in pages:
        for view in LAYOUTS:
            open_page(browser, page.as_uri(), view)
            if view.width < 600:  # the menus are outside the window until they are opened
                browser.execute_script(REMOVE, ", ".join(MENUS))
            check_layout(browser, view)


def test_pages_are_accessible(browser, axe, pages):
    for page in pages:
        for view in LAYOUTS:
            open_page(browser, page.as_uri(), view)
            check_accessibility(browser, axe, view, *MADE_BY_FURO)
