"""The README's tables are what the committed figures' data say, what it points at is there, and its commands work."""

import contextlib
import re
import shlex
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from cpx_utils.pipeline import main
from cpx_utils.template import write_template

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.S | re.M)


def commands():
    """Calls of run_all.py in the README's code blocks, comments apart."""
    lines = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]
    calls = [line.partition("python run_all.py")[2] for line in lines if "python run_all.py" in line]
    return [" ".join(shlex.quote(word) for word in shlex.split(call, comments=True)) for call in calls]


@pytest.fixture(scope="module")
def update_readme(load_benchmark):
    return load_benchmark("update_readme")


def test_the_tables_are_generated_from_the_committed_figures(update_readme):
    assert set(update_readme.screens()) == {"cmea-u2os", "simulated"}
    assert update_readme.updated(README) == README, "run python benchmarks/update_readme.py"
    changed = README.replace("| simulated |", "| altered |", 1)
    assert changed != README and update_readme.updated(changed) == README


def test_every_local_link_and_picture_is_there():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    files = [link for link in links if not link.startswith("#")]
    assert len(files) >= 9
    assert [link for link in files if not (ROOT / link).exists()] == []
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", README, flags=re.S | re.M), flags=re.M)
    anchors = {"#" + re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert {link for link in links if link.startswith("#")} - anchors == set()


def test_every_committed_figure_is_made_by_a_notebook_and_none_is_missing(update_readme):
    captions = update_readme.figure_captions()
    assert len(captions) > 20 and min(len(caption) for caption in captions.values()) > 20
    for screen in update_readme.screens():
        there = {path.name for path in (ROOT / "figures" / screen).iterdir()}
        assert there == {name + suffix for name in captions for suffix in (".png", ".svg", ".csv")}, screen


def test_no_other_figure_is_orphaned(update_readme):
    folders = {path.name for path in (ROOT / "figures").iterdir() if path.is_dir() and not path.name.endswith("-smoke")}
    assert folders == {*update_readme.screens(), "benchmarks"}
    measured = sorted((ROOT / "figures" / "benchmarks").glob("*.png"))
    assert [path.name for path in measured if f"](figures/benchmarks/{path.name})" not in README] == []
    assert len(list((ROOT / "figures" / "benchmarks").iterdir())) == 3 * len(measured) > 0, "png, svg and csv of each"


def test_the_gallery_shows_each_notebook_and_the_claims(update_readme):
    gallery = update_readme.gallery_block()
    pictures = re.findall(r'<img src="([^"]+)" alt="[^"]{20,}">', gallery)
    assert len(pictures) == gallery.count("<td") == 9 and "figures/simulated/07_claims.png" in pictures
    assert {Path(picture).name[:2] for picture in pictures} == {f"{number:02d}" for number in range(1, 9)}
    assert [picture for picture in pictures if not (ROOT / picture).is_file()] == []


def test_the_readme_names_every_module():
    architecture = README.partition("\n## How it is built\n")[2].partition("\n## ")[0]
    modules = {path.stem for path in (ROOT / "cpx_utils").glob("*.py")} - {"__init__"}
    assert {name for name in modules if f"`{name}`" not in architecture} == set()


# --- its order and its commands -----------------------------------------------------------------------------


def test_it_begins_with_what_it_is_a_figure_and_the_two_commands_and_real_screens_come_first():
    places = [README.index(words) for words in (
        "![", "pip install -e . && python run_all.py ", "pip install -e '.[test]' && pytest",
        "results/simulated/default/report/index.html", "## Results", "figures/cmea-u2os/", "| cmea-u2os |",
        "## Gallery", "## Reading order", "## Change something", "## Bring data", "## Limits", "## How it is built",
        "## Benchmarks", "## Cite",
    )]  # fmt: skip
    assert places == sorted(places)
    assert README[: places[0]].count("\n") <= 5, "what it is, in a few lines"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with all that the README's commands name: a screen, a sweep, new plates, a mirror."""
    monkeypatch.chdir(tmp_path)
    write_template("mine/my_screen.toml")
    [sweep] = [block for kind, block in BLOCKS if kind == "toml" and block.startswith("# heat.toml")]
    Path("heat.toml").write_text(sweep, encoding="utf-8")
    Path("DIR").mkdir()
    Path("plate.csv").write_bytes(Path("mine/cp.csv").read_bytes())
    Path("plate.toml").write_text('[cp]\npath = "plate.csv"\n', encoding="utf-8")
    return tmp_path


def call(*words):
    return main([*words, "--results", "results", "--figures", "figures"])


@pytest.mark.parametrize("command", dict.fromkeys(commands()))
def test_every_call_of_run_all_is_understood_and_runs_nothing_before_it_could(command, place, capsys):
    words = shlex.split(command)
    if "--template" in words:
        words[words.index("--template") + 1] = "new/my_screen.toml"
    elif not {"--list", "--check", "--dry-run"} & set(words):
        words.append("--dry-run")
    assert call(*words) == 0
    printed = capsys.readouterr()
    assert printed.err == "" and len(printed.out.splitlines()) > 0
    assert not Path("results").exists() and not Path("figures").exists()


def test_there_are_calls_and_each_option_that_is_named_exists(capsys):
    assert len(commands()) >= 20
    with contextlib.suppress(SystemExit):
        main(["--help"])
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.S | re.M)
    named = set(re.findall(r"`(--[a-z-]+)", prose)) | {word for call in commands() for word in call.split()
                                                       if word.startswith("--")}  # fmt: skip
    assert len(named) > 12 and named - known == set()


def transcripts():
    """Sessions: what was typed after a dollar, and what then stands there."""
    shown = [block for kind, block in BLOCKS if not kind and block.startswith("$ ")]
    return [(block.splitlines()[0].removeprefix("$ python run_all.py "), block.splitlines()[1:]) for block in shown]


def test_the_check_of_the_template_says_what_is_shown(place, capsys):
    _, (command, shown) = transcripts()
    assert main(shlex.split(command)) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[: len(shown)] == shown and printed.err == ""


def test_the_check_of_a_faulty_screen_says_what_is_shown(place, capsys):
    (command, shown), _ = transcripts()
    cp = pd.read_csv("mine/cp.csv", dtype=str)
    cp.loc[4, "Metadata_Dose"] = "-10"
    cp.loc[[3, 8], "Cells_AreaShape_Area"] = "n.d."
    cp.to_csv("mine/cp.csv", index=False)
    toml = Path("mine/my_screen.toml")
    toml.write_text(toml.read_text().replace('"tx.csv"', '"tx.parquet"'))
    compounds = pd.read_csv("mine/compounds.csv", dtype=str)
    compounds.loc[1, "compound"] = compounds.loc[0, "compound"]
    compounds.to_csv("mine/compounds.csv", index=False)
    activity = pd.read_csv("mine/activity.csv", dtype=str)
    activity.loc[3, "active"] = "2"
    activity.to_csv("mine/activity.csv", index=False)
    assert main(shlex.split(command)) == 2
    printed = capsys.readouterr()
    said = (printed.err + printed.out).replace(str(place), "...").splitlines()
    assert said == shown


def test_the_description_of_a_screen_that_is_shown_is_right(place, capsys):
    [shown] = [block for kind, block in BLOCKS if kind == "toml" and block.startswith("name = ")]
    described = tomllib.loads(shown)
    assert described["columns"] == tomllib.loads(Path("mine/my_screen.toml").read_text())["columns"]
    pd.read_csv("mine/cp.csv").to_parquet("mine/cp.parquet")
    pd.read_csv("mine/tx.csv").to_csv("mine/tx.csv.gz")
    Path("mine/shown.toml").write_text(shown, encoding="utf-8")
    assert main(["--dataset", "mine/shown.toml", "--check"]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
