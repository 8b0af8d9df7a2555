"""Public screens that can't be had here: what is planted in their stand-ins is read back, value for value."""

import numpy as np
import pandas as pd
import pytest

from cpx_utils import datasets
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, METADATA_COLUMNS, ScreenError, feature_columns, paired_compounds

QUICK = dict(n_cp_features=24, n_genes=10, n_control_wells=6, n_treatments_per_plate=60)
ROSETTA = ["cdrp-bio", "lincs-pilot1", "ta-orf"]


@pytest.fixture(scope="module")
def made(load_benchmark, tmp_path_factory):
    """A function that gives the mirror of a screen, what was planted, and what is read; each screen is made once."""
    known = {}

    def make(name):
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            planted = load_benchmark("stand_ins").write_stand_in(name, folder / "mirror", n_compounds=60, **QUICK)
            known[name] = folder, planted, read(folder, name)
        return known[name]

    return make


def read(folder, name, **options):
    return datasets.read_screen(
        name, mirror=str(folder / "mirror"), data_dir=str(folder / "data"), unverified=True, **options
    )


def assert_wells(found, expected):
    features = feature_columns(found)
    assert found[features].dtypes.eq(np.float32).all() and len(found) == len(expected)
    np.testing.assert_array_equal(found[features].to_numpy(), expected[features].to_numpy())
    text = [column for column in METADATA_COLUMNS if column != DOSE]
    pd.testing.assert_frame_equal(found[text], expected[text].astype(found[text].dtypes))
    np.testing.assert_allclose(found[DOSE], expected[DOSE], rtol=1e-12)


@pytest.mark.parametrize("name", ROSETTA)
def test_rosetta_wells_are_read_as_planted(made, name):
    folder, planted, screen = made(name)
    assert_wells(screen.cp, planted.cp)
    assert_wells(screen.tx, planted.tx)
    assert len(feature_columns(screen.cp)) == 12 + 1 - 2 and "HLA-DMA" in screen.tx
    measured = planted.compounds[planted.compounds["cp"] & planted.compounds["tx"]]
    assert paired_compounds(screen) == sorted(measured[COMPOUND]) and len(measured) < len(planted.compounds)
    if name != "ta-orf":  # alleles have no doses
        pairs = [table.loc[~table[CONTROL], [COMPOUND, DOSE]].drop_duplicates() for table in (screen.cp, screen.tx)]
        assert len(pairs[0].merge(pairs[1])) == len(measured) * screen.cp[DOSE].nunique()
    notes = " ".join(screen.notes)
    for words in ("CP: 1 features without any value and 1 constant ones", "4 infinite values", "CP: 2 rows repeat"):
        assert words in notes
    whole = read(folder, name, cp_table="all")
    assert_wells(whole.cp, planted.cp)
    assert len(feature_columns(whole.cp)) == QUICK["n_cp_features"] - 2
    assert len(whole.sources) == len(screen.sources) == len(datasets.DATASETS[name].files) - 1  # one CP table is read
    with pytest.raises(ScreenError, match=r"no CP table 'every'; cp_table is one of selected, all"):
        read(folder, name, cp_table="every")


def test_consensus_profiles_are_read_as_planted(made):
    _, planted, screen = made("cdrp-u2os")
    assert_wells(screen.cp, planted.cp)
    assert_wells(screen.tx, planted.tx)
    assert len(screen.cp) == 60 and "HLA-DMA" in screen.tx and len(feature_columns(screen.tx)) == 10


@pytest.mark.parametrize("name", ["cdrp-u2os", "cdrp-bio", "lincs-pilot1"])
def test_planted_mechanisms_and_labels_reach_the_screen(made, name):
    _, planted, screen = made(name)
    expected = planted.compounds.sort_values(COMPOUND)
    for column in (COMPOUND, "MoA", "SMILES", "InChIKey14"):
        assert screen.compounds[column].tolist() == expected[column].tolist()
    order = [COMPOUND, "task"]
    mine = screen.activity[screen.activity["task"].isin(planted.activity["task"])]
    pd.testing.assert_frame_equal(
        mine.sort_values(order, ignore_index=True),
        planted.activity.sort_values(order, ignore_index=True),
        check_dtype=False,
    )
    assert planted.activity["active"].nunique() == 2 and planted.activity["task"].nunique() >= 64


def test_a_stand_in_is_refused_and_with_unverified_marked(made):
    folder, _, screen = made("cdrp-u2os")
    with pytest.raises(ScreenError, match=r"its git blob id isn't 42fc284ed7bb"):
        datasets.read_screen("cdrp-u2os", mirror=str(folder / "mirror"), data_dir=str(folder))
    sources = pd.DataFrame(list(screen.sources))
    assert len(sources) == len(datasets.DATASETS["cdrp-u2os"].files) and not sources["verified"].any()
    assert sources["sha256"].str.len().eq(64).all() and datasets.local_files(screen) == []
    assert "accepted with --unverified: data/Cell_Morphology_Profile_Complete.rda" in screen.notes[-1]
