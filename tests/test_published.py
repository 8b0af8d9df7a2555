"""Published numbers stand beside a run's own only where they mean the same."""

import numpy as np
import pandas as pd
import pytest

from cpx_utils import published
from cpx_utils.profiles import ScreenError


def counts():
    """Ten assays of a made-up run: CP above 0.9 in two, TX in three, one of them with CP."""
    cp = [0.95, 0.92, 0.8, 0.75, 0.6, 0.5, 0.5, 0.5, 0.5, np.nan]
    tx = [0.91, 0.6, 0.97, 0.71, 0.93, 0.5, 0.5, 0.5, 0.5, 0.5]
    rows = [(method, f"t{i}", value) for method, row in (("raw_cp", cp), ("tx", tx)) for i, value in enumerate(row)]
    rows += [("contrastive", "t0", 0.99)]
    auc = pd.DataFrame(rows, columns=["method", "task", "roc_auc"])
    return published.assay_counts(auc, {"raw_cp": "CP", "tx": "TX"})


def test_assays_are_counted_by_modality():
    table = counts().set_index(["quantity", "of"])["here"].to_dict()
    above_90, above_70 = published.ABOVE_90, published.ABOVE_70
    assert table == {
        (above_90, "CP"): 2, (above_90, "TX"): 3, (above_90, "TX but not CP"): 2,
        (above_70, "CP"): 4, (above_70, "TX"): 4, (above_70, "TX but not CP"): 1,
    }  # fmt: skip
    assert set(counts()["total_here"]) == {10}
    nothing = published.assay_counts(pd.DataFrame(columns=["method", "task", "roc_auc"]), {"raw_cp": "CP"})
    assert nothing.empty and list(nothing) == ["quantity", "of", "here", "total_here"]


def test_the_same_screen_split_and_quantity_stand_beside_each_other():
    table = published.beside("cdrp-u2os", "scaffold", counts())
    values = table.set_index(["quantity", "of"])[["value", "here"]]
    assert len(table) == 6 and set(table["source"]) == {"Moshkov 2023"} and set(table["total"]) == {270}
    assert values.loc[(published.ABOVE_90, "CP")].tolist() == [28, 2]
    assert values.loc[(published.ABOVE_70, "TX")].tolist() == [71, 4]
    assert values.loc[(published.ABOVE_90, "TX but not CP")].tolist() == [13, 2]


@pytest.mark.parametrize(
    ("screen", "split"),
    [("simulated", "scaffold"), ("cmea-u2os", "scaffold"), ("cdrp-u2os", "random"), ("lincs-pilot1", "scaffold")],
)
def test_nothing_stands_beside_another_screen_or_split(screen, split):
    assert published.beside(screen, split, counts()).empty


def test_nothing_stands_beside_another_quantity():
    ours = pd.DataFrame({"quantity": ["MoA mAP"], "of": ["CP"], "here": [0.1]})
    for screen in ("cdrp-u2os", "lincs-pilot1"):
        for split in ("random", "scaffold", "compounds"):
            assert published.beside(screen, split, ours).empty
    with pytest.raises(ScreenError, match="twice"):
        published.beside("cdrp-u2os", "scaffold", pd.concat([ours, ours]))


def test_every_published_value_names_its_source():
    table = published.PUBLISHED
    assert table["doi"].str.fullmatch(r"10\.\d{4}/\S+").all() and table["source"].str.fullmatch(r"\w+ \d{4}").all()
    assert (table["value"] <= table["upper"]).all()
    assert not table.duplicated(["screen", "quantity", "of", "split"]).any()
