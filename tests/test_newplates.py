"""A new file: what is refused in one line, what is left out and said, and how gaps are filled."""

import numpy as np
import pandas as pd
import pytest

from cpx_utils import newplates
from cpx_utils.encoders import RawCP
from cpx_utils.newplates import GapFilling, PlateEncoder
from cpx_utils.preprocessing import FeaturePreparation
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, PLATE, WELL, ScreenError, feature_columns

N_FEATURES = 20
FEATURES = [f"Cells_F{number:02d}" for number in range(N_FEATURES)]


def wells(n_plates=2, n_compounds=10, n_controls=6, seed=0, prefix="c", n_replicates=1):
    """Wells with features of four factors, so that one is foretold from the others, in units of each plate's own."""
    rng = np.random.default_rng(seed)
    loadings = np.random.default_rng(99).normal(size=(4, N_FEATURES))
    tables = []
    for plate in range(n_plates):
        names = [f"{prefix}{number:02d}" for number in range(n_compounds)] * n_replicates
        compounds = ["DMSO"] * n_controls + names
        values = rng.normal(size=(len(compounds), 4)) @ loadings + 0.1 * rng.normal(size=(len(compounds), N_FEATURES))
        metadata = pd.DataFrame({
            PLATE: f"P{plate}", WELL: [f"W{row:02d}" for row in range(len(compounds))], COMPOUND: compounds,
            DOSE: 1.0, CONTROL: [name == "DMSO" for name in compounds],
        })  # fmt: skip
        tables.append(pd.concat([metadata, pd.DataFrame(values * 50 + 7 * plate, columns=FEATURES)], axis=1))
    return pd.concat(tables, ignore_index=True)


@pytest.fixture(scope="module")
def library():
    screen = wells(n_plates=6, n_compounds=40, n_controls=8, seed=1, prefix="L")
    return newplates.normalise_plates(screen)[0]


@pytest.fixture(scope="module")
def preparation(library):
    return FeaturePreparation(max_correlation=1).fit(library.loc[~library[CONTROL], FEATURES])


def embed(path, library, preparation, *, control_compounds=(), columns=None, features="", **how):
    """What the study does with a file, up to its features."""
    file = newplates.describe_plate(path, columns, features)
    table = newplates.read_wells(file, control_compounds)
    normalised, plates = newplates.normalise_new(table, file.path.name, library, **how)
    checked = newplates.check_features(normalised, library, preparation.features_)
    return normalised, plates, checked, newplates.require_features(checked, file.path.name)


# --- what is refused ----------------------------------------------------------------------------------------


def without(*names):
    return lambda table: table.drop(columns=list(names))


def setting(column, value, rows=slice(0, 1)):
    def spoil(table):
        table = table.copy()
        if isinstance(value, str):
            table[column] = table[column].astype(object)
        table.loc[table.index[rows], column] = value
        return table

    return spoil


BAD = {
    "no control column": (without(CONTROL), {}, ["no well is a negative control", "control_compounds"]),
    "controls under another name": (
        without(CONTROL), {"control_compounds": ["dmso"]}, ["no well holds the control 'dmso'"],
    ),
    "a control that is misspelt": (
        without(CONTROL), {"control_compounds": ["DMS0"]}, ["'DMS0'", "did you mean 'DMSO'?"],
    ),
    "controls only": (lambda table: table[table[CONTROL]], {}, ["all 12 wells are negative controls"]),
    "control and compound": (setting(CONTROL, False), {}, ["'DMSO'", "an id of their own"]),
    "few controls everywhere": (
        lambda table: table[~table[CONTROL] | ~table.duplicated([PLATE, CONTROL])], {},
        ["no plate has 4 negative controls", "has 1)"],
    ),
    "compounds on plates without controls only": (
        lambda table: table[table[CONTROL] == (table[PLATE] == "P0")], {}, ["no compound lies on a plate with 4"],
    ),
    "no feature of the library's": (
        lambda table: table.rename(columns={name: name.replace("F", "X") for name in FEATURES}), {},
        ["none of the 20 features", "'Cells_F00'", "'Cells_X00'"],
    ),
    "no feature at all": (without(*FEATURES), {}, ["no column is matched by"]),
    "60% of the features missing": (
        without(*FEATURES[:12]), {}, ["12 of 20 features", "60%, the limit is 20%", "'Cells_F01'", "12 in all"],
    ),
    "words among numbers": (setting("Cells_F03", "n.d."), {}, ["'Cells_F03' has 'n.d.' in data row 1"]),
    "an infinite value": (setting("Cells_F03", np.inf), {}, ["'Cells_F03' holds infinite values"]),
    "an empty column": (setting("Cells_F03", np.nan, slice(None)), {}, ["'Cells_F03' is missing (NaN) in every row"]),
    "a well twice": (setting(WELL, "W01"), {}, ["plate 'P0' well 'W01' is given more than once"]),
    "no compound id": (without(COMPOUND), {}, [f"column '{COMPOUND}'", "is missing"]),
    "an empty id": (setting(COMPOUND, "", slice(8, 9)), {}, ["1 wells have no compound id (first data row 9)"]),
    "a column that isn't there": (
        lambda table: table, {"columns": {"plate": "Plate ID"}}, ["column 'Plate ID' (plate) is missing"],
    ),
    "a regular expression that is none": (lambda table: table, {"features": "("}, ["no regular expression"]),
    "a control flag that is none": (setting(CONTROL, "perhaps"), {}, ["'perhaps'", "true/false"]),
    "no rows": (lambda table: table.iloc[:0], {}, ["no rows"]),
    "raw units without controls": (
        without(CONTROL), {"without_controls": "as_they_are"}, ["outside the library's range", "library's units"],
    ),
    "an unknown way": (lambda table: table, {"without_controls": "hope"}, ["'hope'", "as_they_are"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line_that_says_what_would_be_right(case, tmp_path, library, preparation):
    spoil, options, words = BAD[case]
    path = tmp_path / "plate.csv"
    table = spoil(wells())
    if "without_controls" in options and case != "an unknown way":
        table = table[table[COMPOUND] != "DMSO"]
        table[FEATURES] += 1e4
    table.to_csv(path, index=False)
    with pytest.raises(ScreenError) as told:
        embed(path, library, preparation, **options)
        if case == "an unknown way":
            newplates.normalise_new(table[~table[CONTROL]], "plate.csv", library, **options)
    message = str(told.value)
    assert "\n" not in message and (case == "an unknown way" or "plate.csv" in message)
    assert [word for word in words if word not in message] == [], message


FILES = {
    "missing": (None, "isn't there"),
    "empty": (b"", "Empty CSV file"),
    "not UTF-8": ("Metadata_Compound,Cells_F00\nÄ,1\n".encode("latin-1"), "utf-8"),
    "semicolons": (b"Metadata_Compound;Cells_F00\nc1;1,5\n", "separated by semicolons"),
    "ragged": (b"Metadata_Compound,Cells_F00\nc1,1,2\n", "Row #2: Expected 2 columns, got 3"),
    "an Excel sheet": (b"PK\x03\x04 and so on", "not a readable .csv file"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_broken_file_is_one_line(case, tmp_path):
    content, words = FILES[case]
    path = tmp_path / "plate.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ScreenError) as told:
        newplates.read_wells(newplates.describe_plate(path))
    assert "plate.csv" in str(told.value) and words in str(told.value) and "\n" not in str(told.value)


# --- what is read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet", "toml"])
def test_every_format_gives_the_same_wells(suffix, tmp_path):
    table = wells()
    names = {COMPOUND: "drug", PLATE: "plate id", CONTROL: "dmso", DOSE: "uM"}
    path = tmp_path / f"plate.{'csv' if suffix == 'toml' else suffix}"
    renamed = table.rename(columns=names)
    renamed.to_parquet(path) if suffix == "parquet" else renamed.to_csv(path, index=False)
    columns = {"compound": "drug", "plate": "plate id", "control": "dmso", "dose": "uM", "well": ""}
    file = newplates.describe_plate(path, columns)
    if suffix == "toml":
        named = "\n".join(f'{role} = "{name}"' for role, name in columns.items() if name)
        text = f'[cp]\npath = "plate.csv"\n[columns]\n{named}\n'
        (tmp_path / "plate.toml").write_text(text, encoding="utf-8")
        file = newplates.describe_plate(tmp_path / "plate.toml", {"compound": ""})
        assert [one.name for one in file.files] == ["plate.toml", "plate.csv"]
    read = newplates.read_wells(file)
    pd.testing.assert_frame_equal(
        read[[PLATE, COMPOUND, CONTROL]], table[[PLATE, COMPOUND, CONTROL]], check_dtype=False
    )
    np.testing.assert_allclose(read[FEATURES], table[FEATURES], rtol=1e-5)


def test_a_toml_with_a_mistake_is_one_line(tmp_path):
    toml = tmp_path / "plate.toml"
    for text, words in (("[cp]\npth = 'x.csv'\n", "did you mean 'path'?"), ("[cp\n", "not valid TOML")):
        toml.write_text(text, encoding="utf-8")
        with pytest.raises(ScreenError) as told:
            newplates.describe_plate(toml)
        assert words in str(told.value) and "\n" not in str(told.value)


def test_controls_by_name_and_by_column_are_the_same(tmp_path, library, preparation):
    wells().to_csv(tmp_path / "a.csv", index=False)
    wells().drop(columns=CONTROL).to_csv(tmp_path / "b.csv", index=False)
    first, second = (
        embed(tmp_path / name, library, preparation, control_compounds=["DMSO"])[0] for name in ("a.csv", "b.csv")
    )
    pd.testing.assert_frame_equal(first, second)


# --- units --------------------------------------------------------------------------------------------------


def test_units_and_offsets_of_a_plate_make_no_difference(library):
    table = wells()
    other = table.copy()
    other.loc[other[PLATE] == "P1", FEATURES] = other.loc[other[PLATE] == "P1", FEATURES] * 31 - 8
    first, second = (newplates.normalise_new(one, "x", library)[0] for one in (table, other))
    np.testing.assert_allclose(first[FEATURES], second[FEATURES], atol=1e-3)
    again = newplates.normalise_new(first, "x", library)[0]  # who has normalised already loses nothing
    np.testing.assert_allclose(again[FEATURES], first[FEATURES], atol=1e-4)


def test_a_plate_with_few_controls_is_left_out_and_named(library):
    table = wells()
    table = table[~((table[PLATE] == "P1") & table[CONTROL] & (table[WELL] > "W01"))]
    kept, plates = newplates.normalise_new(table, "x", library)
    assert set(kept[PLATE]) == {"P0"} and plates["used"].tolist() == [True, False]
    assert plates.loc[1, "reason"] == "2 negative controls, 4 are needed"


def test_a_screen_without_controls_takes_files_without_controls(library):
    bare = library[~library[CONTROL]].reset_index(drop=True)
    table = wells().query("Metadata_Control == False")
    kept, plates = newplates.normalise_new(table, "x", bare)
    pd.testing.assert_frame_equal(kept, table)
    assert plates["used"].all() and (plates["reason"] == "no controls: taken as they are").all()


# --- features -----------------------------------------------------------------------------------------------


def test_features_are_told_apart(library):
    table = newplates.normalise_new(wells(n_plates=4), "x", library)[0].drop(columns="Cells_F00")
    table["Cells_F01"] = np.where(table[CONTROL], 0.0, table["Cells_F01"])
    table.loc[table.index[:40], "Cells_F02"] = np.nan
    table.loc[table.index[:5], "Cells_F03"] = np.nan
    table["Cells_F04"] += 1000
    table["Cells_New"] = 1.0
    checked = newplates.check_features(table, library, FEATURES).set_index("feature")
    told = checked.loc[["Cells_F00", "Cells_F01", "Cells_F02", "Cells_F03", "Cells_F04", "Cells_F05", "Cells_New"]]
    assert told["status"].tolist() == ["missing", "missing", "missing", "used", "out of range", "used", "extra"]
    assert "not in the file" in told["reason"].iloc[0] and "flat" in told["reason"].iloc[1]
    assert "empty in most wells" in told["reason"].iloc[2]
    assert checked.loc["Cells_F03", "share_empty"] == pytest.approx(5 / 64)
    assert checked.loc["Cells_F04", "share_outside"] == 1 > 0.2 > checked.loc["Cells_F05", "share_outside"]
    assert newplates.require_features(checked.reset_index(), "x") == ["Cells_F00", "Cells_F01", "Cells_F02"]


@pytest.mark.parametrize(
    ("n_missing", "limit", "refused"), [(2, 0.2, False), (4, 0.2, False), (5, 0.2, True), (12, 0.7, False)]
)
def test_the_limit_is_where_it_is_said_to_be(n_missing, limit, refused, library):
    table = newplates.normalise_new(wells(), "x", library)[0].drop(columns=FEATURES[:n_missing])
    checked = newplates.check_features(table, library, FEATURES)
    if refused:
        with pytest.raises(ScreenError, match=f"{n_missing} of 20 features"):
            newplates.require_features(checked, "x", limit)
    else:
        assert newplates.require_features(checked, "x", limit) == FEATURES[:n_missing]


def test_gaps_are_foretold_from_what_repeats_them(library, preparation):
    missing = ["Cells_F03", "Cells_F11"]
    filling = GapFilling(preparation, missing).fit(library)
    new = newplates.normalise_new(wells(seed=5), "x", library)[0]
    whole, filled = preparation.transform(new[preparation.features_]), filling.transform(new.drop(columns=missing))
    place = [preparation.features_.index(name) for name in missing]
    kept = np.setdiff1d(np.arange(N_FEATURES), place)
    np.testing.assert_array_equal(filled[:, kept], whole[:, kept])
    assert np.corrcoef(filled[:, place[0]], whole[:, place[0]])[0, 1] > 0.8
    assert (filling.r2_ > 0.8).all()
    # What has no counterpart comes back as the mean, and is said to be unknown.
    alone = library.assign(Cells_F03=np.random.default_rng(0).normal(size=len(library)))
    lonely = FeaturePreparation(max_correlation=1).fit(alone.loc[~alone[CONTROL], FEATURES])
    filling = GapFilling(lonely, ["Cells_F03"]).fit(alone)
    assert filling.r2_[0] < 0.1 and np.abs(filling.transform(new)[:, 3]).max() < 0.6


def test_the_library_goes_through_the_same_gap_and_the_loss_is_told(library, preparation):
    encoder = RawCP().fit(np.zeros((3, N_FEATURES)))
    fidelity = {}
    for n_missing in (0, 2, 12):
        plate_encoder = PlateEncoder(GapFilling(preparation, FEATURES[:n_missing]).fit(library), encoder)
        fidelity[n_missing] = newplates.gap_fidelity(plate_encoder, library)
        codes = plate_encoder.transform(library)
        spoilt = library.assign(**dict.fromkeys(FEATURES[:n_missing], 1e6))
        np.testing.assert_array_equal(plate_encoder.transform(spoilt), codes)
    assert fidelity[0] == 1 > fidelity[2] > fidelity[12] > 0.5
    assert feature_columns(library) == FEATURES
