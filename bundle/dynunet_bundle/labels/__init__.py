"""What the values of a mask mean: classes, regions, the ignore value, and conversions between them."""
