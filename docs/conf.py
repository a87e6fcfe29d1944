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
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
default_role = "code"
html_math_renderer = "mathml"
napoleon_use_ivar = True
html_theme = "furo"
html_title = "beam_gpte"
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
        picture = to_svg(
            drawing(path),
            stroke_color="currentColor",
            fill_color="currentColor",
            background_color="transparent",
            font_family="monospace",
        )
        size = r'width="(\d+)" height="(\d+)"'
        scaled = r'viewBox="0 0 \1 \2" style="width: \1px; max-width: 100%; height: auto"'
        return [nodes.raw("", re.sub(size, scaled, picture, count=1), format="html")]


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
