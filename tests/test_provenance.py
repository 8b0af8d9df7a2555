"""Hashes, atomic writes and the record of a stage."""

import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cpx_utils import provenance
from cpx_utils.profiles import ScreenError
from cpx_utils.provenance import (
    FileHashes,
    Workspace,
    atomic_path,
    git_state,
    locate,
    package_versions,
    peak_memory_mb,
    project_root,
    read_json,
    read_record,
    remove_unfinished,
    run_manifest,
    save_figure,
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
    with pytest.raises(TypeError, match=r"^set can't be written as JSON$"):
        write_json(path, {"set": {1}})
    assert read_json(path)["n"] == 3
    path.write_text('{"n": ')
    with pytest.raises(ScreenError, match=r"a\.json isn't valid JSON \(.*\); delete it and run again$"):
        read_json(path)


def test_json_is_written_for_people_in_the_order_given(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1], "a": "µm"})
    assert (tmp_path / "a.json").read_bytes() == '{\n "b": [\n  1\n ],\n "a": "µm"\n}\n'.encode()


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


def test_what_is_known_of_files_is_kept_only_when_it_changed_and_while_they_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(FileHashes, "SETTLED_NS", 0)
    paths = [tmp_path / name for name in ("one", "two")]

    def entry(path):
        status = path.stat()
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, sha256_file(path)]

    for path in paths:
        path.write_text(path.name)
    store = tmp_path / "h.json"
    FileHashes(store).save()
    assert not store.exists()  # nothing was learned
    hashes = FileHashes(store)
    for path in paths:
        hashes.sha256(path)
    hashes.save()
    assert read_json(store) == {str(path): entry(path) for path in paths}
    store.unlink()
    hashes.sha256(paths[0])
    hashes.save()
    assert not store.exists()  # nothing new
    paths[0].unlink()
    paths[1].write_text("three")
    hashes.sha256(paths[1])
    hashes.save()
    assert read_json(store) == {str(paths[1]): entry(paths[1])}
    paths[1].write_text("seven")
    os.utime(paths[1], (2_000_000, 2_000_000))  # another time of the same size
    assert hashes.sha256(paths[1]) == sha256_file(paths[1])


@pytest.mark.parametrize(("age_ns", "remembered"), [(2_000_000_000, False), (2_000_000_001, True)])
def test_a_file_is_remembered_when_it_is_older_than_two_seconds(tmp_path, monkeypatch, age_ns, remembered):
    path = tmp_path / "f"
    path.write_text("one")
    monkeypatch.setattr(time, "time_ns", lambda: path.stat().st_mtime_ns + age_ns)
    hashes = FileHashes(tmp_path / "h.json")
    hashes.sha256(path)
    hashes.save()
    assert (tmp_path / "h.json").exists() == remembered


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
    elsewhere = Workspace("01_prepare", run_dir=str(tmp_path / "run"), dataset=str(tmp_path / "mine.toml"))
    assert (elsewhere.run_dir, elsewhere.figures_dir) == (tmp_path / "run", tmp_path / "figures" / "my-screen")
    with pytest.raises(ScreenError, match=r"none\.toml isn't the TOML file of a screen"):
        Workspace("01_prepare", dataset="none.toml")


def test_project_root_holds_the_notebooks():
    assert (project_root() / "pyproject.toml").is_file() and (project_root() / "notebooks").is_dir()


def test_a_project_is_found_from_a_folder_in_it_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "site-packages" / "cpx_utils" / "provenance.py"))
    project = tmp_path / "project"
    deep = project / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    (project / "notebooks").mkdir()
    with pytest.raises(ScreenError) as error:
        project_root()
    expected = f"no folder with notebooks/ and pyproject.toml at or above {deep}; start from a checkout of cpx"
    assert str(error.value) == expected
    (project / "pyproject.toml").touch()
    assert project_root() == project
    monkeypatch.chdir(project)
    assert project_root() == project
    (deep / "pyproject.toml").touch()
    monkeypatch.chdir(deep)
    assert project_root() == project  # one of the two isn't enough
    beside = tmp_path / "site-packages"
    (beside / "notebooks").mkdir(parents=True)
    (beside / "pyproject.toml").touch()
    assert project_root() == beside


def test_memory_is_told_in_megabytes_on_every_system(monkeypatch):
    usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=2_123_456))
    monkeypatch.setattr(provenance, "resource", usage)
    monkeypatch.setattr(sys, "platform", "linux")
    assert peak_memory_mb() == 2174.4  # kibibytes
    monkeypatch.setattr(sys, "platform", "darwin")
    assert peak_memory_mb() == 2.1
    monkeypatch.setattr(provenance, "resource", None)
    assert math.isnan(peak_memory_mb())


def test_recorded_names_mean_files(tmp_path):
    assert locate("figures:05_map.png", "run", "pictures").as_posix() == "pictures/05_map.png"
    assert locate("tables/moa.csv", "run", "pictures").as_posix() == "run/tables/moa.csv"


def test_a_figure_is_saved_sharp_tight_and_with_few_digits(tmp_path):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.image
    import matplotlib.pyplot as plt

    fig = plt.figure(figsize=(4, 3))
    fig.text(0.5, 0.5, "middle")
    try:
        written = save_figure(fig, tmp_path / "sub" / "05.map", pd.DataFrame({"x": [1 / 3]}))
    finally:
        plt.close(fig)
    assert written == (".png", ".svg", ".csv")
    assert sorted(path.name for path in (tmp_path / "sub").iterdir()) == ["05.map.csv", "05.map.png", "05.map.svg"]
    assert (tmp_path / "sub" / "05.map.csv").read_text() == "x\n0.33333\n"
    height, width = matplotlib.image.imread(tmp_path / "sub" / "05.map.png").shape[:2]
    assert 60 < width < 300 and 20 < height < 150  # the words alone, at 200 dots an inch
    for name in ("05.map.png", "05.map.svg"):
        content = (tmp_path / "sub" / name).read_bytes()
        assert b"matplotlib" not in content.lower() and b"<dc:date>" not in content


def test_a_kernel_shows_sentences_and_closes_its_figures(tmp_path, table, monkeypatch):
    import matplotlib.pyplot as plt
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    InteractiveShell.instance()
    try:
        assert provenance._in_notebook()
        with capture_output() as shown:
            workspace = open_workspace(tmp_path, "05_cluster")
            workspace.say("Is it **<so>**\n\nas 'said'?")
            fig = plt.figure()
            workspace.figure(fig, "05_map", table, "What 'it' shows")
    finally:
        InteractiveShell.clear_instance()
    assert not provenance._in_notebook()
    words = [output.data.get("text/markdown") for output in shown.outputs]
    assert words[0] == "Is it **&lt;so&gt;**\n\nas 'said'?" and shown.stdout == ""
    assert words[-1] == "`05_map`: What 'it' shows"
    assert not plt.fignum_exists(fig.number)
    monkeypatch.delitem(sys.modules, "IPython")
    assert not provenance._in_notebook()


def test_the_device_is_the_one_torch_found(monkeypatch):
    cuda = SimpleNamespace(is_available=lambda: True, get_device_name=lambda: "A Card")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert provenance._device() == "cuda (A Card)"
    cuda.is_available = lambda: False
    assert provenance._device() == "cpu"
    monkeypatch.delitem(sys.modules, "torch")
    assert provenance._device() == "cpu"


def test_a_stage_leaves_a_whole_record(tmp_path, table, monkeypatch):
    import matplotlib.pyplot as plt

    times = iter([10.0, 11.0, 11.23456, 17.65432])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    monkeypatch.setattr(provenance, "peak_memory_mb", lambda: 12.5)
    monkeypatch.setattr(provenance, "_device", lambda: "cpu")
    run, figures = tmp_path / "run", tmp_path / "figures"
    workspace = open_workspace(tmp_path, "05_cluster")
    with workspace.step("fit"):
        pass
    (tmp_path / "outside.csv").write_text("x")
    assert workspace.record_input(str(tmp_path / "sub" / ".." / "outside.csv")) == tmp_path / "outside.csv"
    workspace.write(table, "tables/b.csv")
    (workspace.output_folder("a/deep") / "inside.txt").write_text("x" * 1234)
    workspace.output_file("more/of/one.txt").write_text("one")
    workspace.output_file("never-written.txt")
    fig = plt.figure()
    workspace.figure(fig, "05_map", table, "A caption.")
    plt.close(fig)
    workspace.say(" One\nsentence. ")
    shown = workspace.finish()
    names = ["a/deep/inside.txt", "figures:05_map.csv", "figures:05_map.png", "figures:05_map.svg", "more/of/one.txt",
             "tables/b.csv"]  # fmt: skip
    paths = {name: locate(name, run, figures) for name in names}
    assert read_record(stage_record_path(run, "05_cluster")) == {
        "stage": "05_cluster",
        "reads": {str(tmp_path / "outside.csv"): sha256_file(tmp_path / "outside.csv")},
        "writes": {name: sha256_file(path) for name, path in paths.items()},
        "figures": [{"name": "05_map", "title": "", "caption": "A caption."}],
        "steps": [{"step": "fit", "seconds": 0.235, "peak_mb": 12.5}],
        "learned": ["One sentence."],
        "device": "cpu",
        "seconds": 7.654,
        "peak_mb": 12.5,
    }
    assert list(read_record(stage_record_path(run, "05_cluster"))["writes"]) == names
    assert shown["file"].tolist() == [name.replace("figures:", "figures/") for name in names]
    assert shown["kB"].tolist() == [round(path.stat().st_size / 1000, 1) for path in paths.values()]
    assert shown["kB"][0] == 1.2


def test_a_table_read_back_is_exactly_what_was_written(tmp_path):
    numbers = pd.DataFrame({"x": np.random.default_rng(1).normal(size=500).round(9)})
    workspace = open_workspace(tmp_path, "01_prepare")
    assert workspace.write(numbers, "x.csv") == tmp_path / "run" / "x.csv"
    assert (tmp_path / "run" / "x.csv").read_bytes().count(b"\r") == 0
    assert workspace.read("x.csv")["x"].tolist() == [float(f"{x:.10g}") for x in numbers["x"]]
    assert workspace._reads == {}  # what a stage wrote itself isn't an input
    workspace.write(numbers[::-1], "x.parquet")
    pd.testing.assert_frame_equal(workspace.read("x.parquet"), numbers[::-1].reset_index(drop=True))


def test_a_stage_that_runs_again_reads_what_an_earlier_stage_wrote(tmp_path, table):
    for stage, value in (("01_prepare", 1.0), ("02_fit", 2.0)):
        writer = open_workspace(tmp_path, stage)
        writer.write(table.assign(x=value), "cp.parquet")
        writer.finish()
    again = open_workspace(tmp_path, "02_fit")
    with pytest.raises(ScreenError, match=r"^cp\.parquet isn't what 01_prepare wrote"):
        again.read("cp.parquet")  # its own earlier record doesn't vouch for it
    other = open_workspace(tmp_path, "03_train")
    assert (other.read("cp.parquet")["x"] == 2.0).all()


def test_the_maker_of_a_file_is_named_by_records_then_by_notebooks(tmp_path, monkeypatch):
    root = tmp_path / "project"
    (root / "notebooks").mkdir(parents=True)
    for stem in ("02_fit", "05_cluster", "06_later"):
        cell = {"cell_type": "code", "source": ['workspace.write(µ, "other.csv")']}
        content = json.dumps({"cells": [cell]}, ensure_ascii=False)
        (root / "notebooks" / f"{stem}.ipynb").write_text(content, encoding="utf-8")
    monkeypatch.setattr(provenance, "project_root", lambda: root)
    writer = open_workspace(tmp_path, "03_train")
    (writer.output_folder("models/contrastive") / "weights").write_text("1")
    writer.finish()
    reader = open_workspace(tmp_path, "05_cluster")
    assert reader._maker("models/contrastive") == "03_train"
    assert reader._maker("models/contrastive/weights") == "03_train"
    assert reader._maker("models/contra") == "an earlier notebook"
    assert reader._maker("other.csv") == "02_fit"
    assert open_workspace(tmp_path, "02_fit")._maker("other.csv") == "an earlier notebook"
    assert open_workspace(tmp_path, "03_train")._maker("models/contrastive") == "an earlier notebook"

    def lost():
        raise ScreenError("no project")

    monkeypatch.setattr(provenance, "project_root", lost)
    assert reader._maker("other.csv") == "an earlier notebook"
    with pytest.raises(ScreenError) as error:
        reader.input_folder("models/none/")
    assert (
        str(error.value) == "05_cluster needs the folder models/none/, which an earlier notebook makes: run that first"
    )
    assert reader.input_folder("models/contrastive/") == tmp_path / "run" / "models" / "contrastive"


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


def test_a_manifest_is_whole_with_and_without_the_runners_part(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "package_versions", lambda: {"numpy": "2"})
    monkeypatch.setattr(provenance, "git_state", lambda folder: {"folder": str(folder)})
    run = tmp_path / "run"
    write_json(run / "screen.json", {"sources": [{"file": "a.rda", "verified": True}, {"file": "b.rda"}]})
    outside = str(tmp_path / "mine.csv")
    records = {"01_prepare": {"reads": {outside: "aa", "inside.csv": "bb"}, "seconds": 3.0, "device": "cuda (A)"},
               "02_fit": {"reads": {}, "seconds": 4.0, "device": "cpu"}}  # fmt: skip
    for stage, record in records.items():
        write_record(stage_record_path(run, stage), record | {"peak_mb": 5.0})
    ran = {"fingerprint": {"parameters": {"seed": 1}}, "seconds": 3.5, "git": {"commit": "c"}}
    path = stage_record_path(run, "01_prepare")
    write_record(path, read_record(path) | {"run": ran})
    manifest = run_manifest(str(run), dataset="s", profile="smoke", seed=None, threads=2, unverified=False)
    assert manifest == {
        "dataset": "s",
        "profile": "smoke",
        "seed": None,
        "unverified": False,
        "threads_per_stage": 2,
        "device": "cpu, cuda (A)",
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {"numpy": "2"},
        "git": {"folder": os.path.dirname(os.path.realpath(provenance.__file__))},
        "inputs": [{"file": "a.rda", "verified": True}, {"file": "b.rda"}],
        "stages": {
            "01_prepare": {
                "parameters": {"seed": 1}, "seconds": 3.5, "peak_mb": 5.0, "git": {"commit": "c"},
                "inputs": {outside: "aa"},
            },
            "02_fit": {"parameters": {}, "seconds": 4.0, "peak_mb": 5.0, "git": {}, "inputs": {}},
        },
    }  # fmt: skip
    (run / "screen.json").unlink()
    bare = run_manifest(run, dataset="s", profile="smoke", seed=0, threads=1, unverified=True)
    assert bare["inputs"] == [] and bare["unverified"]
    assert not run_manifest(run, dataset="s", profile="smoke", seed=0, threads=1, unverified=False)["unverified"]


def test_git_state_tells_the_commit_and_whether_tracked_files_changed(tmp_path):
    def git(*words):
        options = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *options, *words], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    assert git_state(tmp_path) == {}  # no commit yet
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "one")
    (tmp_path / "sub").mkdir()
    (tmp_path / "untracked").touch()
    assert git_state(tmp_path / "sub") == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path)["dirty"] is True


def test_versions_of_direct_dependencies_are_told_also_without_an_installation(monkeypatch):
    versions = package_versions()
    assert versions["cpx"] == metadata.version("cpx") and versions["scikit-learn"] == metadata.version("scikit-learn")
    assert "pytest" not in versions and "umap-learn" in versions  # not those of an extra; the whole of a name

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    expected = {name: metadata.version(name) for name in ("numpy", "pandas", "scikit-learn", "scipy", "torch")}
    assert package_versions() == expected


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
