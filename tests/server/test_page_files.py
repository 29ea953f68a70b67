"""The pages' files: whole, self-contained, fit for the security policy, and the vendored libraries unchanged. Needs no browser."""
import hashlib
import re

import pytest

from fathom.server.door import PAGE_POLICY
from tests.server.standin import POLICY, WEB

OWN = sorted(file for file in WEB.glob("*") if file.is_file())
TEXTS = {file.name: file.read_text(encoding="utf-8") for file in OWN}
PAGES = {name: text for name, text in TEXTS.items() if name.endswith(".html")}
SCRIPTS = {name: text for name, text in TEXTS.items() if name.endswith(".js")}


def test_the_stand_in_has_the_services_policy():
    assert POLICY == PAGE_POLICY and "unsafe" not in PAGE_POLICY


def test_vendored_files_are_what_their_table_says():
    table = (WEB / "vendor" / "README.md").read_text()
    rows = dict(re.findall(r"^\| `(\S+)` .*`([0-9a-f]{64})` \|$", table, re.MULTILINE))
    for name, digest in rows.items():
        assert hashlib.sha256((WEB / "vendor" / name).read_bytes()).hexdigest() == digest
    licences = set(re.findall(r"`(\S+\.LICENSE\.txt)`", table))
    assert {file.name for file in (WEB / "vendor").iterdir()} == {"README.md", *rows, *licences} and len(rows) == len(licences) == 2


@pytest.mark.parametrize("name", PAGES)
def test_a_page_names_only_files_that_are_there(name):
    addresses = re.findall(r'(?:src|href)="([^"#][^"]*)"', PAGES[name])
    assert addresses and all(a in ("/", "/usage") or a.startswith("/web/") and (WEB / a.removeprefix("/web/")).is_file() for a in addresses)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_holds_no_code_and_no_style_of_its_own(name):
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", PAGES[name])


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_asks_nobody_else(name):
    allowed = {"http://www.w3.org/2000/svg"}
    assert not set(re.findall(r"https?://[\w./-]+", TEXTS[name])) - allowed
    assert "@import" not in TEXTS[name] and "url(" not in TEXTS[name]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_imports_what_is_there_and_writes_no_html(name):
    text = SCRIPTS[name]
    imports = re.findall(r'^import\b[^;]*?"([^"]+)";', text, re.MULTILINE | re.DOTALL)
    assert all(path.startswith("./") and (WEB / path).is_file() for path in imports)
    assert not re.search(r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|setAttribute\(\"style)", text)
    assert text.startswith("// ")


def test_every_symbol_that_is_used_is_drawn():
    drawn = {name: set(re.findall(r'<symbol id="i-(\w+)"', text)) for name, text in PAGES.items()}
    for name, text in PAGES.items():
        assert set(re.findall(r'href="#i-(\w+)"', text)) <= drawn[name]
    used = {word for text in SCRIPTS.values() for pattern in (r'\bicon\("(\w+)"', r'iconButton\("(\w+)"') for word in re.findall(pattern, text)}
    assert used <= drawn["index.html"]


def test_every_element_that_a_script_asks_for_is_in_its_page():
    for script, page in (("chat.js", "index.html"), ("composer.js", "index.html"), ("sidebar.js", "index.html"), ("usage.js", "usage.html")):
        asked = set(re.findall(r'byId\("([\w-]+)"\)', SCRIPTS[script]))
        assert asked <= set(re.findall(r'\sid="([\w-]+)"', PAGES[page])), script
