"""DICOM objects from a mask: SEG, RTSTRUCT, structured report."""
