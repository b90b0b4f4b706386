"""The dashboard: readable without JavaScript, in two languages, nothing from elsewhere, under a strict policy."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cloudsched import web
from cloudsched.web.strings import LANGUAGES, words

STATIC = Path(web.__file__).parent / "static"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def test_browsers_get_the_page_and_others_json(api: Any) -> None:
    page = api.get("/", headers=BROWSER)
    assert page.content_type.startswith("text/html") and page.headers["Vary"]
    assert api.get("/").json["name"] == "cloudsched" and api.get("/api/v2/").json["version"]


def test_overview_without_javascript(api: Any) -> None:
    api.submit()
    api.post("/clouds?verify=0", json={"name": "<b>c</b>", "kind": "local", "slots": 3})
    text = api.get("/", headers=BROWSER).text
    assert re.search(r"<strong>1</strong> <span>queued", text) and "&lt;b&gt;c&lt;/b&gt;" in text and "<b>c" not in text


def test_policy_allows_our_own_files_alone(api: Any) -> None:
    for path in ("/", "/api/v2/docs"):
        page = api.get(path, headers=BROWSER)
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and page.headers["X-Frame-Options"] == "DENY"
        for source in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert source.startswith(("/", "#")), source
        assert not re.search(r"\son\w+=|style=|<script>|javascript:", page.text)
    for file in STATIC.iterdir():
        text = file.read_text()
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|innerHTML|eval\(", text), file


def test_files_are_served(api: Any) -> None:
    for file in STATIC.iterdir():
        answer = api.get(f"/static/{file.name}")
        assert answer.status_code == 200 and answer.headers["X-Content-Type-Options"] == "nosniff"
        answer.close()
    assert api.get("/static/../pages.py").status_code == 404
    assert api.get("/static/none.js").content_type == "application/problem+json"


@pytest.mark.parametrize(("asked", "language", "word"), [
    ("zh-CN,zh;q=0.9,en;q=0.5", "zh", "作业"), ("en-GB", "en", "Jobs"), ("fr, zh;q=0.3", "zh", "作业"), ("", "en", "Jobs")])
def test_languages(api: Any, asked: str, language: str, word: str) -> None:
    page = api.get("/", headers={**BROWSER, "Accept-Language": asked})
    assert f'<html lang="{language}">' in page.text and f"<h2>{word}</h2>" in page.text


def test_every_word_is_there_in_every_language() -> None:
    tables = [words(language) for language in LANGUAGES]
    assert all(all(table.values()) for table in tables)
    used = set(re.findall(r"\bt\.(\w+)", "".join(f.read_text() for f in STATIC.glob("*.js"))))
    used |= set(re.findall(r"\bt\.(\w+)", "".join(f.read_text() for f in STATIC.parent.glob("templates/*.html"))))
    assert used <= tables[0].keys()


def test_without_a_key_the_page_shows_nothing(api: Any) -> None:
    api.submit(name="secret-name")
    api.post("/clouds?verify=0", json={"name": "hidden", "kind": "local", "slots": 3})
    api.post("/keys", json={"name": "a", "role": "admin"})
    page = api.get("/", headers=BROWSER)
    assert page.status_code == 200 and "hidden" not in page.text and "<strong>" not in page.text


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("name", ["app.js", "api.js"])
def test_scripts_parse(name: str) -> None:
    subprocess.run(["node", "--check", str(STATIC / name)], check=True, capture_output=True)
