"""Draw the map of the methods: `python book/methods_map.py` writes book/figures/methods_map.svg."""

from pathlib import Path

FIGURE = Path(__file__).parent / "figures" / "methods_map.svg"
# What does the constraining, what it constrains, and the methods that do so while they train and while they act.
ROWS = [
    ("Labels", "the cost of an episode or segment of the log", "BC-Safe TraC PreSa", ""),
    (
        "A price on cost",
        "the mean cost of an episode",
        "BCQ-Lag BEAR-Lag COptiDICE PPO-Lag SAC-Lag CCAC O3SRL RCDT PreSa",
        "",
    ),
    ("A critic of cost as a gate", "the cost that follows an action", "CPQ LSPC C2IQL", "CAPS"),
    ("The limit as an input", "the cost of the rest of the episode", "OASIS", "CDT RCDT CCAC C2IQL BCRL TREBI"),
    ("Reachability", "whether harm can still be avoided, in each state", "FISOR SafeFQL BCRL", "FISOR BCRL"),
]
OURS = "BC-Safe TraC BCQ-Lag BEAR-Lag COptiDICE CPQ CDT".split()
SIMULATOR = "PPO-Lag SAC-Lag".split()
WIDTH, LEFT, MIDDLE, RIGHT = 560, 20, 338, 550  # the page, and where its two columns begin and end
HIGH, STEP = 34, 42  # of a box, and from one line of boxes to the next
STYLE = """
    text { font: 22px Arial, Helvetica, "Liberation Sans", sans-serif; fill: #262626 }
    .head { font-weight: bold; font-size: 24px }
    .small { font-size: 20px }
    .panel { fill: #f6f7f9; stroke: #c9ced6 }
    .box { stroke: #262626; stroke-width: 1.5; fill: #fff }
    .ours { fill: #0173b2; stroke: #0173b2 }
    .simulator { fill: #cfe3f1; stroke: #0173b2; stroke-width: 2.5; stroke-dasharray: 6 4 }
    .white { fill: #fff }
"""


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{words}</text>'


def box(x: float, y: float, name: str) -> tuple[str, float]:
    """A method's box, and its width."""
    wide = 24 + sum(15 if letter.isupper() else 11.5 for letter in name)
    kind = "ours" if name in OURS else "simulator" if name in SIMULATOR else ""
    frame = f'<rect class="box {kind}" x="{x:g}" y="{y:g}" width="{wide:g}" height="{HIGH}" rx="6"/>'
    middle = f'x="{x + wide / 2:g}" y="{y + 25:g}" text-anchor="middle" class="{"white" if kind == "ours" else ""}"'
    return f"{frame}<text {middle}>{name}</text>", wide


def boxes(left: float, right: float, top: float, names: list[str]) -> tuple[list[str], float]:
    """The boxes of a column, line after line, and where the next line would begin."""
    drawn, x, y = [], left, top
    for name in names:
        if x > left and x + box(x, y, name)[1] > right:
            x, y = left, y + STEP
        shape, wide = box(x, y, name)
        drawn.append(shape)
        x += wide + 8
    return drawn, y + STEP


def draw() -> str:
    parts = [text(LEFT, 28, "in training", "head"), text(MIDDLE, 28, "in use", "head")]
    top = 42.0
    for title, constrained, training, use in ROWS:
        first, low = boxes(LEFT, MIDDLE - 16, top + 72, training.split())
        second, other = boxes(MIDDLE, RIGHT, top + 72, use.split())
        bottom = max(low, other) + 4
        panel = f'<rect class="panel" x="8" y="{top:g}" width="{WIDTH - 16}" height="{bottom - top:g}" rx="8"/>'
        heads = [text(LEFT, top + 30, title, "head"), text(LEFT, top + 57, constrained, "small")]
        rule = f'<path d="M{MIDDLE - 10} {top + 72:g}V{bottom - 8:g}" stroke="#c9ced6"/>'
        parts += [panel, *heads, rule, *first, *second]
        top = bottom + 10
    for name, words in (
        ("TraC", "offline, in this book's tables"),
        ("PPO-Lag", "in its tables too, learns in the simulator"),
        ("CAPS", "not run here"),
    ):
        shape, wide = box(LEFT, top + 4, name)
        parts += [shape, text(LEFT + wide + 14, top + 28, words, "small")]
        top += STEP
    size = f'viewBox="0 0 {WIDTH} {top + 8:g}" width="{WIDTH}" height="{top + 8:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<title>The map of the methods</title>'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>\n"])


if __name__ == "__main__":
    FIGURE.write_text(draw())
