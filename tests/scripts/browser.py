"""A headless Chromium for tests of the page, and what they skip for where there is none."""

import contextlib
import runpy
import shutil
import subprocess
import threading
import time

import pytest
from conftest import ROOT

PAGE = ROOT / 'scripts' / 'page'
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
SWITCHES = [
    '--no-sandbox',
    '--disable-quic',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--force-color-profile=srgb',
]
SOFTWARE = ['--use-angle=swiftshader', '--enable-unsafe-swiftshader']  # WebGL without a graphics card
PATIENCE = 600  # seconds: a machine may be busy; nothing waits longer than what it waits for takes


def runtime():
    """The folder of onnxruntime-web. Skips where it cannot be had."""
    if not shutil.which('npm') or not shutil.which('bash'):
        pytest.skip('npm and bash are needed to fetch onnxruntime-web')
    done = subprocess.run(['bash', PAGE / 'fetch.sh'], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f'onnxruntime-web could not be fetched: {done.stderr.strip()[-200:]}')
    return ROOT / '.cache' / 'page' / 'node_modules' / 'onnxruntime-web'


@contextlib.contextmanager
def chromium():
    """A headless Chromium. Skips where there is none, or no Playwright."""
    playwright = pytest.importorskip('playwright.sync_api', reason='Playwright is not installed')
    if not CHROMIUM:
        pytest.skip('Chromium is not installed')
    with playwright.sync_playwright() as driver:
        browser = launched(driver.chromium, SOFTWARE)
        try:
            yield browser
        finally:
            browser.close()


def launched(kind, switches):
    """A browser of Playwright's `kind` with more switches than those that all have."""
    return kind.launch(executable_path=CHROMIUM, args=[*SWITCHES, *switches])


@contextlib.contextmanager
def served(folder):
    """The address of a folder that is served as scripts/page/serve.py does."""
    server = runpy.run_path(str(PAGE / 'serve.py'))['server'](folder, 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f'http://localhost:{server.server_port}'
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def until(page, condition):
    """Wait until an expression is true on the page, whose own policy keeps Playwright from evaluating there itself."""
    deadline = time.monotonic() + PATIENCE
    while not page.evaluate(f'Boolean({condition})'):
        assert time.monotonic() < deadline, f'never true: {condition}'
        page.wait_for_timeout(40)


def wait_until_sharp(page):
    """Wait until the model has rendered all that is seen, once the page has taken note of what was done to it."""
    page.evaluate('new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))')
    until(page, "document.documentElement.dataset.sharp === 'true'")
