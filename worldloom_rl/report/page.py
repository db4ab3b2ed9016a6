"""A page of static HTML, with its pictures inside it."""

from __future__ import annotations

import base64
import html
import io

from matplotlib.figure import Figure

_STYLE = """
body { font-family: system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #202124; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid #dadce0; }
td:first-child, td:nth-child(2) { white-space: nowrap; }
.right td:nth-child(n+2), .right th:nth-child(n+2) { text-align: right; white-space: nowrap; }
.facts td:nth-child(2) { white-space: normal; }
.numbers { font-size: .85rem; }
.verdict { font-size: 1.15rem; font-weight: 600; }
img { max-width: 100%; }
figure { margin: 1.5rem 0; }
figcaption { color: #5f6368; }
"""


def page(title: str, body: str) -> str:
    """The HTML of a page with that title and body."""
    text = html.escape(title)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{text}</title><style>{_STYLE}</style></head><body>
<h1>{text}</h1>
{body}
</body></html>
"""


def picture(name: str, caption: str, figure: Figure) -> str:
    """The HTML of a figure with its name, for those who do not see it, and a caption."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><img alt="{html.escape(name)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
