"""The frozen backbone: the two towers of a CLIP or of a model like it, in families, or the embedded mini model."""
