"""Hostile files and names: nothing of them is executed, leads out of its folder, or takes the machine's memory.

What a run reads comes from others: screens, models, results folders, names of compounds. What is refused in one line
stands in the tests of each reader; what code may not do, in test_house.py.
"""

from xml.etree import ElementTree

import pandas as pd
import pytest
from small_report import EVIL_NAMES
from stub_notebooks import write_study

from cpx_utils import provenance
from cpx_utils.pipeline import main
from cpx_utils.profiles import ScreenError
from cpx_utils.provenance import stage_records, write_json

# --- places -------------------------------------------------------------------------------------------------


RECORD = {"stage": "01_prepare", "reads": {}, "writes": {}, "figures": [], "steps": [], "learned": [], "device": "cpu",
          "seconds": 1.0, "peak_mb": 1.0}  # fmt: skip
OUTSIDE = {
    "a table above the run": {"writes": {"../../../victim.txt": "0" * 64}},
    "a detour": {"writes": {"tables/../../../../victim.txt": "0" * 64}},
    "a picture above the figures": {"writes": {"figures:../../victim.txt": "0" * 64}},
    "an absolute picture": {"writes": {"figures:/victim.txt": "0" * 64}},
    "a figure's name": {"figures": [{"name": "../../victim"}]},
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_a_results_folder_from_elsewhere_cannot_have_other_files_removed(kind, tmp_path, capsys):
    """A stage's record names the files that its next run replaces, and those it no longer makes are removed."""
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    run_dir = tmp_path / "results" / "simulated" / "default"
    write_json(run_dir / "stages" / "01_prepare.json", RECORD | OUTSIDE[kind])
    with pytest.raises(ScreenError, match="outside of") as refused:
        stage_records(run_dir)
    assert "\n" not in str(refused.value)
    folders = ["--results", str(tmp_path / "results"), "--figures", str(tmp_path / "figures")]
    status = main([*folders, "--only", "01"], write_study(tmp_path / "notebooks"))
    error = capsys.readouterr().err
    assert status == 2 and "outside of" in error and error.count("\n") == 1
    assert victim.read_text() == "mine"


# --- names in pictures; in pages: test_report.py ------------------------------------------------------------


def test_names_in_a_picture_are_no_elements_of_its_svg(tmp_path):
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(2, 2))
    with pyplot.rc_context({"text.parse_math": False}):
        for number, name in enumerate(EVIL_NAMES):
            axes.text(0, number, name)
        provenance.save_figure(figure, tmp_path / "x", pd.DataFrame({"name": EVIL_NAMES}))
    pyplot.close(figure)
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(tmp_path / "x.svg").iter()}
    assert tags <= {"svg", "defs", "style", "g", "path", "use", "metadata", "RDF", "Work", "type", "format", "title",
                    "creator", "Agent", "clipPath", "rect"}  # fmt: skip
    assert pd.read_csv(tmp_path / "x.csv")["name"].tolist() == list(EVIL_NAMES)
