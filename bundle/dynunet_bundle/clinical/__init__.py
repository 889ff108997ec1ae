"""DICOM as a hospital sends it: series in, segmentations out."""
