"""Sphinx: `make docs` builds docs/_build/html."""

project = "beam_gpte"
author = "the beam_gpte authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
default_role = "code"
napoleon_use_ivar = True
html_theme = "furo"
html_title = "beam_gpte"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
nitpicky = False
