"""Stand-ins of the public screens: what is planted is read back, value for value, through the registry's loaders."""

import gzip

import numpy as np
import pandas as pd
import pytest

from cpx_utils import datasets
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, METADATA_COLUMNS, ScreenError, feature_columns, paired_compounds

QUICK = dict(n_cp_features=12, n_genes=10, n_control_wells=6, n_treatments_per_plate=60)
ROSETTA = ["cdrp-bio", "lincs-pilot1", "ta-orf"]


@pytest.fixture(scope="module")
def stand_ins(load_benchmark):
    return load_benchmark("stand_ins")


@pytest.fixture(scope="module")
def made(stand_ins, tmp_path_factory):
    """A function that gives the mirror of a screen, what was planted, and what is read; each screen is made once."""
    known = {}

    def make(name):
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            planted = stand_ins.write_stand_in(name, folder / "mirror", n_compounds=60, all_features=True, **QUICK)
            known[name] = folder, planted, read(folder, name)
        return known[name]

    return make


def read(folder, name, **options):
    return datasets.read_screen(
        name, mirror=str(folder / "mirror"), data_dir=str(folder / "data"), unverified=True, **options
    )


def file_of(folder, name, role):
    file = next(file for file in datasets.DATASETS[name].files if file.role == role)
    return folder / "mirror" / file.mirror_path


@pytest.mark.parametrize("name", ROSETTA)
def test_rosetta_wells_are_read_as_planted(made, name):
    folder, planted, screen = made(name)
    symbols = pd.read_excel(file_of(folder, name, "idmap")).set_index("probe_id")["symbol"]
    for found, expected in ((screen.cp, planted.cp), (screen.tx, planted.tx.rename(columns=symbols))):
        expected = expected.drop(columns=planted.dropped, errors="ignore")
        assert set(expected) >= set(found) and len(found) == len(expected)
        # of all CP features that were planted, the table of the selected ones has a part
        features = feature_columns(found)
        assert features == sorted(features) and found[features].dtypes.eq(np.float32).all()
        np.testing.assert_array_equal(found[features].to_numpy(), expected[features].to_numpy())
        text = [column for column in METADATA_COLUMNS if column != DOSE]
        pd.testing.assert_frame_equal(found[text], expected[text].astype(found[text].dtypes))
        np.testing.assert_allclose(found[DOSE], expected[DOSE], rtol=1e-12)
    assert len(feature_columns(screen.cp)) == QUICK["n_cp_features"] - 2
    assert len(feature_columns(screen.tx)) == QUICK["n_genes"] and "HLA-DMA" in screen.tx


@pytest.mark.parametrize("name", ROSETTA)
def test_the_table_of_all_features_is_read_by_an_option(made, name):
    folder, planted, screen = made(name)
    whole = read(folder, name, cp_table="all")
    features = feature_columns(whole.cp)
    assert set(features) == set(feature_columns(planted.cp)) - set(planted.dropped)
    assert len(features) == 2 * QUICK["n_cp_features"] - 2
    np.testing.assert_array_equal(whole.cp[features].to_numpy(), planted.cp[features].to_numpy())
    pd.testing.assert_frame_equal(whole.tx, screen.tx)
    names = [source["file"] for source in whole.sources]
    assert "replicate_level_cp_normalized.csv.gz" in names
    assert "replicate_level_cp_normalized_variable_selected.csv.gz" not in names  # only what is needed is fetched
    with pytest.raises(ScreenError, match=r"no CP table 'every'; cp_table is one of selected, all"):
        read(folder, name, cp_table="every")


@pytest.mark.parametrize("name", ROSETTA)
def test_oddities_are_in_the_files_and_in_the_notes(made, stand_ins, name):
    folder, planted, screen = made(name)
    raw = {role: pd.read_csv(file_of(folder, name, role), dtype=str, keep_default_na=False) for role in ("cp", "tx")}
    columns = datasets.DATASETS[name].columns
    keys = set(raw["cp"][columns["cp"].treatment])
    assert {"DMSO", "negcon", "NegCon", ""} <= keys
    assert "negcon" in set(raw["cp"]["Metadata_control_type"]) and "control" in set(raw["cp"]["Metadata_pert_type"])
    assert raw["cp"][columns["cp"].plate].str.endswith(".0").any()
    assert {"3", "3.0", "word"} <= set(raw["cp"]["Metadata_mixed"])
    assert {"inf", "-inf", "nan"} <= set(raw["cp"][[c for c in raw["cp"] if "Cells_" in c]].to_numpy().ravel())
    notes = " ".join(screen.notes)
    assert f"CP: {planted.repeated['cp']} rows repeat a plate's well" in notes
    assert "CP: 1 features without any value and 1 constant ones were dropped." in notes
    assert "infinite values count as missing" in notes
    sides = planted.compounds["measured"].value_counts()
    assert f"{sides['both']} compounds are in both modalities" in notes
    assert f"{sides['cp']} are in CP only and {sides.get('tx', 0)} in TX only" in notes
    assert paired_compounds(screen) == sorted(planted.compounds.loc[planted.compounds["measured"] == "both", COMPOUND])


@pytest.mark.parametrize("name", ["cdrp-bio", "lincs-pilot1"])
def test_doses_differ_in_the_third_digit_and_pair_up(made, name):
    folder, _, screen = made(name)
    columns = datasets.DATASETS[name].columns
    keys = {}
    for role in ("cp", "tx"):
        raw = pd.read_csv(file_of(folder, name, role), dtype=str, keep_default_na=False)[columns[role].treatment]
        keys[role] = {f"{key[:13]}_{key.rpartition('_')[2]}" for key in raw if key.startswith("BRD")}
    assert not keys["cp"] & keys["tx"]
    pairs = [
        set(table.loc[~table[CONTROL], [COMPOUND, DOSE]].itertuples(index=False, name=None))
        for table in (screen.cp, screen.tx)
    ]
    assert len(pairs[0] & pairs[1]) > 40


@pytest.mark.parametrize("name", ["cdrp-u2os", "cdrp-bio", "lincs-pilot1"])
def test_planted_mechanisms_and_labels_reach_the_screen(made, name):
    _, planted, screen = made(name)
    expected = planted.compounds.set_index(COMPOUND)
    found = screen.compounds.set_index(COMPOUND)
    assert set(found.index) == set(expected.index)
    expected = expected.loc[found.index]
    assert found["MoA"].tolist() == expected["MoA"].tolist()
    assert found["SMILES"].tolist() == expected["SMILES"].tolist()
    assert found["InChIKey14"].tolist() == expected["InChIKey14"].tolist()
    mine = screen.activity[screen.activity["task"].isin(planted.activity["task"])]
    if name != "cdrp-u2os":  # the small ChEMBL table of cdrp-u2os isn't planted
        assert set(screen.tasks.loc[screen.tasks["source"] == "ChEMBL", "family"]) == {
            "kinase", "GPCR", "nuclear receptor", "ion channel", "protease", "epigenetic", "transporter",
            "other enzyme",
        }  # fmt: skip
    order = [COMPOUND, "task"]
    pd.testing.assert_frame_equal(
        mine.sort_values(order, ignore_index=True),
        planted.activity.sort_values(order, ignore_index=True),
        check_dtype=False,
    )
    assert planted.activity["active"].nunique() == 2 and planted.activity["task"].nunique() >= 64


def test_consensus_profiles_are_read_as_planted(made):
    folder, planted, screen = made("cdrp-u2os")
    for found, expected in ((screen.cp, planted.cp), (screen.tx, planted.tx)):
        assert found[COMPOUND].tolist() == expected[COMPOUND].tolist() and len(found) == 60
        assert feature_columns(found) == feature_columns(expected)
        features = feature_columns(found)
        np.testing.assert_array_equal(found[features].to_numpy(), expected[features].to_numpy())
    assert "HLA-DMA" in screen.tx and screen.tasks["source"].eq("Moshkov 270").sum() == 270
    matrix = pd.read_csv(file_of(folder, "cdrp-u2os", "assays_270"))
    assert matrix.shape[1] == 271 and matrix.columns[0] == "smiles" and len(matrix) > 60
    assert (matrix == -1).to_numpy().any() and matrix.isna().to_numpy().any()


def test_real_annotation_files_are_taken_where_there_are_any(stand_ins, made, tmp_path):
    source, planted, _ = made("cdrp-u2os")
    made("cdrp-bio")
    # a stand-in serves as the mirror of real files; its structures are fewer than the real ones
    mirror = tmp_path / "real"
    for role in ("broad_ids", "broad_smiles", "assay_names", "broad6k_structures", "broad6k_assays", "toxcast_assays"):
        target = mirror / file_of(source, "cdrp-u2os", role).relative_to(source / "mirror")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file_of(source, "cdrp-u2os", role).read_bytes())
    idmap = file_of(made("cdrp-bio")[0], "cdrp-bio", "idmap")
    target = mirror / idmap.relative_to(made("cdrp-bio")[0] / "mirror")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(idmap.read_bytes())
    again = stand_ins.write_stand_in("cdrp-bio", tmp_path / "mirror", n_compounds=40, annotation_mirror=mirror, **QUICK)
    assert set(again.compounds[COMPOUND]) <= set(planted.compounds[COMPOUND])
    screen = read(tmp_path, "cdrp-bio")
    assert screen.compounds["MoA"].map(len).eq(1).all()
    verified = datasets.describe_sources(screen)
    assert len(verified) == len(datasets.DATASETS["cdrp-bio"].files) - 1
    with pytest.raises(ScreenError, match="are too many; structures are known for 60"):
        stand_ins.write_stand_in("cdrp-bio", tmp_path / "x", n_compounds=90, annotation_mirror=mirror, **QUICK)
    with pytest.raises(ScreenError, match=r"has no raw\.githubusercontent\.com"):
        stand_ins.write_stand_in("cdrp-bio", tmp_path / "x", n_compounds=40, annotation_mirror=tmp_path, **QUICK)


def test_full_size_means_the_published_number_of_rows(stand_ins, tmp_path):
    shape = stand_ins.SHAPES["ta-orf"]
    planted = stand_ins.write_stand_in("ta-orf", tmp_path, n_genes=5)
    for role, rows in (("cp", shape.cp_rows), ("tx", shape.tx_rows)):
        file = next(file for file in datasets.DATASETS["ta-orf"].files if file.role == role)
        with gzip.open(tmp_path / file.mirror_path, "rt") as handle:
            assert sum(1 for _ in handle) == rows + 1
    assert len(planted.cp) + planted.repeated["cp"] == shape.cp_rows
    assert planted.cp.loc[~planted.cp[CONTROL], COMPOUND].nunique() == 324


def test_the_command_line_says_what_it_wrote(stand_ins, tmp_path, capsys):
    assert stand_ins.main(["ta-orf", str(tmp_path), "--share", "0.05"]) == 0
    assert capsys.readouterr().out.startswith(f"ta-orf: written below {tmp_path} in ")
    assert (
        stand_ins.main(["cdrp-bio", str(tmp_path), "--share", "0.01", "--annotation-mirror", str(tmp_path / "x")]) == 2
    )
    assert "stand_ins: the annotation mirror" in capsys.readouterr().err
    with pytest.raises(ScreenError, match="no stand-in of 'simulated'; there are cdrp-u2os"):
        stand_ins.write_stand_in("simulated", tmp_path)


def test_stereoisomers_of_the_real_lists_share_their_truth(stand_ins, made, tmp_path):
    source = made("cdrp-u2os")[0]
    mirror = tmp_path / "real"
    texts = [f"C[C@{hand}H](O){'C' * length}" for length in range(2, 32) for hand in ("", "@")]
    lists = {
        "broad_ids": "broad_id\n" + "".join(f"BRD-K{number:08d}\n" for number in range(len(texts))),
        "broad_smiles": "smiles\n" + "\n".join(texts) + "\n",
        "broad6k_structures": "smiles,inchikey,pert_id\n",
        "broad6k_assays": "smiles,inchikey,100_600\n",
        "toxcast_assays": "smiles,mol_id,NVS_ENZ_hAChE\n",
        "chembl2k_assays": "smiles,inchikey,ABL1\n",
        "assay_names": file_of(source, "cdrp-u2os", "assay_names").read_text(),
    }
    for role, content in lists.items():
        path = mirror / file_of(source, "cdrp-u2os", role).relative_to(source / "mirror")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    idmap = file_of(made("cdrp-bio")[0], "cdrp-bio", "idmap")
    target = mirror / idmap.relative_to(made("cdrp-bio")[0] / "mirror")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(idmap.read_bytes())
    planted = stand_ins.write_stand_in(
        "cdrp-u2os", tmp_path / "mirror", n_compounds=40, annotation_mirror=mirror, **QUICK
    )
    blocks = planted.compounds.groupby("InChIKey14")
    assert 15 < blocks.ngroups < 35
    assert blocks["MoA"].agg(lambda lists: len({tuple(values) for values in lists})).eq(1).all()
    screen = read(tmp_path, "cdrp-u2os")
    assert screen.compounds["MoA"].tolist() == planted.compounds.sort_values(COMPOUND)["MoA"].tolist()
    order = [COMPOUND, "task"]
    found = screen.activity[screen.activity["task"].isin(planted.activity["task"])]
    pd.testing.assert_frame_equal(
        found.sort_values(order, ignore_index=True),
        planted.activity.sort_values(order, ignore_index=True),
        check_dtype=False,
    )
    assert any("Moshkov 270" in note and "; 0 compound-assay pairs are conflicts" in note for note in screen.notes)
