"""Public screens that can't be had here: what is planted in their stand-ins is read back, value for value."""

import numpy as np
import pandas as pd
import pytest

from cpx_utils import datasets
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, METADATA_COLUMNS, feature_columns, paired_compounds

QUICK = dict(n_compounds=60, n_cp_features=24, n_genes=10, n_control_wells=6, n_treatments_per_plate=60)


def assert_wells(found, expected):
    features = feature_columns(found)
    assert found[features].dtypes.eq(np.float32).all() and len(found) == len(expected)
    np.testing.assert_array_equal(found[features].to_numpy(), expected[features].to_numpy())
    text = [column for column in METADATA_COLUMNS if column != DOSE]
    pd.testing.assert_frame_equal(found[text], expected[text].astype(found[text].dtypes))
    np.testing.assert_allclose(found[DOSE], expected[DOSE], rtol=1e-12)


@pytest.mark.parametrize("name", ["cdrp-u2os", "cdrp-bio", "lincs-pilot1", "ta-orf"])
def test_wells_compounds_and_labels_are_read_as_planted(name, load_benchmark, tmp_path):
    planted = load_benchmark("stand_ins").write_stand_in(name, tmp_path / "mirror", **QUICK)
    places = {"mirror": str(tmp_path / "mirror"), "data_dir": str(tmp_path / "data"), "unverified": True}
    screen = datasets.read_screen(name, **places)
    assert_wells(screen.cp, planted.cp)
    assert_wells(screen.tx, planted.tx)
    assert "HLA-DMA" in screen.tx and not any(source["verified"] for source in screen.sources)
    if name == "cdrp-u2os":
        assert len(screen.cp) == 60 and len(feature_columns(screen.tx)) == 10
    else:
        measured = planted.compounds[planted.compounds["cp"] & planted.compounds["tx"]]
        assert paired_compounds(screen) == sorted(measured[COMPOUND]) and len(measured) < len(planted.compounds)
        notes = " ".join(screen.notes)
        for words in (
            "CP: 0 wells without",
            "2 that repeat",
            "2 features without different values",
            "4 infinite values",
        ):
            assert words in notes
    if name not in ("ta-orf", "cdrp-u2os"):  # alleles and consensus profiles have no doses
        pairs = [table.loc[~table[CONTROL], [COMPOUND, DOSE]].drop_duplicates() for table in (screen.cp, screen.tx)]
        assert len(pairs[0].merge(pairs[1])) == len(measured) * screen.cp[DOSE].nunique()
    if name != "ta-orf":
        columns = [COMPOUND, "MoA", "SMILES", "InChIKey14"]
        expected = planted.compounds.sort_values(COMPOUND, ignore_index=True)[columns]
        pd.testing.assert_frame_equal(screen.compounds[columns], expected, check_dtype=False)
        mine = screen.activity[screen.activity["task"].isin(planted.activity["task"])]
        labels = [table.sort_values([COMPOUND, "task"], ignore_index=True) for table in (mine, planted.activity)]
        pd.testing.assert_frame_equal(*labels, check_dtype=False)
        assert planted.activity["active"].nunique() == 2 and planted.activity["task"].nunique() >= 64
