"""Charts as SVG: each a function from plain numbers and a width in pixels to a drawing. Colours are the page's CSS."""
