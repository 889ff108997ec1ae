"""Image files to arrays with affines. No other room opens an image format by itself."""
