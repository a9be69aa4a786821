"""A report as one HTML file. It works offline, can be printed, fits a phone, and follows dark or light mode."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, replace

import plotly
from markdown_it import MarkdownIt

from shared.report.plots import Plot

STYLE = """
:root { --ink: #1f2328; --soft: #59636e; --line: #d8dee4; --page: #ffffff; --card: #f6f8fa; --accent: #0969da }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --page: #0d1117; --card: #151b23; --accent: #4493f8 }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink);
       font: 16px/1.55 system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif }
main { max-width: 880px; margin: 0 auto; padding: 2rem 1.25rem 4rem }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .25rem }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line) }
.from { color: var(--soft); margin: 0 }
.wide { overflow-x: auto }
@media (max-width: 600px) { td { min-width: 5.5rem } td:nth-child(n+5):last-child { min-width: 13rem } }
table { border-collapse: collapse; font-size: .875rem; margin: .5rem 0 1rem }
th, td { padding: .35rem .75rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top }
td + td, th + th { font-variant-numeric: tabular-nums }
th { color: var(--soft); font-weight: 600 }
code { background: var(--card); padding: .1em .35em; border-radius: 4px; font-size: .875em }
figure { margin: 1.5rem 0 2rem; padding: 1rem; background: var(--card); border-radius: 8px; break-inside: avoid }
figcaption { font-weight: 600; margin-bottom: .25rem }
.plot { width: 100%; height: 380px }
html[data-paper] { --ink: #1f2328; --soft: #59636e; --line: #d8dee4; --page: #ffffff; --card: #ffffff }
noscript img { max-width: 100% }
@media print { body { font-size: 12px } main { max-width: none; padding: 0 } tr { break-inside: avoid } }
"""

SCRIPT = """
const dark = matchMedia('(prefers-color-scheme: dark)');
function draw() {
  const css = getComputedStyle(document.documentElement);
  const ink = css.getPropertyValue('--ink').trim(), line = css.getPropertyValue('--line').trim();
  document.querySelectorAll('.plot').forEach(place => {
    const figure = JSON.parse(place.nextElementSibling.textContent);
    const l = figure.layout;
    delete l.title;
    l.paper_bgcolor = l.plot_bgcolor = 'rgba(0,0,0,0)';
    l.font.color = ink;
    l.height = 380; l.margin = {l: 56, r: 8, t: 40, b: 48};
    for (const axis of [l.xaxis, l.yaxis]) { axis.gridcolor = line; axis.linecolor = line; }
    Plotly.react(place, figure.data, l, {responsive: true, displaylogo: false, displayModeBar: false});
  });
}
draw();
dark.addEventListener('change', draw);
// Paper is white, whatever the screen is.
addEventListener('beforeprint', () => { document.documentElement.dataset.paper = ''; draw(); });
addEventListener('afterprint', () => { delete document.documentElement.dataset.paper; draw(); });
"""


@dataclass(frozen=True)
class Section:
    """A heading, its text in Markdown, and the figures below it."""

    title: str
    text: str
    figures: tuple[Plot, ...] = ()


def as_html(title: str, source: str, sections: Sequence[Section]) -> str:
    """The page as one file with style, script and data. It loads nothing from the network."""
    write = MarkdownIt("commonmark").enable("table").render
    body = []
    for section in sections:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        text = write(section.text).replace("<table>", '<div class="wide"><table>')
        body.append(text.replace("</table>", "</table></div>"))
        for plot in section.figures:
            data = plot.figure.to_json().replace("</", "<\\/")
            picture = base64.b64encode(plot.png() or b"").decode()
            without_script = f'<noscript><img alt="" src="data:image/png;base64,{picture}"></noscript>'
            body.append(
                f"<figure><figcaption>{html.escape(plot.title)}</figcaption>"
                f'<div class="plot" role="img" aria-label="{html.escape(plot.title)}: see the table below"></div>'
                f'<script type="application/json">{data}</script>'
                f"{without_script if picture else ''}"
                f'<div class="wide">{replace(plot, title="").html()}</div></figure>'
            )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main><h1>{html.escape(title)}</h1>"
        f'<p class="from">{html.escape(source)}</p>'
        f"{''.join(body)}</main><script>{plotly.offline.get_plotlyjs()}</script><script>{SCRIPT}</script></body></html>"
    )
