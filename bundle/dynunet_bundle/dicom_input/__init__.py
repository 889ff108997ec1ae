"""DICOM files, folders and archives from a PACS -> volumes with an affine."""
