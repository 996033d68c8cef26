"""DICOM in: headers are read and checked, series sorted out, and pixels converted in a child."""
