"""A user's own tables in the project's form: control words, and wells of new plates by the rules of a screen."""

import numpy as np
import pandas as pd
import pytest

from cpx_utils import own_tables
from cpx_utils.profiles import COMPOUND, CONTROL, METADATA_COLUMNS, ScreenError, feature_columns

CP = """\
Metadata_Plate,Metadata_Well,Metadata_Compound,Metadata_Dose,Metadata_Control,Cells_A,Nuclei_B,Image_C
1,A01,001,3.3333,0,0.5,1,9
1,A02,002,3.3333,0,-1.5,2,9
1,A03,DMSO,,1,0.0,,9
"""


def test_control_words():
    words = ["True", "1", "negcon", "yes", "false", "0", None, "poscon", np.nan, 1.0, True, False]
    problems = []
    flags, unknown = own_tables._flags("cp.csv", pd.Series(words, dtype=object, name="control"), problems)
    assert flags.tolist() == [True] * 4 + [False] * 5 + [True, True, False]
    assert not unknown.any() and problems == []


def test_one_table_of_new_wells_is_read_by_the_same_rules(tmp_path):
    path = tmp_path / "plate.csv"
    path.write_text(
        CP.replace("Metadata_Compound", "id").replace("Metadata_Control", "kind").replace(",1,0.0", ",negcon,0.0")
    )
    columns = {"compound": "id", "control": "kind", "plate": "Metadata_Plate"}
    wells = own_tables.read_cell_painting(path, columns)
    assert list(wells.columns) == [*METADATA_COLUMNS, "Cells_A", "Nuclei_B"]
    assert wells[COMPOUND].tolist() == ["001", "002", "DMSO"] and wells[CONTROL].tolist() == [False, False, True]
    assert feature_columns(own_tables.read_cell_painting(path, columns, "^Image_")) == ["Image_C"]
    with pytest.raises(ScreenError, match=r"plate\.csv.*compound"):
        own_tables.read_cell_painting(path, columns | {"compound": "name"})
    with pytest.raises(ScreenError, match="no such file"):
        own_tables.read_cell_painting(tmp_path / "none.csv")
