"""The registry and its loaders; the real screen is read where its mirror folder is given (CPX_MIRROR)."""

import os
import re

import numpy as np
import pandas as pd
import pytest
import rdata

from cpx_utils import datasets
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, ScreenError, feature_columns, paired_compounds

MIRROR = os.environ.get("CPX_MIRROR", "")
CHECKSUM = r"sha256:[0-9a-f]{64}|git:[0-9a-f]{40}|s3:[0-9a-f]{32}(-\d+)?"
needs_mirror = pytest.mark.skipif(not MIRROR, reason="CPX_MIRROR isn't set to a folder with the real screen's files")


def test_unknown_names_list_the_choices():
    with pytest.raises(ScreenError) as caught:
        datasets.read_screen("cmea-u2so")
    line = str(caught.value)
    assert "'cmea-u2so'" in line and "simulated, cmea-u2os" in line and ".toml" in line
    assert "Did you mean 'cmea-u2os'?" in line and "\n" not in line


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_registry_entries_are_complete(name):
    dataset = datasets.DATASETS[name]
    assert dataset.name == name == datasets.dataset_name(name) and dataset.reader in datasets.READERS
    assert len({file.name for file in dataset.files}) == len(dataset.files)
    for file in dataset.files:
        assert re.fullmatch(r"https://[\w.-]+(/[\w.-]+)+", file.address) and ".." not in file.address
        assert file.licence and file.citation
        # of the large files of cdrp-u2os git tells the hash and not the size
        assert file.bytes > 0 or (name == "cdrp-u2os" and file.checksum.startswith("git:"))
        assert re.fullmatch(CHECKSUM, file.checksum)
        if file.checksum.startswith("s3:"):
            parts = -(-file.bytes // datasets.S3_PART_BYTES)
            assert file.checksum.partition("-")[2] == (str(parts) if parts > 1 else "")


@pytest.mark.parametrize("content", [b"not R at all", {"a": [1.0], "b": [1.0]}, {"a": pd.Categorical(["word"])}])
def test_broken_r_files_are_named(tmp_path, content):
    if isinstance(content, bytes):
        (tmp_path / "x.rda").write_bytes(content)
    else:
        rdata.write_rda(tmp_path / "x.rda", {name: pd.DataFrame({"x": values}) for name, values in content.items()})
    with pytest.raises(ScreenError, match=r"x.rda: not readable as one R data frame of numbers"):
        datasets.read_r_profiles(tmp_path / "x.rda")


@pytest.fixture(scope="module")
def cmea(tmp_path_factory):
    if not MIRROR:
        pytest.skip("CPX_MIRROR isn't set to a folder with the real screen's files")
    return datasets.read_screen("cmea-u2os", mirror=MIRROR, data_dir=str(tmp_path_factory.mktemp("data")))


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
    assert (compounds[["InChIKey14", "SMILES"]] != "").to_numpy().all()
    assert compounds["MoA"].map(bool).sum() == 44
    assert compounds["InChIKey14"].nunique() == 155
    row = compounds.set_index(COMPOUND).loc["BRD-K59469039"]
    assert row["MoA"] == ["tyrosine kinase inhibitor"] and row["target"] == ["ERBB2", "KDR", "NTRK1"]


@needs_mirror
def test_the_real_assays_reach_as_many_compounds_as_counting_by_hand_finds(cmea):
    labels = cmea.activity.loc[cmea.activity["task"] == "260_738 MLPCN HDL Receptor", "active"]
    assert (len(labels), labels.sum()) == (53, 10)
    reached = cmea.activity.merge(cmea.tasks, on="task").groupby("source")[COMPOUND].nunique()
    assert reached.to_dict() == {"broad6k": 66, "ChEMBL": 16, "ToxCast": 25, "cell counts": 162}


@needs_mirror
def test_the_real_sources_are_all_verified_and_git_agrees(cmea):
    table, files = pd.DataFrame(list(cmea.sources)), datasets.DATASETS["cmea-u2os"].files
    assert table["verified"].all() and table["bytes"].tolist() == [file.bytes for file in files]
    blob = "git:719c76a6038649c3b26f7cf2534fa99ec5eda1a0"
    assert datasets.checksum(os.path.join(MIRROR, files[0].mirror_path), blob) == blob
