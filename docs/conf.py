"""Configure Sphinx: `make docs` builds docs/_build/html."""

import ast
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinxcontrib.svgbob._svgbob import to_svg

ROOT = Path(__file__).resolve().parents[1]

project = "beam_gpte"
author = "the beam_gpte authors"
project_copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
default_role = "code"
html_math_renderer = "mathml"
napoleon_use_ivar = True
html_theme = "furo"
html_title = "beam_gpte"
html_static_path = ["_static"]
html_css_files = ["site.css"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
nitpicky = False


class Drawing(SphinxDirective):
    """Render the drawing in a module's docstring as SVG, in the colors of the page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make one node of raw HTML."""
        path = ROOT / (self.arguments[0].replace(".", "/") + ".py")
        self.env.note_dependency(str(path))
        return [nodes.raw("", f'<div class="drawing">{svg(drawing(path))}</div>', format="html")]


CELL = 8  # width of a character
# words with a blank around them; a single v is an arrow
WORDS = re.compile(r" ((?:(?!v )[^\s|+<>^-]\S*)(?: (?!v |[|+<>^-]+ )\S+)*) ")


def svg(drawn: str) -> str:
    """Draw lines and arrows, and leave words as they are: a v in one is not an arrow.

    Words are put in quotes, which takes a character on both sides, and come out a character to the
    left of their place.
    """
    lines = [WORDS.sub(r'"\1"', f" {line} ") for line in drawn.splitlines()]
    picture = to_svg(
        "\n".join(lines),
        stroke_color="currentColor",
        fill_color="currentColor",
        background_color="transparent",
        font_family="monospace",
        font_size=13,  # of fonts as wide as 0.6 of their height: no wider than a cell
    )
    picture = re.sub(r'<text x="(\d+)"', lambda found: f'<text x="{int(found[1]) + CELL}"', picture)
    width = CELL * (max(map(len, lines)) + 1)
    # not so small that nobody can read it: then it scrolls
    style = f"width: {width}px; min-width: min({width}px, 40rem)"
    return re.sub(
        r'width="\d+" height="(\d+)"',
        rf'viewBox="0 0 {width} \1" style="{style}"',
        picture,
        count=1,
    )


def drawing(path: Path) -> str:
    """The lines of a module's docstring that are its drawing: paragraphs with arrows.

    Raises:
      ValueError: there is none.
    """
    document = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    drawn = [part for part in document.split("\n\n")[1:] if "-->" in part or "<--" in part]
    if not drawn:
        raise ValueError(f"{path}: no drawing in the docstring")
    return "\n\n".join(drawn)


def write_formula(translator: Any, node: nodes.Element) -> None:
    """Write a formula as MathML, which browsers draw without a script or a network."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    translator.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Add the directive `drawing`, and draw formulas by the browser."""
    app.add_directive("drawing", Drawing)
    visit = write_formula, None
    app.add_html_math_renderer("mathml", inline_renderers=visit, block_renderers=visit)
