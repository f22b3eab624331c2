"""The card beside every output: README.md, card.json and figures, rendered from the manifest and `card.yaml` alone.

`render.write_card` writes it, `render.render_terminal` shows it, `gallery.compare` holds a published gallery to it.
"""
