"""Hashes, atomic writes and the record of a stage."""

import hashlib
import json
import os

import numpy as np
import pandas as pd
import pytest

from cpx_utils.profiles import ScreenError
from cpx_utils.provenance import (
    FileHashes,
    Workspace,
    atomic_path,
    git_state,
    locate,
    package_versions,
    project_root,
    read_json,
    read_record,
    remove_unfinished,
    run_manifest,
    sha256_file,
    stage_record_path,
    stage_records,
    write_json,
    write_record,
)


def open_workspace(tmp_path, stage, **options):
    return Workspace(stage, str(tmp_path / "run"), str(tmp_path / "figures"), **options)


@pytest.fixture
def table():
    numbers = np.random.default_rng(0).normal(size=(5, 2))
    return pd.DataFrame(numbers, columns=["x", "y"]).assign(Metadata_Compound=list("abcde"))


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "f").write_bytes(b"profile" * 100_000)
    assert sha256_file(tmp_path / "f") == hashlib.sha256(b"profile" * 100_000).hexdigest()


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


def test_json_takes_numpy_and_paths_and_tells_damage(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"n": np.int64(3), "x": np.array([1.5, 2]), "p": tmp_path, "é": True})
    assert read_json(path) == {"n": 3, "x": [1.5, 2.0], "p": str(tmp_path), "é": True}
    with pytest.raises(TypeError):
        write_json(path, {"set": {1}})
    assert read_json(path)["n"] == 3
    path.write_text('{"n": ')
    with pytest.raises(ScreenError, match=r"a\.json isn't valid JSON"):
        read_json(path)


def test_file_hashes_are_remembered_until_the_file_changes(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_text("one")
    monkeypatch.setattr(FileHashes, "SETTLED_NS", 0)
    hashes = FileHashes(tmp_path / "h.json")
    first = hashes.sha256(path)
    assert first == sha256_file(path) and hashes.sha256(tmp_path / "none") == ""
    hashes.save()
    monkeypatch.setattr("cpx_utils.provenance.sha256_file", lambda path: pytest.fail("hashed again"))
    again = FileHashes(tmp_path / "h.json")
    assert again.sha256(path) == first
    monkeypatch.undo()
    before = path.stat()
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, and its time put back
    assert again.sha256(path) == sha256_file(path) != first
    (tmp_path / "h.json").write_text("damaged")
    assert FileHashes(tmp_path / "h.json").sha256(path) == sha256_file(path)


def test_what_cannot_be_kept_of_hashes_is_done_without(tmp_path, monkeypatch):
    monkeypatch.setattr(FileHashes, "SETTLED_NS", 0)
    (tmp_path / "f").write_text("one")
    (tmp_path / "file").touch()
    hashes = FileHashes(tmp_path / "file" / "h.json")  # no folder, so nothing can be written there
    digest = hashes.sha256(tmp_path / "f")
    hashes.save()
    assert digest == sha256_file(tmp_path / "f") and (tmp_path / "file").read_text() == ""


def test_a_record_is_trusted_only_as_it_was_written(tmp_path):
    path = tmp_path / "r.json"
    record = {"writes": {"é.csv": "0" * 64}, "seconds": np.float64(0.1), "run": None}
    assert read_record(path) is None
    write_record(path, record)
    assert read_record(path) == record
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        assert read_record(path) in (None, record), place
        path.write_bytes(whole[:place])
        assert read_record(path) in (None, record), place
    path.write_bytes(whole.replace(b"0.1", b"0.2"))
    assert read_record(path) is None
    write_json(path, [1])
    assert read_record(path) is None


def test_a_damaged_record_counts_as_none(tmp_path, table):
    for stage in ("01_prepare", "02_fit"):
        writer = open_workspace(tmp_path, stage)
        writer.write(table, f"{stage}.csv")
        writer.finish()
    path = stage_record_path(tmp_path / "run", "01_prepare")
    path.write_bytes(path.read_bytes()[:-20])
    assert list(stage_records(tmp_path / "run")) == ["02_fit"]
    reader = open_workspace(tmp_path, "05_cluster")
    assert len(reader.read("02_fit.csv")) == 5
    with pytest.raises(ScreenError, match="didn't run to its end: run that again"):
        reader.read("01_prepare.csv")


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    for name in (".writing-a.csv", "sub/.writing-b.parquet", "sub/.writing-c/deep/d", "sub/kept.csv", ".kept"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".kept", "kept.csv", "sub"]
    remove_unfinished(tmp_path / "nowhere")


def test_a_file_changed_within_the_clock_tick_is_noticed(tmp_path):
    path = tmp_path / "f"
    path.write_text("one")
    stamp = path.stat().st_mtime_ns
    hashes = FileHashes(tmp_path / "h.json")
    hashes.sha256(path)
    path.write_text("two")
    os.utime(path, ns=(stamp, stamp))  # same size, same time
    assert hashes.sha256(path) == sha256_file(path)


def test_tables_come_back_and_their_hashes_are_recorded(tmp_path, table):
    writer = open_workspace(tmp_path, "01_prepare")
    writer.write(table, "cp.parquet")
    writer.write(table, "tables/cp.csv")
    shown = writer.finish()
    assert list(shown["file"]) == ["cp.parquet", "tables/cp.csv"] and (shown["kB"] > 0).all()
    reader = open_workspace(tmp_path, "02_fit")
    pd.testing.assert_frame_equal(reader.read("cp.parquet"), table)
    np.testing.assert_allclose(reader.read("tables/cp.csv")["x"], table["x"], rtol=1e-9)
    reader.finish()
    records = stage_records(tmp_path / "run")
    assert list(records) == ["01_prepare", "02_fit"]
    assert records["01_prepare"]["writes"] == records["02_fit"]["reads"]
    assert records["02_fit"]["reads"]["cp.parquet"] == sha256_file(tmp_path / "run" / "cp.parquet")


def test_the_same_numbers_give_the_same_bytes_and_no_absolute_path(tmp_path, table):
    for name in ("a", "b"):
        workspace = open_workspace(tmp_path / name, "01_prepare")
        workspace.write(table, "t.csv")
        workspace.write(table, "t.parquet")
    for name in ("t.csv", "t.parquet"):
        one, two = (tmp_path / folder / "run" / name for folder in "ab")
        assert one.read_bytes() == two.read_bytes()
        assert str(tmp_path).encode() not in one.read_bytes()
    assert (tmp_path / "a/run/t.csv").read_text().splitlines()[1].split(",")[0] == f"{table['x'][0]:.10g}"


def test_missing_unfinished_and_damaged_tables_are_told_in_one_line(tmp_path, table):
    reader = open_workspace(tmp_path, "05_cluster")
    with pytest.raises(ScreenError, match=r"05_cluster needs cp\.parquet, which an earlier notebook makes"):
        reader.read("cp.parquet")
    writer = open_workspace(tmp_path, "01_prepare")
    writer.write(table, "cp.parquet")
    with pytest.raises(ScreenError, match="didn't run to its end"):
        reader.read("cp.parquet")
    writer.finish()
    reader.read("cp.parquet")
    path = tmp_path / "run" / "cp.parquet"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ScreenError, match=r"isn't what 01_prepare wrote .* --only 01 --force") as error:
        reader.read("cp.parquet")
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(ScreenError, match="which 01_prepare makes: run that first"):
        reader.read("cp.parquet")
    with pytest.raises(ValueError, match="tables end in"):
        writer.write(table, "cp.xlsx")


def test_the_notebook_that_makes_a_missing_table_is_found(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    cell = {"cell_type": "code", "source": ['workspace.write(wells, "embeddings/raw_cp.parquet")']}
    (tmp_path / "notebooks" / "02_fit.ipynb").write_text(json.dumps({"cells": [cell]}))
    monkeypatch.setattr("cpx_utils.provenance.project_root", lambda: tmp_path)
    with pytest.raises(ScreenError, match="which 02_fit makes"):
        open_workspace(tmp_path, "05_cluster").read("embeddings/raw_cp.parquet")


def test_folders_and_files_are_recorded_whole_and_emptied_first(tmp_path):
    writer = open_workspace(tmp_path, "03_train")
    folder = writer.output_folder("models/contrastive")
    (folder / "deep").mkdir()
    (folder / "deep" / "weights").write_text("1")
    (folder / "old").write_text("2")
    folder = writer.output_folder("models/contrastive")
    assert not list(folder.iterdir())
    (folder / "weights").write_text("3")
    writer.output_file("screen.json").write_text("{}")
    final = tmp_path / "run" / "models" / "contrastive"
    assert not final.exists(), "a reader would see a half-filled folder"
    writer.finish()
    assert [path.name for path in final.parent.rglob("*")] == ["contrastive", "weights"]
    mask = os.umask(0)
    os.umask(mask)
    assert final.stat().st_mode & 0o777 == 0o777 & ~mask  # not private, as mkdtemp makes it
    reader = open_workspace(tmp_path, "08_embed")
    assert (reader.input_folder("models/contrastive") / "weights").read_text() == "3"
    assert reader.input_file("screen.json").read_text() == "{}"
    reader.finish()
    expected = {"models/contrastive/weights", "screen.json"}
    assert set(stage_records(tmp_path / "run")["08_embed"]["reads"]) == expected
    (final / "weights").write_text("4")
    with pytest.raises(ScreenError, match="isn't what 03_train wrote"):
        reader.input_folder("models/contrastive")
    with pytest.raises(ScreenError, match="needs the folder models/none"):
        reader.input_folder("models/none")
    (writer.output_folder("models/contrastive") / "other").write_text("5")
    assert (final / "weights").read_text() == "4"  # until the stage is done
    writer.finish()
    assert [path.name for path in final.iterdir()] == ["other"]


def test_outside_files_are_recorded_by_absolute_path(tmp_path):
    (tmp_path / "mine.csv").write_text("a")
    workspace = open_workspace(tmp_path, "01_prepare")
    workspace.record_input(tmp_path / "mine.csv")
    with pytest.raises(ScreenError, match="isn't there"):
        workspace.record_input(tmp_path / "none.csv")
    workspace.finish()
    name = str(tmp_path / "mine.csv")
    assert list(stage_records(tmp_path / "run")["01_prepare"]["reads"]) == [name]
    assert locate(name, tmp_path / "run", tmp_path / "figures") == tmp_path / "mine.csv"


def test_figures_are_byte_stable_and_open(tmp_path, table):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    written = {}
    for name in ("a", "b"):
        fig, ax = plt.subplots()
        ax.scatter(table["x"], table["y"], clip_on=True)
        ax.set_title(r"$\tau$")
        fig.suptitle("It is\nfound")
        workspace = open_workspace(tmp_path / name, "05_cluster")
        workspace.figure(fig, "05_map", table, "A  caption\nover lines.")
        assert plt.fignum_exists(fig.number)
        plt.close(fig)
        workspace.finish()
        written[name] = {path.name: path.read_bytes() for path in (tmp_path / name / "figures").iterdir()}
    assert sorted(written["a"]) == ["05_map.csv", "05_map.png", "05_map.svg"]
    assert written["a"] == written["b"]
    record = stage_records(tmp_path / "a" / "run")["05_cluster"]
    assert record["figures"] == [{"name": "05_map", "title": "It is found", "caption": "A caption over lines."}]
    assert set(record["writes"]) == {"figures:05_map.csv", "figures:05_map.png", "figures:05_map.svg"}


def test_a_figure_is_shown_with_its_caption_and_read_out_by_its_title(tmp_path, table, monkeypatch):
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    from cpx_utils import plots

    empty = pd.DataFrame(columns=["method", "x", "y", "label"])
    figure = plots.embedding_maps(empty, title="It rises\nin all of them", label_order=[])
    monkeypatch.setattr("cpx_utils.provenance._in_notebook", lambda: True)
    InteractiveShell.instance()
    try:
        with capture_output() as shown:
            open_workspace(tmp_path, "05_cluster").figure(figure, "05_map", empty, "What <it> shows.")
    finally:
        InteractiveShell.clear_instance()
    picture, words = shown.outputs
    assert picture.metadata["image/png"]["alt"] == "It rises in all of them"
    assert words.data["text/markdown"] == "`05_map`: What &lt;it&gt; shows."


def test_steps_and_sentences_are_recorded(tmp_path, capsys):
    workspace = open_workspace(tmp_path, "05_cluster")
    with workspace.step("fit"):
        sum(range(10))
    with pytest.raises(KeyError), workspace.step("fails"):
        raise KeyError
    workspace.say("mAP rose by\n 0.1.")
    workspace.finish()
    record = stage_records(tmp_path / "run")["05_cluster"]
    assert [step["step"] for step in record["steps"]] == ["fit", "fails"]
    assert all(step["seconds"] >= 0 and step["peak_mb"] > 10 for step in record["steps"])
    assert record["learned"] == ["mAP rose by 0.1."] and record["device"].startswith(("cpu", "cuda"))
    assert "0.1" in capsys.readouterr().out


def test_a_workspace_without_folders_uses_those_of_the_project(tmp_path, monkeypatch):
    monkeypatch.setattr("cpx_utils.provenance.project_root", lambda: tmp_path)
    assert Workspace("01_prepare").run_dir == tmp_path / "results" / "simulated" / "default"
    (tmp_path / "mine.toml").write_text('name = "my-screen"\n')
    workspace = Workspace("01_prepare", dataset=str(tmp_path / "mine.toml"))
    assert workspace.figures_dir == tmp_path / "figures" / "my-screen"
    with pytest.raises(ScreenError, match=r"none\.toml isn't the TOML file of a screen"):
        Workspace("01_prepare", dataset="none.toml")


def test_project_root_holds_the_notebooks():
    assert (project_root() / "pyproject.toml").is_file() and (project_root() / "notebooks").is_dir()


def test_manifest_says_where_a_run_comes_from(tmp_path):
    workspace = open_workspace(tmp_path, "01_prepare")
    write_json(workspace.output_file("screen.json"), {"sources": [{"file": "a.rda", "verified": False}]})
    workspace.finish()
    path = stage_record_path(tmp_path / "run", "01_prepare")
    run = {"fingerprint": {"parameters": {"seed": 1}}, "seconds": 2.5, "git": {}}
    write_record(path, read_record(path) | {"run": run})
    manifest = run_manifest(tmp_path / "run", dataset="s", profile="smoke", seed=1, threads=1, unverified=False)
    assert manifest["unverified"] and manifest["inputs"][0]["file"] == "a.rda"
    assert manifest["stages"]["01_prepare"]["parameters"] == {"seed": 1}
    assert manifest["stages"]["01_prepare"]["seconds"] == 2.5
    assert manifest["packages"]["numpy"] == np.__version__
    json.dumps(manifest)


def test_versions_and_git_state_cope_with_what_is_missing(tmp_path):
    assert package_versions()["pandas"] == pd.__version__
    assert git_state(tmp_path) == {}
    assert stage_record_path("run", "01_prepare").as_posix() == "run/stages/01_prepare.json"


def test_tables_are_read_by_name_and_in_order_when_they_are_asked_for(tmp_path, table):
    writer = open_workspace(tmp_path, "02_fit")
    for factor, name in enumerate(("ridge", "cca", "pca")):
        writer.write(table.assign(x=table["x"] * factor, seed=range(5)), f"embeddings/{name}_wells.parquet")
    writer.finish()
    reader = open_workspace(tmp_path, "05_cluster")
    tables = reader.tables("embeddings/*_wells.parquet", ["cca", "ridge"], [("seed", "<", 3)])
    assert list(tables) == ["cca", "ridge"] and len(tables) == 2
    assert "pca" not in tables and reader._reads == {}
    np.testing.assert_array_equal(tables["cca"]["x"], table["x"].iloc[:3])
    assert list(reader._reads) == ["embeddings/cca_wells.parquet"]
    assert [one["x"].abs().sum() > 0 for one in tables.values()] == [True, False]
    (tmp_path / "run" / "embeddings" / "cca_wells.parquet").write_bytes(b"else")
    with pytest.raises(ScreenError, match=r"cca_wells.parquet isn't what 02_fit wrote"):
        tables["cca"]
