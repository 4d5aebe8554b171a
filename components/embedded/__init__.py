"""The embedded default: a small world of moving shapes, two collections in it, a mini CLIP that knows its stills."""
