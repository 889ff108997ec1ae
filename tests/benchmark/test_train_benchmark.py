"""The training benchmark times the same steps under each feed."""

from conftest import BUNDLE

from dynunet_bundle.benchmark import train
from dynunet_bundle.benchmark.feed import Setting
from dynunet_bundle.feed.synthetic import SyntheticLoader


def test_each_feed_trains_and_is_compared_with_the_constant_batch(tmp_path):
    setting = Setting("small", 2, (18, 20, 16), 2, (16, 16, 16), 2, 0)
    (rows,) = train.run(BUNDLE, tmp_path, "cpu", 2, 0, setting, (2,)).values()
    assert [row.contender for row in rows] == ["constant batch", "center crop", "augmented"]
    assert all(row.wall_s > 0 and "samples/s" in row.remark for row in rows)
    assert "%" not in rows[0].remark and "%" in rows[2].remark


def test_the_constant_batch_is_one_of_the_declared_form():
    loader = SyntheticLoader((4, 5, 6), 3, 2, num_channels=2, num_classes=3)
    batches = list(loader)
    assert len(batches) == len(loader) == 2
    assert batches[0]["image"].shape == (3, 2, 4, 5, 6)
    assert batches[0]["label"].shape == (3, 1, 4, 5, 6)
    assert set(batches[0]["label"].unique().tolist()) == {0, 1, 2}
    assert all((batches[0][key] == batches[1][key]).all() for key in batches[0])
