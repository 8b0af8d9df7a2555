"""The README's tables are what the committed figures' data say, and what it points at is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def update_readme(load_benchmark):
    return load_benchmark("update_readme")


def test_the_tables_are_generated_from_the_committed_figures(update_readme):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(update_readme.screens()) == {"cmea-u2os", "simulated"}
    assert update_readme.updated(readme) == readme, "run python benchmarks/update_readme.py"
    changed = readme.replace("| simulated |", "| altered |", 1)
    assert changed != readme and update_readme.updated(changed) == readme


def test_every_local_link_and_picture_is_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", readme) if not link.startswith("http")]
    assert len(links) >= 9
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_names_every_module():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    architecture = readme[readme.index("## How it is built") : readme.index("## Limits")]
    modules = {path.stem for path in (ROOT / "cpx_utils").glob("*.py")} - {"__init__"}
    assert {name for name in modules if f"`{name}`" not in architecture} == set()
