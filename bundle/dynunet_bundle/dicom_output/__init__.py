"""DICOM objects made from a mask: SEG, RTSTRUCT, a structured report."""
