"""Pages of the MLflow UI in a real browser."""

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait


def wait_for(browser, *texts):
    """Wait until the page, or the frame that is chosen, shows all texts."""
    WebDriverWait(browser, 90).until(
        lambda b: all(text in b.find_element(By.TAG_NAME, "body").text for text in texts)
    )


def show(browser, page, *texts):
    """Open a page, and wait until it shows all texts."""
    browser.get("about:blank")  # else only the part after # changes, and nothing is loaded
    browser.get(page)
    wait_for(browser, *texts)


def wait_for_links(browser, *texts):
    """Wait until the page has a link with each of the texts."""

    def found(browser):
        links = browser.find_elements(By.TAG_NAME, "a")
        return {link.text.strip(" ,") for link in links} >= set(texts)

    gone = [StaleElementReferenceException]  # the page has just been drawn anew
    WebDriverWait(browser, 90, ignored_exceptions=gone).until(found)
