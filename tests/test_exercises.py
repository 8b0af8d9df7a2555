"""The exercises of the notebooks: their commands are right, change something, and what they change is used."""

import ast
import re
import shlex
from pathlib import Path

import nbformat
import pytest

from cpx_utils.pipeline import main

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


def commands(path: Path) -> list[list[str]]:
    """Return what the exercises pass to run_all.py, and check that each has its solution folded away."""
    text = nbformat.read(path, as_version=4).cells[-1].source
    pattern = r"```\npython run_all\.py (.+)\n```\n\n<details><summary>Solution</summary>"
    found = [shlex.split(command) for command in re.findall(pattern, text)]
    assert len(found) == text.count("<details>") == text.count("</details>") == 3
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_commands_are_accepted_and_change_a_value_that_the_notebook_uses(path, tmp_path, capsys):
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    nodes = [node for source in cells for node in ast.walk(ast.parse(source))]
    defaults = {node.target.id: ast.unparse(node.value) for node in nodes if isinstance(node, ast.AnnAssign)}
    read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    for command in commands(path):
        folders = ["--results", str(tmp_path), "--figures", str(tmp_path), "--dry-run"]
        assert main([*command, *folders]) == 0, capsys.readouterr().err
        assert command[:4] == ["--profile", "smoke", "--only", path.stem[:2]] and command[4] == "-p"
        for given in command[5:]:
            number, name, value = re.fullmatch(r"(\d\d)\.(\w+)=(.+)", given).groups()
            assert number == path.stem[:2] and name in read
            assert value != re.sub(r"[\[\]\"' ]", "", defaults[name]), f"{given} is the default"
