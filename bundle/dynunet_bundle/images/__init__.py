"""Image files -> arrays with affines. No other room reads image formats."""
