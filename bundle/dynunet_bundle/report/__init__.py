"""One offline HTML page about predictions and their scores."""
