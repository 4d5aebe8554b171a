"""What a training leaves: a small adapter that is bound to one backbone, and how it was trained."""
