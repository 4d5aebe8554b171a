"""What is kept of a training: two small files bound to one backbone."""
