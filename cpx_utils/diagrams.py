"""One small diagram a notebook: what is learned from what, and what a new compound brings.

A diagram shows no data. So it is no figure of a run: it has no table behind it, is not saved with the figures, and is
the same on every screen. Each function draws one and returns it; as the last line of a cell it shows itself with its
caption.

The same marks everywhere: green boxes are Cell Painting (CP), purple ones transcriptomics (TX), orange ones what is
trained, grey ones what is only computed. A dashed frame holds what nothing is fitted on: test compounds and new ones.
"""

import functools
import html
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib.style
from matplotlib import colors
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle

from cpx_utils.plots import (
    GREY,
    LARGE,
    METHOD_COLOURS,
    MODALITY_COLOURS,
    STYLE,
    VERDICT_COLOURS,
    StudyFigure,
    text_width,
    wrap_text,
)

WIDTH = 5.0  # inches: narrower than the figures, so that words stay legible on a phone
SIZE = 9.6  # points
LINE = 0.175  # inches from one line of text to the next
DASHES = (0, (3, 2))
INK = "#333333"
COLOURS = MODALITY_COLOURS | {"trained": METHOD_COLOURS["contrastive"], "computed": GREY}
KEY_WORDS = {
    "CP": "Cell Painting",
    "TX": "transcriptomics",
    "trained": "trained",
    "computed": "only computed",
    "held out": "held out or new: nothing is fitted on it",
}
Point = tuple[float, float]


class Diagram(StudyFigure):
    """A figure that shows itself in a notebook with its caption below.

    Attributes
    ----------
    caption : str
        What is drawn, in words that also serve who cannot see it.
    """

    caption = ""

    def _ipython_display_(self):
        from IPython.display import Markdown, display

        super()._ipython_display_()
        display(Markdown(f"*Diagram.* {html.escape(self.caption, quote=False)}"))


@dataclass(frozen=True)
class _Box:
    """Where a box lies, in inches: its centre and size, and the middles of its sides, for arrows."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> Point:
        return self.x - self.width / 2, self.y

    @property
    def right(self) -> Point:
        return self.x + self.width / 2, self.y

    @property
    def top(self) -> Point:
        return self.x, self.y + self.height / 2

    @property
    def bottom(self) -> Point:
        return self.x, self.y - self.height / 2


class _Sketch:
    """Boxes and arrows on a canvas in inches; y counts upwards, and 0 is the upper edge of the key."""

    def __init__(self, title: str, height: float):
        self.height = height
        self.title = wrap_text(title, WIDTH - 0.1, LARGE, "bold")
        self.used: set[str] = set()  # marks that the key explains
        self.figure = plt.figure(FigureClass=Diagram)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()

    def box(self, x: float, y: float, text: str, kind: str = "computed", *, width: float, held_out=False) -> _Box:
        """A box of a kind around lines of text, its centre at (x, y)."""
        box = _Box(x, y, width, LINE * (1 + text.count("\n")) + 0.14)
        corner = box.left[0], box.bottom[1]
        style = {"boxstyle": "round,pad=0,rounding_size=0.06", "linewidth": 1.3} | self._frame(kind, held_out)
        self.axes.add_patch(FancyBboxPatch(corner, width, box.height, **style))
        self.words(x, y, text, ha="center")
        return box

    def _frame(self, kind: str, held_out: bool) -> dict:
        self.used |= {"held out"} | {kind} - {"computed"} if held_out else {kind}
        face = "white" if held_out else tint(COLOURS[kind])
        return {"facecolor": face, "edgecolor": COLOURS[kind], "linestyle": DASHES if held_out else "-"}

    def words(self, x: float, y: float, text: str, **style) -> None:
        """Text without a box, its left (or with ``ha`` its middle) at x, its middle at y."""
        self.axes.text(x, y, text, **{"size": SIZE, "va": "center", "linespacing": 1.2} | style)

    def line(self, *points: Point, held_out: bool = False, colour: str = INK) -> None:
        """A line along points; dashed where held-out compounds travel."""
        style = {"color": colour, "linewidth": 1.1, "linestyle": DASHES if held_out else "-"}
        self.axes.add_line(Line2D(*zip(*points, strict=True), **style))

    def arrow(self, *points: Point, held_out: bool = False, colour: str = INK) -> None:
        """A line that ends in an arrowhead."""
        if len(points) > 2:
            self.line(*points[:-1], held_out=held_out, colour=colour)
        line = {"linewidth": 1.1, "linestyle": DASHES if held_out else "-", "color": colour}
        style = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 0, "shrinkB": 1}
        self.axes.annotate("", points[-1], points[-2], arrowprops=style | line)

    def block(self, x: float, y: float, width: float, height: float, colour: str, **style) -> None:
        """A rectangle with square corners, its centre at (x, y)."""
        options = {"facecolor": colour, "edgecolor": "white", "linewidth": 1.0} | style
        self.axes.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, **options))

    def dot(self, x: float, y: float, kind: str, text: str, *, held_out: bool = False) -> None:
        """A compound: a circle in the colour of a modality, with a letter."""
        frame = self._frame(kind, held_out)
        self.axes.plot(x, y, "o", ms=14, mfc=frame["facecolor"], mec=frame["edgecolor"], mew=1.3, zorder=3)
        self.words(x, y - 0.01, text, ha="center", zorder=4)

    def finished(self, caption: str) -> Diagram:
        """The diagram, with a key of the marks that it uses and its caption."""
        x, y = 0.0, -0.2
        self.line((0, 0), (WIDTH, 0), colour="#DDDDDD")
        for kind in [kind for kind in KEY_WORDS if kind in self.used]:
            width = 0.27 + text_width(KEY_WORDS[kind], SIZE)
            if x + width > WIDTH:
                x, y = 0.0, y - 0.22
            frame = self._frame("computed", True) if kind == "held out" else self._frame(kind, False)
            self.block(x + 0.11, y, 0.18, 0.12, frame["facecolor"], **frame | {"linewidth": 1.2})
            self.words(x + 0.27, y, KEY_WORDS[kind], va="center_baseline")
            x += width + 0.17
        y, title = y - 0.14, 0.06 + 0.18 * (1 + self.title.count("\n"))
        self.axes.set(xlim=(0, WIDTH), ylim=(y, self.height + title))
        self.figure.set_size_inches(WIDTH, self.height + title - y)
        self.figure.suptitle(self.title, x=0, y=1, ha="left", va="top", size=LARGE, weight="bold", linespacing=1.15)
        self.figure.caption = caption
        return self.figure


def tint(colour: str, share: float = 0.16) -> str:
    """A colour mixed into white, as a hexadecimal colour.

    Parameters
    ----------
    colour
        Any colour of matplotlib's.
    share
        Of the colour, from 0 (white) to 1.
    """
    return colors.to_hex([1 - share * (1 - part) for part in colors.to_rgb(colour)])


def _styled(draw: Callable[[], Diagram]) -> Callable[[], Diagram]:
    """Draw in the style of the study and leave the caller's settings alone."""

    @functools.wraps(draw)
    def styled() -> Diagram:
        with matplotlib.style.context(["default", STYLE]):
            return draw()

    return styled


# --------------------------------------------------------------------------------------------------
# The diagrams, in the order of the notebooks


@_styled
def prepare_profiles() -> Diagram:
    """01: two tables of wells become paired compounds, each of which is held out once."""
    sketch = _Sketch("Wells become pairs; each compound is held out once", 2.3)
    cp = sketch.box(0.62, 1.95, "CP wells:\nimages", "CP", width=1.1)
    tx = sketch.box(0.62, 1.35, "TX wells:\nRNA", "TX", width=1.1)
    units = sketch.box(2.4, 1.65, "in units of the\nnegative controls\nof the same plate", width=1.45)
    pairs = sketch.box(4.3, 1.65, "compounds\nwith both:\nthe pairs", width=1.2)
    sketch.arrow(cp.right, (units.left[0], 1.78))
    sketch.arrow(tx.right, (units.left[0], 1.52))
    sketch.arrow(units.right, pairs.left)
    sketch.arrow(pairs.bottom, (4.3, 1.02), (2.6, 1.02), (2.6, 0.88))
    for turn in range(3):
        sketch.words(0.05, 0.71 - 0.27 * turn, f"round {turn + 1}")
    for turn, fold in itertools.product(range(3), range(3)):
        held_out = turn == fold
        x, y = 1.3 + 1.35 * fold, 0.72 - 0.27 * turn
        frame = sketch._frame("computed", held_out)
        sketch.block(x, y, 1.24, 0.22, frame["facecolor"], **frame | {"linewidth": 1.2})
        sketch.words(x, y - 0.01, "test" if held_out else "train", ha="center")
    return sketch.finished(
        "Wells of both modalities are expressed in units of their own plate's negative controls. Compounds with both "
        "are the pairs. They are split into folds: each round trains on all but one of them and tests on that one, "
        "which holds all doses, replicates and plates of its compounds. Nothing is trained in this notebook."
    )


@_styled
def fit_baselines() -> Diagram:
    """02: three ways to learn from the same wells; only true pairs can show what TX gives."""
    sketch = _Sketch("Learning without TX, from true pairs, from deranged pairs", 2.85)
    target = sketch.box(
        2.5, 0.27, "embed the CP of the same held-out compounds: compare", "CP", width=4.7, held_out=True
    )
    columns = {
        "no TX": (0.8, None, "PCA, LDA on\nidentity, ..."),
        "true pairs": (2.5, (0, 1, 2), "ridge, CCA, CCA\nwith replicates"),
        "deranged pairs": (4.2, (1, 2, 0), "ridge, CCA, CCA\nwith replicates"),
    }
    for name, (x, partner, learner) in columns.items():
        sketch.words(x, 2.72, name, ha="center", weight="bold")
        for row, letter in enumerate("ABC"):
            y = 2.42 - 0.32 * row
            if partner is not None:
                sketch.line((x - 0.4, y), (x + 0.4, 2.42 - 0.32 * partner[row]))
                sketch.dot(x + 0.4, y, "TX", letter)
            sketch.dot(x - 0.4 if partner is not None else x, y, "CP", letter)
        made = sketch.box(x, 1.05, learner, "trained", width=1.3)
        sketch.arrow((x, 1.57), made.top)
        sketch.arrow(made.bottom, (x, target.top[1]))
    return sketch.finished(
        "Letters are training compounds. Left: methods that never see TX learn from CP alone. Middle: methods with TX "
        "learn from true pairs. Right: the same methods learn from deranged pairs, where every compound has the TX of "
        "another. All embed the CP of the same held-out compounds. What the middle has beyond the right is due to TX."
    )


@_styled
def train_contrastive() -> Diagram:
    """03: two heads, trained so that the diagonal of the similarity matrix wins."""
    sketch = _Sketch("Each CP profile must find its own TX profile", 2.85)
    tx = sketch.box(0.75, 2.58, "TX of training\ncompounds", "TX", width=1.35)
    cp = sketch.box(0.75, 1.55, "CP of training\ncompounds", "CP", width=1.35)
    head_g = sketch.box(2.2, 2.58, "head g", "trained", width=0.75)
    head_f = sketch.box(2.2, 1.55, "head f", "trained", width=0.75)
    for row, column in itertools.product(range(5), range(5)):
        colour = COLOURS["trained"] if row == column else tint(GREY, 0.22)
        sketch.block(3.22 + 0.2 * column, 1.95 - 0.2 * row, 0.2, 0.2, colour)
    sketch.arrow(tx.right, head_g.left)
    sketch.arrow(cp.right, head_f.left)
    sketch.arrow(head_g.right, (3.62, 2.58), (3.62, 2.07))
    sketch.arrow(head_f.right, (3.1, 1.55))
    sketch.words(4.2, 1.55, "own pairs\nmust win\ntheir row\nand column")
    new = sketch.box(0.75, 0.4, "CP of a new\ncompound", "CP", width=1.35, held_out=True)
    same = sketch.box(2.2, 0.4, "head f", "trained", width=0.75)
    embedding = sketch.box(3.62, 0.4, "embedding", width=1.0, held_out=True)
    sketch.arrow(new.right, same.left, held_out=True)
    sketch.arrow(same.right, embedding.left, held_out=True)
    sketch.arrow(head_f.bottom, same.top, colour=COLOURS["trained"])
    sketch.words(2.28, 0.84, "once trained")
    return sketch.finished(
        "Two heads are trained on pairs of training compounds. Similarities of every CP code (rows) with every TX code "
        "(columns) form a matrix; training makes its diagonal, the own pairs, win. A new compound brings CP only: head "
        "f alone embeds it."
    )


@_styled
def train_autoencoder() -> Diagram:
    """04: one code from either modality, from which both must be rebuilt."""
    sketch = _Sketch("One code, from which both CP and TX must be rebuilt", 2.85)
    code = sketch.box(2.72, 2.07, "code", width=0.56)
    for y, near, kind in ((2.58, 2.2, "TX"), (1.55, 1.94, "CP")):
        source = sketch.box(0.7, y, f"{kind} of training\ncompounds", kind, width=1.28)
        encoder = sketch.box(1.87, y, "encoder", "trained", width=0.74)
        decoder = sketch.box(3.52, y, "decoder", "trained", width=0.74)
        target = sketch.box(4.5, y, f"{kind} rebuilt", kind, width=0.9)
        sketch.arrow(source.right, encoder.left)
        sketch.arrow(encoder.right, (code.left[0], near))
        sketch.arrow((code.right[0], near), decoder.left)
        sketch.arrow(decoder.right, target.left)
    sketch.words(0.7, 2.2, "hidden at random", ha="center")
    new = sketch.box(0.7, 0.4, "CP of a new\ncompound", "CP", width=1.28, held_out=True)
    same = sketch.box(1.87, 0.4, "encoder", "trained", width=0.74)
    embedding = sketch.box(3.2, 0.4, "code: the embedding", width=1.5, held_out=True)
    sketch.arrow(new.right, same.left, held_out=True)
    sketch.arrow(same.right, embedding.left, held_out=True)
    sketch.arrow((1.87, 1.39), same.top, colour=COLOURS["trained"])
    sketch.words(1.95, 0.98, "once trained")
    return sketch.finished(
        "Two encoders write into one code, and two decoders rebuild both modalities from it. In training, TX is hidden "
        "from a share of the pairs, so that CP alone must give the code. A new compound brings CP only: the encoder of "
        "CP embeds it."
    )


@_styled
def cluster_compounds() -> Diagram:
    """05: held-out compounds look for their like; positives should come first."""
    sketch = _Sketch("Held-out compounds look for their like", 3.05)
    new = sketch.box(0.75, 2.75, "CP of held-out\ncompounds", "CP", width=1.36, held_out=True)
    made = sketch.box(2.55, 2.75, "encoders of\nnotebooks 02 to 04", "trained", width=1.5)
    codes = sketch.box(4.35, 2.75, "embeddings", width=1.1, held_out=True)
    sketch.arrow(new.right, made.left, held_out=True)
    sketch.arrow(made.right, codes.left, held_out=True)
    sketch.arrow(codes.bottom, (4.35, 2.35), (2.5, 2.35), (2.5, 2.2), held_out=True)
    sketch.words(
        2.5,
        2.02,
        "each one is a query: it ranks the others, nearest first\n(filled: those it should find)",
        ha="center",
    )
    for y, positives, text in (
        (1.55, (0, 1, 4), "same treatment\n(claim 2)"),
        (1.1, (0, 2, 3, 7), "same mechanism\n(claim 3)"),
    ):
        sketch.dot(0.35, y, "CP", "?", held_out=True)
        for place in range(10):
            sketch.block(0.85 + 0.24 * place, y, 0.22, 0.22, COLOURS["CP"] if place in positives else tint(GREY, 0.3))
        sketch.words(3.4, y, text)
    sketch.words(2.5, 0.7, "three ways of training, compared on the same queries:", ha="center")
    for x, text in ((0.8, "without TX"), (2.5, "true pairs"), (4.2, "deranged pairs")):
        sketch.box(x, 0.34, text, width=1.45)
    return sketch.finished(
        "Encoders that are already trained embed the CP of compounds that they never saw. Each profile then ranks the "
        "others by similarity; it should find wells of its own treatment on other plates (claim 2) or compounds that "
        "share its mechanism (claim 3) before all others. Methods are compared on the same queries: without TX, "
        "trained on true pairs, trained on deranged pairs."
    )


@_styled
def predict_bioactivity() -> Diagram:
    """06: a linear model for each assay; assays are chosen on other compounds than they are measured on."""
    sketch = _Sketch("A model for each assay ranks held-out compounds", 2.9)
    train = sketch.box(0.8, 2.6, "embeddings of\ntraining compounds", width=1.5)
    labels = sketch.box(0.8, 2.07, "their assay labels", width=1.5)
    model = sketch.box(2.55, 2.35, "linear model\nof an assay", "trained", width=1.1)
    new = sketch.box(0.8, 1.45, "embeddings of\nheld-out compounds", width=1.5, held_out=True)
    scores = sketch.box(2.55, 1.45, "scores", width=0.75, held_out=True)
    truth = sketch.box(4.25, 2.35, "labels of the\nheld-out ones", width=1.3, held_out=True)
    measured = sketch.box(4.25, 1.45, "ROC-AUC", width=0.9)
    sketch.arrow(train.right, (model.left[0], 2.43))
    sketch.arrow(labels.right, (model.left[0], 2.26))
    sketch.arrow(new.right, scores.left, held_out=True)
    sketch.arrow(model.bottom, scores.top)
    sketch.arrow(scores.right, measured.left, held_out=True)
    sketch.arrow(truth.bottom, measured.top, held_out=True)
    sketch.words(0.05, 0.98, "Where TX is strong and CP weak", weight="bold")
    one = sketch.box(0.95, 0.42, "half of the compounds:\nchoose assays", width=1.8)
    other = sketch.box(4.05, 0.42, "the other half:\nmeasure the gain", width=1.8)
    sketch.arrow((one.right[0], 0.5), (other.left[0], 0.5))
    sketch.arrow((other.left[0], 0.34), (one.right[0], 0.34))
    sketch.words(2.5, 0.65, "then swap", ha="center")
    return sketch.finished(
        "For each assay a linear model is trained on the embeddings and labels of training compounds. It scores "
        "held-out compounds, whose labels serve to measure only. Assays where TX is strong and CP weak are chosen on "
        "one half of the compounds and measured on the other, then the other way round."
    )


@_styled
def weigh_claims() -> Diagram:
    """07: three differences decide a claim."""
    sketch = _Sketch("Three differences decide a claim", 2.5)
    values = sketch.box(0.6, 1.3, "values of\nheld-out\ncompounds,\nresampled", width=1.0, held_out=True)
    references = {2.1: "raw CP", 1.3: "the best without TX", 0.5: "its deranged pairs"}
    for (y, text), start in zip(references.items(), (1.5, 1.3, 1.1), strict=True):
        gain = sketch.box(2.25, y, f"gain over\n{text}", width=1.5)
        sketch.arrow((values.right[0], start), gain.left, held_out=True)
        sketch.line(gain.right, (3.15, y))
    sketch.line((3.15, 2.1), (3.15, 0.5))
    sketch.arrow((3.15, 1.3), (3.36, 1.3))
    rulings = {
        2.34: ("supported", "all three above 0"),
        1.8: ("explained without TX", "over raw CP, but not\nover both others"),
        1.1: ("not supported", "no gain over raw CP\nthat would matter"),
        0.4: ("inconclusive", "all else"),
    }
    for y, (name, when) in rulings.items():
        sketch.words(3.44, y, name, weight="bold", color=VERDICT_COLOURS[name])
        sketch.words(3.44, y - 0.1, when, va="top")
    return sketch.finished(
        "Values of held-out compounds, from notebooks 05 and 06, are resampled by compound. The method's gain over "
        "three references, each with its interval, decides the verdict: over raw CP, over the best method without TX, "
        "and over itself trained on deranged pairs. Only the data-size curve at the end trains anything."
    )


@_styled
def embed_new_compounds() -> Diagram:
    """08: new compounds are measured by library compounds that the encoder never saw either."""
    sketch = _Sketch("New compounds beside others that the encoder never saw", 2.85)
    new = sketch.box(0.72, 2.55, "CP of new\ncompounds", "CP", width=1.35, held_out=True)
    ruler = sketch.box(0.72, 1.8, "CP of held-out\nlibrary", "CP", width=1.35, held_out=True)
    cp = sketch.box(0.72, 1.0, "CP of the library", "CP", width=1.35)
    tx = sketch.box(0.72, 0.55, "TX of the library", "TX", width=1.35)
    encoder = sketch.box(2.2, 1.8, "encoder", "trained", width=0.8)
    beside = sketch.box(3.95, 1.8, "new compounds beside\nheld-out ones: p-values", width=1.85, held_out=True)
    sketch.arrow(new.right, (2.2, 2.55), encoder.top, held_out=True)
    sketch.arrow(ruler.right, encoder.left, held_out=True)
    sketch.arrow(cp.right, (2.2, 1.0), encoder.bottom)
    sketch.line(tx.right, (2.2, 0.55), (2.2, 1.0))
    sketch.arrow(encoder.right, beside.left, held_out=True)
    sketch.arrow(beside.bottom, (3.95, 1.32), held_out=True)
    questions = [
        "Is it active?",
        "Can this library judge it?",
        "Whom does it resemble?",
        "Which mechanism?",
        "Which assays?",
    ]
    for row, question in enumerate(questions):
        sketch.words(3.1, 1.16 - 0.2 * row, f"{row + 1}  {question}")
    return sketch.finished(
        "New compounds bring CP only. The encoder was trained on the library, the compounds of a screen that has both, "
        "and embeds them. Library compounds that it never saw go the same way: they show how near, how similar and how "
        "strange a compound is that was new as well, and so give p-values. Whether a compound is active is judged "
        "beside the controls of its own plate."
    )
