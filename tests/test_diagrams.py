"""The diagrams that notebooks open with: one a notebook, legible, shown with a caption."""

import io
import itertools

import matplotlib
import nbformat
import pytest
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch
from study_runs import NOTEBOOKS

from cpx_utils import diagrams

OPENS_WITH = {
    "01": "prepare_profiles",
    "02": "fit_baselines",
    "03": "train_contrastive",
    "04": "train_autoencoder",
    "05": "cluster_compounds",
    "06": "predict_bioactivity",
    "07": "weigh_claims",
    "08": "embed_new_compounds",
}


@pytest.fixture(params=OPENS_WITH.values())
def drawn(request):
    """A diagram as it is drawn, with the renderer that tells where its parts lie."""
    figure = getattr(diagrams, request.param)()
    figure.canvas.draw()
    yield figure, figure.canvas.get_renderer()
    plt.close(figure)


def test_each_notebook_opens_with_its_own_and_none_is_left_over():
    for name, path in NOTEBOOKS.items():
        sources = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        assert sources[0].splitlines()[-1] == f"diagrams.{OPENS_WITH[name[:2]]}()"
        assert not any("diagrams." in source for source in sources[1:])
    ours = {name for name, value in vars(diagrams).items() if getattr(value, "__module__", "") == "cpx_utils.diagrams"}
    assert {name for name in ours if name.islower() and not name.startswith("_")} == {*OPENS_WITH.values(), "tint"}


def test_words_are_large_inside_their_boxes_and_apart(drawn):
    figure, renderer = drawn
    page = figure.bbox
    words = [*figure.axes[0].texts, figure._suptitle]
    words = [text for text in words if text.get_text()]  # arrows are annotations without words
    places = {text: text.get_window_extent(renderer) for text in words}
    assert len(words) > 10 and min(text.get_fontsize() for text in words) >= 9.5
    for text, place in places.items():
        assert page.x0 <= place.x0 and place.x1 <= page.x1 and page.y0 <= place.y0 and place.y1 <= page.y1, text
    for (one, here), (other, there) in itertools.combinations(places.items(), 2):
        assert not here.overlaps(there), (one.get_text(), other.get_text())
    boxes = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]
    for patch in boxes:
        frame = patch.get_window_extent(renderer)
        inside = [place for place in places.values() if frame.contains(*place.get_points().mean(axis=0))]
        assert len(inside) == 1, "a box holds one text"
        assert frame.x0 < inside[0].x0 and inside[0].x1 < frame.x1
        assert frame.y0 < inside[0].y0 and inside[0].y1 < frame.y1
    for one, other in itertools.combinations(boxes, 2):
        assert not one.get_window_extent(renderer).overlaps(other.get_window_extent(renderer))


def test_the_key_explains_the_marks_that_are_used_and_no_others(drawn):
    figure, _ = drawn
    told = {text.get_text() for text in figure.axes[0].texts} & set(diagrams.KEY_WORDS.values())
    frames = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]
    solid = {matplotlib.colors.to_hex(frame.get_edgecolor(), keep_alpha=False) for frame in frames}
    for kind in ("CP", "TX", "trained"):
        colour = matplotlib.colors.to_hex(diagrams.COLOURS[kind])
        dots = {matplotlib.colors.to_hex(line.get_markeredgecolor()) for line in figure.axes[0].lines
                if line.get_marker() == "o"}  # fmt: skip
        assert (diagrams.KEY_WORDS[kind] in told) == (colour in solid | dots), kind
    assert diagrams.KEY_WORDS["held out"] in told, "every notebook holds something out"


def test_a_diagram_shows_itself_with_words_and_a_caption(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *what, **how: shown.append((what, how)))
    figure = diagrams.weigh_claims()
    figure.caption = "Less <b>is</b> more."
    figure._ipython_display_()
    plt.close(figure)
    (picture, how), (words, _) = shown
    assert picture[0]["image/png"] and how["metadata"]["image/png"]["alt"] == "Three differences decide a claim"
    assert words[0].data == "*Diagram.* Less &lt;b&gt;is&lt;/b&gt; more."


@pytest.mark.parametrize("name", OPENS_WITH.values())
def test_captions_and_titles_are_sentences_of_their_own(name):
    figure = getattr(diagrams, name)()
    assert len(figure.caption) > 100 and figure.caption.endswith(".")
    assert 20 < len(figure.get_suptitle()) < 70 and figure.get_suptitle() not in figure.caption
    plt.close(figure)


def test_the_same_bytes_whatever_the_callers_style_which_stays():
    pictures = []
    for size in (6, 20):
        with matplotlib.rc_context({"font.size": size, "lines.linewidth": size, "text.parse_math": True}):
            file = io.BytesIO()
            figure = diagrams.train_contrastive()
            figure.savefig(file, format="png", metadata={"Software": None})
            plt.close(figure)
            assert matplotlib.rcParams["font.size"] == size
        pictures.append(file.getvalue())
    assert pictures[0] == pictures[1]


def test_a_tint_lies_between_white_and_the_colour():
    assert diagrams.tint("#000000", 0) == "#ffffff" and diagrams.tint("#123456", 1) == "#123456"
    assert diagrams.tint("#ff0000", 0.5) == "#ff8080"
