"""Views drawn as HTML: passages, charts, and the templates around them."""
