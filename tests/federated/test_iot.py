import numpy as np
import pytest

from dpaudit.errors import UsageError
from dpaudit.federated import iot


def fleet(devices=200, heterogeneity=1.0, root=5, windows=20):
    return iot.generate(devices=devices, windows_per_device=windows, heterogeneity=heterogeneity, root=root)


def test_the_same_root_gives_the_same_fleet_and_another_root_another():
    (x, y, device, classes), (again, labels, _, _), (other, _, _, _) = fleet(), fleet(), fleet(root=6)
    np.testing.assert_array_equal(x, again)
    np.testing.assert_array_equal(y, labels)
    assert (x != other).any()
    assert x.shape == (4000, iot.FEATURES)
    assert x.dtype == np.float32
    assert np.isfinite(x).all()
    assert np.abs(x).max() < 10
    assert classes == len(iot.STATES) == len(np.unique(y))
    assert np.bincount(device).tolist() == [20] * 200


def test_devices_differ_as_much_as_heterogeneity_says():
    def spread(heterogeneity):
        x, y, device, _ = fleet(heterogeneity=heterogeneity)
        normal = y == 1
        means = np.array(
            [x[normal & (device == d)].mean(axis=0) for d in range(200) if (normal & (device == d)).sum() > 2]
        )
        duty = np.array([np.bincount(y[device == d], minlength=6) for d in range(200)])
        return means.std(axis=0).mean(), duty.std()

    identical, realistic, hard = spread(0.0), spread(1.0), spread(2.0)
    assert identical[0] < realistic[0] < hard[0]
    assert identical[1] < realistic[1] < hard[1]


def test_new_devices_can_be_learnt_but_not_trivially():
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import NearestCentroid

    x, y, device, _ = fleet(devices=300)
    seen = device < 200
    learnt = LogisticRegression(max_iter=300).fit(x[seen], y[seen]).score(x[~seen], y[~seen])
    simple = NearestCentroid().fit(x[seen], y[seen]).score(x[~seen], y[~seen])
    assert learnt > 0.90
    assert simple < 0.92


@pytest.mark.parametrize(
    "bad", [{"devices": 0}, {"windows": 0}, {"heterogeneity": -1.0}, {"heterogeneity": float("nan")}]
)
def test_impossible_fleets_are_refused(bad):
    with pytest.raises(UsageError):
        fleet(**bad)
