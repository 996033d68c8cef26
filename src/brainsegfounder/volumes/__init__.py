"""What an image is: voxels, where they are, and how to get there and back. Needs no torch."""
