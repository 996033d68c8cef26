"""Labels to numbers and pictures."""
