"""The frame store: its files, and how to read them."""
