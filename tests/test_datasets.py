"""The registry and its loaders; the real screen is read where its mirror folder is given (CPX_MIRROR)."""

import gzip
import os
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cpx_utils import datasets, downloads, profiles
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, ScreenError, check_screen, feature_columns, paired_compounds

MIRROR = os.environ.get("CPX_MIRROR", "")
CHECKSUM_FORMS = {
    "SHA-256": r"[0-9a-f]{64}",
    "git blob id": r"[0-9a-f]{40}",
    "MD5": r"[0-9a-f]{32}",
    "S3 ETag": r"[0-9a-f]{32}(-\d+)?",
}
needs_mirror = pytest.mark.skipif(not MIRROR, reason="CPX_MIRROR isn't set to a folder with the real screen's files")


def test_unknown_names_list_the_choices():
    with pytest.raises(ScreenError) as caught:
        datasets.read_screen("cmea-u2so")
    line = str(caught.value)
    assert "'cmea-u2so'" in line and "simulated, cmea-u2os" in line and ".toml" in line
    assert "Did you mean 'cmea-u2os'?" in line and "\n" not in line
    with pytest.raises(ScreenError, match=r"no data set is called 'nothing'"):
        datasets.dataset_name("nothing")


def test_registry_entries_are_complete():
    for name, dataset in datasets.DATASETS.items():
        assert dataset.name == name == datasets.dataset_name(name)
        assert dataset.title and dataset.summary and dataset.licence and dataset.citation
        assert len({file.role for file in dataset.files}) == len(dataset.files)
        assert len({file.name for file in dataset.files}) == len(dataset.files)
        for file in dataset.files:
            assert file.address.startswith("https://")
            assert file.checksum_kind in downloads.CHECKSUMS
            assert file.licence and file.citation
            # of the large files of cdrp-u2os git tells the hash and not the size
            assert file.bytes > 0 or (name, file.checksum_kind) == ("cdrp-u2os", "git blob id")
            assert re.fullmatch(CHECKSUM_FORMS[file.checksum_kind], file.checksum)
            if file.checksum_kind == "S3 ETag":
                parts = -(-file.bytes // downloads.S3_PART_BYTES)
                assert file.checksum.partition("-")[2] == (str(parts) if parts > 1 else "")
    assert datasets.DATASETS["cmea-u2os"].parameters == {"n_folds": 5, "n_repeats": 3}
    large = {
        name: datasets.DATASETS[name].parameters["n_derangements_linear"] for name in ("cdrp-u2os", "lincs-pilot1")
    }
    assert large == {"cdrp-u2os": 5, "lincs-pilot1": 5}
    assert [name for name, dataset in datasets.DATASETS.items() if dataset.on_real_bytes] == ["simulated", "cmea-u2os"]
    assert datasets.DATASETS["cdrp-u2os"].read is datasets.DATASETS["cmea-u2os"].read


ROSETTA = "https://cellpainting-gallery.s3.amazonaws.com/cpg0003-rosetta/broad/workspace/preprocessed_data/"
# screen, role, folder and file below ROSETTA, bytes, start of the ETag
ROSETTA_FILES = [
    ("cdrp-bio", "cp", "CDRPBIO-BBBC036-Bray/CellPainting/replicate_level_cp_normalized_variable_selected.csv.gz",
     117242590, "bffd9db9"),
    ("cdrp-bio", "cp_all", "CDRPBIO-BBBC036-Bray/CellPainting/replicate_level_cp_normalized.csv.gz",
     311539701, "0b86065f"),
    ("cdrp-bio", "tx", "CDRPBIO-BBBC036-Bray/L1000/replicate_level_l1k.csv.gz", 26842289, "5b45e5cb"),
    ("lincs-pilot1", "cp", "LINCS-Pilot1/CellPainting/replicate_level_cp_normalized_variable_selected.csv.gz",
     94527797, "33783625"),
    ("lincs-pilot1", "cp_all", "LINCS-Pilot1/CellPainting/replicate_level_cp_normalized.csv.gz",
     299683743, "f42af6b4"),
    ("lincs-pilot1", "tx", "LINCS-Pilot1/L1000/replicate_level_l1k.csv.gz", 78596337, "872c3185"),
    ("ta-orf", "cp", "TA-ORF-BBBC037-Rohban/CellPainting/replicate_level_cp_normalized_variable_selected.csv.gz",
     1106334, "1315c2fd"),
    ("ta-orf", "cp_all", "TA-ORF-BBBC037-Rohban/CellPainting/replicate_level_cp_normalized.csv.gz",
     27482072, "736ef2b8"),
    ("ta-orf", "tx", "TA-ORF-BBBC037-Rohban/L1000/replicate_level_l1k.csv.gz", 2022367, "1e643bb1"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "role", "path", "size", "etag"), ROSETTA_FILES)
def test_the_rosetta_files_stand_in_the_registry(name, role, path, size, etag):
    file = next(file for file in datasets.DATASETS[name].files if file.role == role)
    assert (file.address, file.bytes, file.checksum[:8]) == (ROSETTA + path, size, etag)
    assert (file.licence, file.checksum_kind) == ("CC0", "S3 ETag")


def test_the_rosetta_screens_say_what_their_columns_mean():
    rosetta = [name for name, dataset in datasets.DATASETS.items() if dataset.columns]
    assert rosetta == ["cdrp-bio", "lincs-pilot1", "ta-orf"]
    keys = {name: tuple(datasets.DATASETS[name].columns[kind].treatment for kind in ("cp", "tx")) for name in rosetta}
    assert keys == {
        "cdrp-bio": ("Metadata_Sample_Dose", "pert_sample_dose"),
        "lincs-pilot1": ("Metadata_pert_id_dose", "pert_id_dose"),
        "ta-orf": ("Metadata_broad_sample", "pert_id"),
    }
    assert not [file for file in datasets.DATASETS["ta-orf"].files if file.role == "hub"]


def test_the_simulated_screen_is_read_by_name():
    screen = datasets.read_screen("simulated", size="tiny", seed=3)
    assert check_screen(screen) == []
    assert len(datasets.describe_sources(screen)) == 0
    again, problems = datasets.examine_screen("simulated", size="tiny", seed=3)
    assert problems == []
    pd.testing.assert_frame_equal(screen.cp, again.cp)
    with pytest.raises(ScreenError, match=r"huge"):
        datasets.read_screen("simulated", size="huge")


def test_examine_reports_instead_of_raising():
    screen, problems = datasets.examine_screen("nothing")
    assert screen is None and len(problems) == 1 and "no data set is called 'nothing'" in problems[0]


GENES = {
    "HLA.DMA": "HLA-DMA",
    "MT.CO1": "MT-CO1",
    "NKX2.5": "NKX2-5",
    "KRTAP10.7": "KRTAP10-7",
    "ABC.AS1": "ABC-AS1",
    "AC012345.1": "AC012345.1",
    "RP11.54O7": "RP11.54O7",
    "TP53": "TP53",
    "C1orf1.2": "C1orf1.2",
}


@pytest.mark.parametrize("name", GENES)
def test_gene_symbols_lose_only_the_dots_of_r(name):
    assert datasets.clean_gene_symbol(name) == GENES[name]


def test_broken_r_files_are_named(tmp_path):
    (tmp_path / "x.rda").write_bytes(b"not R at all")
    with pytest.raises(ScreenError, match=r"x.rda: not a readable R data file"):
        datasets.read_r_profiles(tmp_path / "x.rda")
    import rdata

    rdata.write_rda(tmp_path / "two.rda", {"a": pd.DataFrame({"x": [1.0]}), "b": pd.DataFrame({"x": [1.0]})})
    with pytest.raises(ScreenError, match=r"two.rda: holds 2 data frames; exactly one"):
        datasets.read_r_profiles(tmp_path / "two.rda")
    rdata.write_rda(tmp_path / "text.rda", {"a": pd.DataFrame({"x": pd.Categorical(["word"])})})
    with pytest.raises(ScreenError, match=r"text.rda: column 'x' is not numeric"):
        datasets.read_r_profiles(tmp_path / "text.rda")


@pytest.fixture
def stand_in(tmp_path):
    """A mirror folder with small files of exactly the registry's layout, whose hashes are not the registry's."""
    import rdata

    ids = ["BRD-A00000001", "BRD-K00000002", "BRD-K00000003"]
    index = pd.Index(ids, dtype=object)
    profiles = pd.DataFrame({"Cells_A": [1.0, 2.0, 3.0], "Nuclei_B": [0.5, -40.0, 7.0]}, index=index)
    genes = pd.DataFrame({"HLA.DMA": [0.1, 0.2, 0.3], "TP53": [1.0, 2.0, 3.0]}, index=index)
    aspirin, block = "CC(=O)Oc1ccccc1C(=O)O", "BSYNRYMUTXBXSQ"
    texts = {
        "hub": "broad_id\tmoa\ttarget\tsmiles\tInChIKey14\n"
        f"BRD-K99999999-001-01-1\tcyclooxygenase inhibitor\tPTGS1|PTGS2\t{aspirin}\t{block}\n",
        "broad_ids": "broad_id\nBRD-A00000001\n",
        "broad_smiles": f"smiles\n{aspirin}\n",
        "assay_names": "PUMA_ASSAY_ID,ASSAY_NAME,ASSAY_TYPE\n220_692,Test assay,cell\n",
        "broad6k_structures": f"smiles,inchikey,pert_id\n{aspirin},{block},\n",
        "broad6k_assays": f"smiles,inchikey,220_692\n{aspirin},{block},0\n{aspirin},{block},1\n",
        "chembl2k_assays": f"smiles,inchikey,PTGS1,ABL1\n{aspirin},{block},1,\n",
        "toxcast_assays": f"smiles,mol_id,NVS_ENZ_hAChE\n{aspirin},,0\n",
    }
    for file in datasets.DATASETS["cmea-u2os"].files:
        path = tmp_path / "mirror" / file.mirror_path
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.role in ("cp", "tx"):
            rdata.write_rda(path, {"any_name": profiles if file.role == "cp" else genes})
        elif path.suffix == ".gz":
            path.write_bytes(gzip.compress(texts[file.role].encode()))
        else:
            path.write_text(texts[file.role])
    return tmp_path / "mirror"


def test_a_stand_in_is_refused_and_with_unverified_marked(stand_in, tmp_path):
    options = dict(mirror=str(stand_in), data_dir=str(tmp_path / "data"))
    with pytest.raises(ScreenError, match=r"SHA-256 is \w{12}, expected \w{12}"):
        datasets.read_screen("cmea-u2os", **options)
    screen = datasets.read_screen("cmea-u2os", unverified=True, **options)
    assert not datasets.describe_sources(screen)["verified"].any()
    assert "accepted with --unverified: data/Cell_Morphology_Profile.rda" in screen.notes[-1]
    assert feature_columns(screen.tx) == ["HLA-DMA", "TP53"]
    assert screen.cp["Nuclei_B"].tolist() == [0.5, -40.0, 7.0]  # raw: arcsinh is fitted inside the folds
    row = screen.compounds.set_index(COMPOUND).loc["BRD-A00000001"]
    assert row["InChIKey14"] == "BSYNRYMUTXBXSQ" and row["MoA"] == ["cyclooxygenase inhibitor"]
    assert screen.compounds["InChIKey14"].tolist()[1:] == ["", ""]
    labels = screen.activity.set_index("task")["active"].to_dict()
    assert labels == {"220_692 Test assay": 1, "NVS_ENZ_hAChE": 0, "ChEMBL PTGS1": 1}
    families = screen.tasks.set_index("task")["family"].to_dict()
    assert families == {"220_692 Test assay": "cell", "NVS_ENZ_hAChE": "other enzyme", "ChEMBL PTGS1": "other enzyme"}
    assert any(
        "broad6k: 1 compounds have 1 outcomes in 1 assays; 1 compound-assay pairs" in note for note in screen.notes
    )


def test_an_unverified_release_that_lost_a_column_is_named(stand_in, tmp_path):
    hub = next(file for file in datasets.DATASETS["cmea-u2os"].files if file.role == "hub")
    (stand_in / hub.mirror_path).write_text("broad_id\tmechanism\nBRD-K99999999\tx\n")
    with pytest.raises(ScreenError, match=r"repurposing_info.tsv: column 'moa' is missing"):
        datasets.read_screen("cmea-u2os", mirror=str(stand_in), data_dir=str(tmp_path), unverified=True)


def test_describe_sources_keeps_the_order_of_the_columns():
    screen = replace(
        datasets.read_screen("simulated", size="tiny"),
        sources=(
            {
                "file": "a",
                "address": "https://x/a",
                "sha256": "f" * 64,
                "bytes": 3,
                "verified": True,
                "licence": "CC0",
                "citation": "Y",
            },
        ),
    )
    table = datasets.describe_sources(screen)
    assert table.values.tolist() == [["a", 3, True, "f" * 12, "CC0", "Y", "https://x/a"]]


@pytest.fixture(scope="module")
def cmea(tmp_path_factory):
    if not MIRROR:
        pytest.skip("CPX_MIRROR isn't set to a folder with the real screen's files")
    folder = tmp_path_factory.mktemp("data")
    return datasets.read_screen("cmea-u2os", mirror=MIRROR, data_dir=str(folder))


@needs_mirror
def test_the_real_screen_has_the_published_shape(cmea):
    screen = cmea
    assert (len(screen.cp), len(feature_columns(screen.cp))) == (162, 812)
    assert (len(screen.tx), len(feature_columns(screen.tx))) == (162, 978)
    assert len(paired_compounds(screen)) == 162
    assert screen.cp[COMPOUND].tolist() == screen.tx[COMPOUND].tolist()
    assert screen.cp[COMPOUND].str.fullmatch(r"BRD-[AKM]\d{8}").all()
    assert {"HLA-DMA", "HLA-DRA"} <= set(feature_columns(screen.tx))
    assert not [name for name in feature_columns(screen.tx) if "." in name]
    assert screen.cp[DOSE].isna().all() and not screen.cp[CONTROL].any()
    values = screen.cp[feature_columns(screen.cp)].to_numpy()
    assert values.dtype == np.float32 and np.isfinite(values).all()
    # heavy tails as published: values stay raw
    np.testing.assert_allclose(np.quantile(values, [0.01, 0.99]), [-9.9, 12.4], atol=0.05)


@needs_mirror
def test_the_real_screen_is_annotated(cmea):
    compounds = cmea.compounds
    assert (compounds["InChIKey14"] != "").sum() == 123
    assert compounds["MoA"].map(bool).sum() == 44
    assert compounds.loc[compounds["InChIKey14"] != "", "InChIKey14"].nunique() == 118
    row = compounds.set_index(COMPOUND).loc["BRD-K59469039"]
    assert row["MoA"] == ["tyrosine kinase inhibitor"] and row["target"] == ["ERBB2", "KDR", "NTRK1"]


@needs_mirror
def test_the_real_assays_agree_with_counting_by_hand(cmea):
    screen = cmea
    source = next(item for item in screen.sources if item["file"].endswith("broad6k/raw/assays.csv.gz"))
    raw = pd.read_csv(os.path.join(MIRROR, source["address"].removeprefix("https://")))
    raw = raw[raw["inchikey"].isin(screen.compounds["InChIKey14"])]
    raw = raw.assign(key=profiles.inchikeys(raw["smiles"]))
    keys = profiles.inchikeys(screen.compounds["SMILES"])
    task = "260_738 MLPCN HDL Receptor"
    expected = {}
    for compound, block, key in zip(screen.compounds[COMPOUND], screen.compounds["InChIKey14"], keys, strict=True):
        own = raw.loc[raw["key"] == key, "260_738"].dropna()
        isomers = raw.loc[raw["inchikey"] == block, "260_738"].dropna()
        if len(own) or isomers.nunique() == 1:
            expected[compound] = int((own if len(own) else isomers).max())
    labels = screen.activity[screen.activity["task"] == task]
    assert dict(zip(labels[COMPOUND], labels["active"], strict=True)) == expected
    assert sum(expected.values()) == 10 and len(expected) == 53
    reached = screen.activity.merge(screen.tasks, on="task")
    by_source = (
        reached.assign(
            source=np.where(
                reached["task"].str.match(r"\d+_\d+"),
                "broad6k",
                np.where(reached["task"].str.startswith("ChEMBL "), "ChEMBL", "ToxCast"),
            )
        )
        .groupby("source")[COMPOUND]
        .nunique()
    )
    assert by_source.to_dict() == {"broad6k": 66, "ChEMBL": 16, "ToxCast": 19}


@needs_mirror
def test_the_real_sources_are_all_verified(cmea):
    table = datasets.describe_sources(cmea)
    assert len(table) == len(datasets.DATASETS["cmea-u2os"].files)
    assert table["verified"].all()
    assert table["bytes"].tolist() == [file.bytes for file in datasets.DATASETS["cmea-u2os"].files]
    assert table["sha256"][0] == "3c9345120210"


@needs_mirror
def test_the_small_files_have_the_git_blob_ids_that_git_gives():
    for role, blob in (
        ("cp", "719c76a6038649c3b26f7cf2534fa99ec5eda1a0"),
        ("tx", "85f92cd327e2af7af46df0c951526970246f1a08"),
    ):
        file = next(file for file in datasets.DATASETS["cmea-u2os"].files if file.role == role)
        assert downloads.git_blob_id(os.path.join(MIRROR, file.mirror_path)) == blob


@needs_mirror
def test_the_loader_of_the_complete_screen_reads_the_real_bytes_of_its_subset(cmea, tmp_path):
    by_role = {file.role: file for file in datasets.DATASETS["cmea-u2os"].files}
    for file in datasets.DATASETS["cdrp-u2os"].files:
        path = tmp_path / file.mirror_path
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.role in by_role:
            path.symlink_to(os.path.join(MIRROR, by_role[file.role].mirror_path))
        else:  # of the 270 assays two, for aspirin and a compound that the screen does not hold
            path.write_text("smiles,1_1,220_692\nCC(=O)Oc1ccccc1C(=O)O,1,-1\nCCO,,0\n")
    screen = datasets.read_screen("cdrp-u2os", mirror=str(tmp_path), data_dir=str(tmp_path / "data"), unverified=True)
    pd.testing.assert_frame_equal(screen.cp, cmea.cp)
    pd.testing.assert_frame_equal(screen.tx, cmea.tx)
    pd.testing.assert_frame_equal(screen.compounds, cmea.compounds)
    assert any(note.startswith("Moshkov 270: ") for note in screen.notes)
    unverified = datasets.describe_sources(screen).set_index("file")["verified"]
    assert not unverified[
        ["data/Cell_Morphology_Profile_Complete.rda", "data/Transcriptomic_Profile_Complete.rda"]
    ].any()
    assert unverified["metadata/moa/repurposing_info.tsv"]
