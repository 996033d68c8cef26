"""A volume to labels: sliding window, prediction, label composition."""
