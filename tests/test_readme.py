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


def test_every_committed_figure_is_made_by_a_notebook_and_none_is_missing(update_readme):
    captions = update_readme.figure_captions()
    assert len(captions) > 20 and min(len(caption) for caption in captions.values()) > 20
    for screen in update_readme.screens():
        there = {path.name for path in (ROOT / "figures" / screen).iterdir()}
        assert there == {name + suffix for name in captions for suffix in (".png", ".svg", ".csv")}, screen


def test_the_gallery_shows_each_notebook_and_the_claims(update_readme):
    gallery = update_readme.gallery_block()
    pictures = re.findall(r'<img src="([^"]+)" alt="[^"]{20,}">', gallery)
    assert len(pictures) == gallery.count("<td") == 9 and "figures/simulated/07_claims.png" in pictures
    assert {Path(picture).name[:2] for picture in pictures} == {f"{number:02d}" for number in range(1, 9)}
    assert [picture for picture in pictures if not (ROOT / picture).is_file()] == []


def test_the_readme_names_every_module():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    architecture = readme[readme.index("## How it is built") : readme.index("## Limits")]
    modules = {path.stem for path in (ROOT / "cpx_utils").glob("*.py")} - {"__init__"}
    assert {name for name in modules if f"`{name}`" not in architecture} == set()
