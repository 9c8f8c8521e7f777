"""Records and artefacts as one page of HTML and as Markdown.

The charts are SVG drawn here, not Plotly: plotly.js is 4.5 MB of script that every page
would carry, draws nothing where a mail program blocks scripts, and its static export needs a browser. The charts of
this report are bars, strips, lines and points: 3 to 20 kB each as SVG, follow light and dark through the page's CSS,
print sharply, and let the page forbid scripts altogether.
"""
