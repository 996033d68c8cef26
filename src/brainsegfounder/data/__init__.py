"""Cases to batches: layouts, manifest, splits, store, augmentation, loader."""
