"""A trained model in the forms that others run."""
