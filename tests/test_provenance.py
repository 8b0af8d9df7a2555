"""Hashes, atomic writes and the record of a stage."""

import os

import matplotlib
import numpy as np
import pandas as pd
import pytest

from cpx_utils.profiles import ScreenError
from cpx_utils.provenance import (
    Workspace,
    atomic_path,
    package_versions,
    peak_memory_mb,
    read_json,
    record_path,
    run_manifest,
    sha256_file,
    stage_records,
    write_json,
)

matplotlib.use("agg")
import matplotlib.pyplot as plt


def open_workspace(tmp_path, stage, **options):
    return Workspace(stage, str(tmp_path / "run"), str(tmp_path / "figures"), **options)


@pytest.fixture
def table():
    numbers = np.random.default_rng(0).normal(size=(5, 2))
    return pd.DataFrame(numbers, columns=["x", "y"]).assign(Metadata_Compound=list("abcde"))


# --- files --------------------------------------------------------------------------------------------------


def test_atomic_path_leaves_the_old_file_and_nothing_else_on_error(tmp_path):
    target = tmp_path / "sub" / "a.csv.gz"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.name.endswith(".csv.gz")
        temporary.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["a.csv.gz"]
    mask = os.umask(0)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask  # not private, as mkstemp makes it


# --- reading and writing ------------------------------------------------------------------------------------


def test_tables_come_back_and_their_hashes_are_recorded(tmp_path, table):
    writer = open_workspace(tmp_path, "01_prepare")
    writer.write(table, "cp.parquet")
    writer.write(table, "tables/cp.csv")
    shown = writer.finish()
    assert list(shown["file"]) == ["cp.parquet", "tables/cp.csv"] and (shown["kB"] > 0).all()
    assert read_json(record_path(tmp_path / "run", "01_prepare"))["modules"].count("cpx_utils/profiles.py") == 1
    reader = open_workspace(tmp_path, "02_fit")
    pd.testing.assert_frame_equal(reader.read("cp.parquet"), table)
    assert reader.read("tables/cp.csv")["x"].tolist() == [float(f"{x:.10g}") for x in table["x"]]
    reader.finish()
    records = stage_records(tmp_path / "run")
    assert list(records) == ["01_prepare", "02_fit"]
    assert records["01_prepare"]["writes"] == records["02_fit"]["reads"]
    assert records["02_fit"]["reads"]["cp.parquet"] == sha256_file(tmp_path / "run" / "cp.parquet")


def test_missing_unfinished_edited_and_damaged_inputs_are_told_in_one_line(tmp_path, table):
    reader = open_workspace(tmp_path, "05_cluster")
    with pytest.raises(ScreenError, match=r"05_cluster needs cp\.parquet, which an earlier notebook makes"):
        reader.read("cp.parquet")
    writer = open_workspace(tmp_path, "01_prepare")
    writer.write(table, "cp.parquet")
    with pytest.raises(ScreenError, match="run that to its end first"):
        reader.read("cp.parquet")
    writer.finish()
    reader.read("cp.parquet")
    path = tmp_path / "run" / "cp.parquet"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ScreenError, match=r"isn't what 01_prepare wrote .* --only 01 --force") as error:
        reader.read("cp.parquet")
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(ScreenError, match="which 01_prepare makes: run that to its end first"):
        reader.read("cp.parquet")
    record = tmp_path / "run" / "stages" / "01_prepare.json"
    record.write_bytes(record.read_bytes()[:-20])
    assert stage_records(tmp_path / "run") == {}


def test_a_stage_that_runs_again_reads_what_an_earlier_stage_wrote(tmp_path, table):
    for stage, value in (("01_prepare", 1.0), ("02_fit", 2.0)):
        writer = open_workspace(tmp_path, stage)
        writer.write(table.assign(x=value), "cp.parquet")
        writer.finish()
    again = open_workspace(tmp_path, "02_fit")
    with pytest.raises(ScreenError, match=r"^cp\.parquet isn't what 01_prepare wrote"):
        again.read("cp.parquet")  # its own earlier record doesn't vouch for it
    assert (open_workspace(tmp_path, "03_train").read("cp.parquet")["x"] == 2.0).all()


def test_folders_and_files_are_recorded_whole_and_emptied_first(tmp_path):
    writer = open_workspace(tmp_path, "03_train")
    (writer.output_folder("models/contrastive") / "old").write_text("2")
    folder = writer.output_folder("models/contrastive")
    assert not list(folder.iterdir())
    (folder / "deep").mkdir()
    (folder / "deep" / "weights").write_text("3")
    writer.output_file("screen.json").write_text("{}")
    final = tmp_path / "run" / "models" / "contrastive"
    writer.finish()
    assert [path.name for path in final.parent.rglob("*")] == ["contrastive", "deep", "weights"]
    reader = open_workspace(tmp_path, "08_embed")
    assert (reader.input_folder("models/contrastive") / "deep" / "weights").read_text() == "3"
    assert reader.input_file("screen.json").read_text() == "{}"
    reader.finish()
    reads = set(stage_records(tmp_path / "run")["08_embed"]["reads"])
    assert reads == {"models/contrastive/deep/weights", "screen.json"}
    (final / "deep" / "weights").write_text("4")
    with pytest.raises(ScreenError, match="isn't what 03_train wrote"):
        reader.input_folder("models/contrastive")
    with pytest.raises(ScreenError, match="needs models/none, which an earlier"):
        reader.input_folder("models/none")


def test_tables_are_read_by_name_and_in_order_when_they_are_asked_for(tmp_path, table):
    writer = open_workspace(tmp_path, "02_fit")
    for factor, name in enumerate(("ridge", "cca", "pca")):
        writer.write(table.assign(x=table["x"] * factor, seed=range(5)), f"embeddings/{name}_wells.parquet")
    writer.finish()
    reader = open_workspace(tmp_path, "05_cluster")
    tables = reader.tables("embeddings/*_wells.parquet", ["cca", "ridge"], [("seed", "<", 3)])
    assert list(tables) == ["cca", "ridge"] and len(tables) == 2 and "pca" not in tables and reader._reads == {}
    np.testing.assert_array_equal(tables["cca"]["x"], table["x"].iloc[:3])
    assert list(reader._reads) == ["embeddings/cca_wells.parquet"]
    assert [(name, one["x"].abs().sum() > 0) for name, one in tables.items()] == [("cca", True), ("ridge", False)]


# --- figures and records ------------------------------------------------------------------------------------


def test_figures_are_byte_stable_and_lie_where_they_belong(tmp_path, table):
    written = {}
    for name in ("a", "b"):
        fig, ax = plt.subplots()
        ax.scatter(table["x"], table["y"], clip_on=True)
        ax.set_title(r"$\tau$")
        fig.suptitle("It is\nfound")
        workspace = open_workspace(tmp_path / name, "05_cluster")
        workspace.figure(fig, "05_map", table.assign(x=1 / 3), "A  caption\nover lines.")
        plt.close(fig)
        workspace.finish()
        paths = [path for path in (tmp_path / name).rglob("05_map.*")]
        written[name] = {path.relative_to(tmp_path / name).as_posix(): path.read_bytes() for path in paths}
    assert sorted(written["a"]) == ["figures/05_map.csv", "figures/05_map.png", "run/figures/05_map.svg"]
    assert written["a"] == written["b"]
    assert b"\n0.33333," in written["a"]["figures/05_map.csv"]
    record = stage_records(tmp_path / "a" / "run")["05_cluster"]
    assert record["figures"] == [{"name": "05_map", "title": "It is found", "caption": "A caption over lines."}]
    assert set(record["writes"]) == {"figures:05_map.csv", "figures:05_map.png", "figures/05_map.svg"}
    for content in list(written["a"].values())[:2]:
        assert b"matplotlib" not in content.lower() and b"<dc:date>" not in content


def test_a_stage_leaves_a_whole_record_and_the_manifest_tells_it(tmp_path, table, capsys):
    workspace = open_workspace(tmp_path, "01_prepare")
    with workspace.step("fit"):
        pass
    (tmp_path / "outside.csv").write_text("x")
    outside = workspace.record_input(str(tmp_path / "sub" / ".." / "outside.csv"))
    assert outside == tmp_path / "outside.csv"
    write_json(workspace.output_file("screen.json"), {"sources": [{"file": "a.rda", "verified": False}]})
    workspace.output_file("never-written.txt")
    workspace.say(" One\nsentence. ")
    workspace.finish()
    assert "sentence" in capsys.readouterr().out
    record = stage_records(tmp_path / "run")["01_prepare"]
    assert record["reads"] == {str(outside): sha256_file(outside)} and list(record["writes"]) == ["screen.json"]
    assert record["steps"][0]["step"] == "fit" and record["steps"][0]["seconds"] >= 0
    assert record["learned"] == ["One sentence."] and record["device"] == "cpu" and record["peak_mb"] > 20
    record["run"] = {"fingerprint": {"parameters": {"seed": 1}}, "seconds": 2.5}
    write_json(tmp_path / "run" / "stages" / "01_prepare.json", record)
    manifest = run_manifest(tmp_path / "run", dataset="s", profile="smoke", seed=1, threads=1, unverified=False)
    assert manifest["unverified"] and manifest["inputs"][0]["file"] == "a.rda"
    stage = manifest["stages"]["01_prepare"]
    assert (stage["parameters"], stage["seconds"], list(stage["inputs"])) == ({"seed": 1}, 2.5, [str(outside)])
    assert manifest["packages"]["numpy"] == np.__version__ == package_versions()["numpy"]
    assert manifest["git"] == {} or len(manifest["git"]["commit"]) == 40
    assert 20 < peak_memory_mb() < 1e5
