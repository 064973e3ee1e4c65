"""How large a picture may be."""

# The largest picture that is decoded or made, in pixels: above what cameras make, below what fills a server.
MAX_PIXELS = 250_000_000
