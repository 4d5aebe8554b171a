"""The frozen CLIP: any ViT of open_clip, or the embedded mini model."""
