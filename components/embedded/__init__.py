"""The embedded demo: a world of moving shapes, two collections of its videos, and a mini CLIP trained on its stills."""
