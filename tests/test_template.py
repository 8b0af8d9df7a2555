"""The template of a user's own screen: the same each time, complete, and never over files that are there."""

import re

import pytest

from cpx_utils.pipeline import main
from cpx_utils.template import write_template
from cpx_utils.user_screens import SECTIONS

FILES = ["my_screen.toml", "cp.csv", "tx.csv", "compounds.csv", "activity.csv", "tasks.csv"]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template")
    assert [path.name for path in write_template(folder / "my_screen.toml")] == FILES
    return folder


def test_it_is_written_by_the_command_line_and_never_over_files(tmp_path, capsys, template):
    path = tmp_path / "new" / "my_screen.toml"
    assert main(["--template", str(path)]) == 0
    printed = capsys.readouterr()
    assert f"--dataset {path} --check" in printed.out and printed.err == ""
    assert sorted(file.name for file in path.parent.iterdir()) == sorted(FILES)
    for name in FILES:
        assert (path.parent / name).read_bytes() == (template / name).read_bytes(), "the same each time"
    assert main(["--template", str(path.parent / "other.toml")]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and "cp.csv, tx.csv" in printed.err and "a new folder" in printed.err
    assert not (path.parent / "other.toml").exists()
    assert main(["--template", str(tmp_path / "x.json")]) == 2
    assert "give a name such as my_screen.toml" in capsys.readouterr().err
    assert main(["--template", str(path / "x.toml")]) == 2
    assert "can't be written" in capsys.readouterr().err


def test_it_names_every_key(template):
    described = (template / "my_screen.toml").read_text(encoding="utf-8")
    for section, keys in SECTIONS.items():
        assert f"\n[{section}]" in described
        assert [key for key in keys if not re.search(rf"^(# )?{key} = ", described, re.MULTILINE)] == []


def test_the_study_starts_on_it(template, tmp_path, capsys):
    folders = ["--results", str(tmp_path / "results"), "--figures", str(tmp_path / "figures")]
    assert main(["--dataset", str(template / "my_screen.toml"), *folders, "--only", "01", "--jobs", "1"]) == 0
    assert "1 ran" in capsys.readouterr().out
    assert (tmp_path / "results" / "my-screen" / "default" / "folds.parquet").is_file()
