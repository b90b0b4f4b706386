"""Is what is installed what is used, and is what is generated up to date?"""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from .source import ROOT, modules, nodes

_IMPORTED_AS = {"apache-libcloud": "libcloud"}


def _requirements(text: str) -> set[str]:
    found = (re.match(r"\s*([A-Za-z0-9._-]+)", line) for line in text.splitlines()
             if line.strip() and not line.strip().startswith(("#", "%")))
    return {match[1].lower().replace("_", "-") for match in found if match}


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def _third_party() -> dict[str, set[Path]]:
    found: dict[str, set[Path]] = {}
    for path in modules("cloudsched"):
        for node in nodes(path):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [item.name for item in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for top in {item.partition(".")[0] for item in names} - set(sys.stdlib_module_names):
                found.setdefault(top, set()).add(path)
    for own in ("cloudsched", "retire_cluster_client"):
        found.pop(own, None)
    return found


def test_every_import_is_declared(setup_cfg: configparser.ConfigParser) -> None:
    declared = _requirements(setup_cfg["options"]["install_requires"])
    extras = {name for text in setup_cfg["options.extras_require"].values() for name in _requirements(text)}
    providers = packages_distributions()
    # What Flask, Fabric and the Kubernetes client bring with them and show as their own interface.
    brought = {"werkzeug", "jinja2", "markupsafe", "webargs", "paramiko", "urllib3", "pyyaml"}
    missing = {}
    for top, paths in _third_party().items():
        names = {item.lower().replace("_", "-") for item in providers.get(top, [top])} | {top.lower()}
        if not names & (declared | extras | brought):
            missing[top] = sorted(str(path.relative_to(ROOT)) for path in paths)
    assert missing == {}


def test_every_declared_package_is_used(setup_cfg: configparser.ConfigParser) -> None:
    declared = _requirements(setup_cfg["options"]["install_requires"])
    # gunicorn is started as a program: its name stands in an argument list.
    words = {node.value for path in modules("cloudsched") for node in nodes(path)
             if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    used = set(_third_party()) | words
    assert {name for name in declared if _IMPORTED_AS.get(name, name.replace("-", "_")) not in used} == set()


def test_constraints_name_every_requirement(setup_cfg: configparser.ConfigParser) -> None:
    pinned = _requirements((ROOT / "constraints.txt").read_text())
    wanted = _requirements(setup_cfg["options"]["install_requires"])
    for text in setup_cfg["options.extras_require"].values():
        wanted |= _requirements(text)
    assert wanted - pinned == set()


def test_dependencies_page_gives_a_reason_for_each(setup_cfg: configparser.ConfigParser) -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text().lower()
    wanted = _requirements(setup_cfg["options"]["install_requires"])
    for text in setup_cfg["options.extras_require"].values():
        wanted |= _requirements(text)
    assert sorted(name for name in wanted if f"| {name} |" not in page) == []


def test_entry_points_lead_somewhere(setup_cfg: configparser.ConfigParser) -> None:
    for line in setup_cfg["options.entry_points"]["console_scripts"].split("\n"):
        if not line.strip():
            continue
        _, _, target = line.partition("=")
        module, _, function = target.strip().partition(":")
        code = f"from importlib import import_module as load; assert callable(load({module!r}).{function})"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_reference_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, "docs/generate.py", "--check"], capture_output=True, text=True,
                          check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", [*ROOT.glob("docs/*.md"), ROOT / "README.rst"], ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)|`[^`]*<([^>`]+)>`_", page.read_text())
    paths = [first or second for first, second in links]
    assert [path for path in paths if "://" not in path and not (page.parent / path).exists()] == []


def test_sample_configuration_is_what_it_says() -> None:
    """etc/cloudsched.toml can be loaded as it is, and every key it shows exists."""
    from cloudsched.settings import load
    from cloudsched.settings.sections import all_keys

    file = ROOT / "etc" / "cloudsched.toml"
    environ = {"HOME": "/nonexistent", "CLOUDSCHED_CLOUD_SCHEDULER_CONFIG_FILE": "none"}
    settings = load({}, environ, file)
    assert [key for key in all_keys() if settings.origin(key).startswith("file")] == []
    section, unknown = "", []
    for line in file.read_text().splitlines():
        if header := re.match(r"#? ?\[+([a-z_.]+)\]+$", line):
            section = header[1]
        elif (entry := re.match(r"# ?([a-z_]+) = ", line)) and section != "local.clouds":
            unknown += [key] if (key := f"{section}.{entry[1]}") not in all_keys() else []
    assert unknown == []


@pytest.mark.parametrize("program", ["start", "check", ".ci/run"])
def test_programs_are_sound_shell(program: str) -> None:
    path = ROOT / program
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(path)], check=True)
