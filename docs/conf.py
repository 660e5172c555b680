"""Settings of the manual. `sphinx-build -W docs docs/_build` builds it, after `pip install -e ".[docs]"`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]  # autodoc and `reference_pages` import this checkout

project = html_title = "sam2unet"
author = copyright = "the authors of sam2unet"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "reference_pages"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4  # the anchors of headings are those of GitHub
smartquotes_action = "D"  # only dashes, for the lists of parameters
default_role = "code"  # docstrings have single backticks
autodoc_member_order = "bysource"
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(collections|np|numpy|pathlib|PIL|sam2unet\.layers|torch)\..*")]  # not on a page
html_theme = "furo"
html_copy_source = html_use_index = False
html_static_path = ["_static"]
html_css_files, html_js_files = ["manual.css"], ["manual.js"]
