"""Features of a frozen vision side, computed once and kept on disk.

With tower and resampler frozen, a slice is its visual tokens ("image_features"); with the tower
alone frozen, what the tower gave for its patches ("patch_features").
"""
