"""How `make docs` turns the pages of this folder and the catalogue into a site; read by Sphinx."""

project = "flowparts"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
python_use_unqualified_type_names = True
html_theme = "furo"
html_title = "flowparts"
# A summary is fetched, which no browser does from disk.
html_show_search_summary = False
html_show_sphinx = False
html_copy_source = False
html_show_copyright = False
html_extra_path = ["extra"]
myst_heading_anchors = 3
