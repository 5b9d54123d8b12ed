"""The report: a comparison as one HTML page that needs nothing else.

`texts` puts two answers beside each other, `charts` draws, `words` holds the
page's own words, `page` puts them into `page.html.j2`, whose autoescape treats
everything else as text.
"""

from itrex_chat.report.page import as_html

__all__ = ["as_html"]
