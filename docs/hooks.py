"""Tidy pages that are made from code: unset defaults, examples of commands, roles of docstrings."""

import re
from typing import Any


def on_page_content(html: str, **_: Any) -> str:
    """Return the HTML of a page without what only its generators understand."""
    html = html.replace("<code>Sentinel.UNSET</code>", "")
    html = re.sub(r":(?:class|func|meth):(?=<code>)", "", html)
    examples = re.compile(r"<p>(georsr [^<]*)</p>")
    return examples.sub(r"<pre><code>\1</code></pre>", html)
