"""The interactive map's content: positions, neighbours, colours, and what it does with large screens and odd names."""

import json

import pandas as pd
import pytest
from small_report import EVIL, METHODS, compound_names, embeddings, map_points, write_run

from cpx_utils import clustering, interactive_map, plots
from cpx_utils.interactive_map import map_content, read_map


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("map"))[0]


def data_of(content):
    """What the page's script gets."""
    return json.loads(content["data"])


def test_positions_and_neighbours_are_those_of_the_tables(run_dir):
    data = data_of(map_content(read_map(run_dir)))
    names = data["names"]
    assert sorted(names) == sorted(compound_names()) and [one["key"] for one in data["methods"]] == list(METHODS)
    nearest = clustering.nearest_test_compounds(embeddings(), n_nearest=5)
    for method in data["methods"]:
        points = map_points()
        places = points[points["method"] == method["key"]].set_index("compound")
        assert method["x"] == places.loc[names, "x"].tolist() and method["y"] == places.loc[names, "y"].tolist()
        for row in (0, 7, len(names) - 1):
            mine = nearest[(nearest["method"] == method["key"]) & (nearest["compound"] == names[row])]
            assert [names[other] for other in method["nearest"][row]] == mine["neighbour"].tolist()
            assert method["cosine"][row] == pytest.approx(mine["cosine"], abs=6e-4)
    assert data["mechanisms"][names.index(EVIL)] == ["<b>bold</b> agonist"]
    assert data["mechanisms"][names.index("SIM-001")] == []
    assert data["wells"] == [2] * len(names) and data["doses"] == [1] * len(names)


def test_colours_and_marks_are_the_figures(run_dir):
    content = map_content(read_map(run_dir))
    labels = map_points()["label"].value_counts().drop("other").index.tolist()
    expected = list(zip(labels, plots.CATEGORY_COLOURS, ("circle", "square"), strict=False))
    assert content["legend"][:-1] == expected and content["legend"][-1][0] == "other or unknown"
    assert len(interactive_map.MARKERS) == len(plots.CATEGORY_MARKERS)
    assert list(interactive_map.MARKERS) == list(plots.CATEGORY_MARKERS)


def test_names_from_data_cannot_end_the_script_element(run_dir):
    content = map_content(read_map(run_dir))
    assert EVIL in data_of(content)["names"] and "<" not in content["data"]
    assert all("</script" not in script.lower() for script in content["scripts"])


def test_large_screens_are_bounded_and_keep_named_mechanisms(run_dir, monkeypatch):
    monkeypatch.setattr(interactive_map, "MAX_SHOWN", 20)
    known = read_map(run_dir)
    content = map_content(known)
    assert (content["n_shown"], content["n_test"]) == (20, 40)
    named = map_points().query("label != 'other'")["compound"]
    assert set(named) <= set(known["compounds"]["compound"])
    assert known["compounds"]["label"].iloc[0] == "other", "the grey ones are drawn first"
    data = data_of(content)
    assert len(data["mechanisms"]) == len(data["methods"][0]["x"]) == 20 < len(data["names"])
    assert all(len(near) == 5 for near in data["methods"][0]["nearest"]), "neighbours are looked for among all"
    monkeypatch.setattr(interactive_map, "MAX_SHOWN", 5)
    assert len(read_map(run_dir)["compounds"]) == 5


def test_compounds_that_a_method_did_not_place_have_no_point(run_dir, tmp_path):
    for name in ("compounds.parquet", "cp.parquet"):
        (tmp_path / name).write_bytes((run_dir / name).read_bytes())
    (tmp_path / "tables").mkdir()
    points = map_points()
    points[(points["method"] == METHODS[0]) | (points["compound"] != "SIM-000")].to_csv(
        tmp_path / "tables" / "map.csv", index=False
    )
    nearest = pd.read_csv(run_dir / "tables" / "map_nearest.csv")
    nearest[nearest["compound"] != "SIM-000"].to_csv(tmp_path / "tables" / "map_nearest.csv", index=False)
    data = data_of(map_content(read_map(tmp_path)))
    row = data["names"].index("SIM-000")
    assert data["methods"][1]["x"][row] is None and data["methods"][1]["nearest"][row] == []


def test_a_run_without_a_map_has_none(tmp_path):
    assert read_map(tmp_path) is None
