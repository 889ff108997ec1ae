"""DICOM as a PACS sends it: files, folders and archives to volumes with an affine."""
