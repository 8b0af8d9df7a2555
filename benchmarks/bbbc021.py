"""Are preparation and matching right? BBBC021 is a real screen whose mechanisms others have matched, and published.

    python benchmarks/bbbc021.py --mirror DIR      # a folder laid out as HOST/PATH that holds its three files

The share of treatments whose nearest treatment of *another compound* has the same mechanism of action (MoA), from the
wells as CellProfiler measured them, by the study's own steps: plate normalisation to DMSO, features prepared on all
wells (nothing is predicted here), sphering on DMSO, a mean a treatment, cosine similarity. Ljosa 2013 (doi
10.1177/1087057113503553, table 2) reached 83% by means and 94% by factor analysis. There is no TX in it.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from cpx_utils.encoders import SpheredCP
from cpx_utils.metrics import cosine_similarity
from cpx_utils.preprocessing import FeaturePreparation, consensus, normalise_plates
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, PLATE, WELL, feature_columns

FOLDER = "raw.githubusercontent.com/cytomining/cytominergallery/05d496f1e0bb80a9f887ae8ea0e47181ade179ff/inst/extdata"
PUBLISHED = {"means": 0.83, "factor analysis": 0.94}


def read_wells(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Wells as in a `Screen` (632 on 55 plates, 330 of them DMSO), and the MoA of each treatment."""
    profiles = pd.read_csv(folder / "ljosa_jbiomolscreen_2013_per_well_mean.csv.gz")
    images = pd.read_csv(folder / "BBBC021_v1_image.csv.gz")
    place = ["Image_Metadata_Plate", "Image_Metadata_Well"]
    layout = images.rename(columns={f"{name}_DAPI": name for name in place}).drop_duplicates(place)
    wells = profiles[place].merge(layout, how="left", on=place, validate="one_to_one")
    metadata = {PLATE: wells[place[0]], WELL: wells[place[1]], COMPOUND: wells["Image_Metadata_Compound"]}
    metadata |= {DOSE: wells["Image_Metadata_Concentration"], CONTROL: wells["Image_Metadata_Compound"] == "DMSO"}
    mechanisms = pd.read_csv(folder / "BBBC021_v1_moa.csv").set_axis([COMPOUND, DOSE, "MoA"], axis=1)
    features = profiles.drop(columns=place).astype(np.float32)
    return pd.concat([pd.DataFrame(metadata), features], axis=1), mechanisms


def matched(folder: Path) -> pd.DataFrame:
    """Treatments with a known MoA, and whether their nearest treatment of another compound has it.

    Columns Metadata_Compound, Metadata_Dose, MoA, and `normalised` and `sphered`: matched or not by these profiles.
    """
    wells, mechanisms = read_wells(folder)
    wells, _ = normalise_plates(wells)
    prepared = FeaturePreparation().fit(wells[feature_columns(wells)]).transform(wells[feature_columns(wells)])
    controls = prepared[wells[CONTROL].to_numpy(bool)]
    ways = {"normalised": prepared - controls.mean(axis=0)}
    ways["sphered"] = SpheredCP().fit(prepared, controls=controls).transform(prepared)
    columns = {}
    for name, values in ways.items():
        treatments, profiles = consensus(wells, values)
        known = treatments.merge(mechanisms, how="left", on=[COMPOUND, DOSE])
        rows = known["MoA"].notna().to_numpy()
        known, similarity = known[rows].reset_index(drop=True), cosine_similarity(profiles[rows], profiles[rows])
        compound, moa = known[COMPOUND].to_numpy(object), known["MoA"].to_numpy(object)
        nearest = np.where(compound[:, None] == compound, -np.inf, similarity).argmax(axis=1)
        columns[name] = moa[nearest] == moa
    return known.assign(**columns)


def main() -> None:
    """Print the shares beside the published ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", required=True, type=Path, help="folder laid out as HOST/PATH")
    table = matched(parser.parse_args().mirror / FOLDER)
    print(f"{len(table)} treatments of {table[COMPOUND].nunique()} compounds, {table['MoA'].nunique()} mechanisms")
    for name in ("normalised", "sphered"):
        print(f"nearest treatment of another compound has the same MoA, {name} profiles: {table[name].mean():.1%}")
    print("published (Ljosa 2013): " + ", ".join(f"{name} {share:.0%}" for name, share in PUBLISHED.items()))


if __name__ == "__main__":
    main()
