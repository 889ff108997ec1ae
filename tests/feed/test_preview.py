"""The preview shows the same patches in all rows, and each augmentation alone."""

import numpy as np
from feed_cases import prepare

from dynunet_bundle.feed.preview import TILE_PIXELS, preview


def test_rows_show_the_same_patches_under_each_augmentation(tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.random((1, 24, 24, 24), dtype=np.float32) for _ in range(2)]
    labels = [np.zeros((24, 24, 24), np.uint8) for _ in images]
    for label in labels:
        label[8:16, 8:16, 8:16] = 1
    settings = {
        "dataset": prepare(tmp_path, images, labels),
        "patch_size": (16, 16, 16),
        "augmentation": {
            "brightness": {"prob": 0.0, "factor": [2.0, 2.0]},
            "mirror": {"prob": 0.0, "axes": []},
        },
        "oversampling": 1.0,
        "seed": 1,
    }
    pixels = np.array(preview(settings, columns=2)).astype(int)
    # two blocks side by side: unchanged and brightness left, mirror and all right; 26 pixels of title above each row
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    tile = np.s_[26 : 26 + TILE_PIXELS, 6 : 6 + TILE_PIXELS]
    blocks = [
        pixels[top : top + height, left : left + width][tile]
        for left in (0, width)
        for top in (0, height)
    ]
    as_it_is, brighter, mirrored, everything = blocks
    assert as_it_is.std() > 10
    # "alone" means with probability 1; a mirror without axes and the declared probability of 0 have no effect
    assert brighter.mean() > as_it_is.mean() + 20
    np.testing.assert_array_equal(mirrored, as_it_is)
    np.testing.assert_array_equal(everything, as_it_is)
