"""Shares of a job."""

import pytest

from sam2unet.errors import UserError
from sam2unet.runtime.shards import Shard


def test_every_element_belongs_to_one_share():
    shards = [Shard.read(f"{i}/3") for i in (1, 2, 3)]
    assert [[shard.takes(i) for shard in shards].count(True) for i in range(10)] == [1] * 10
    assert [i for i in range(7) if shards[1].takes(i)] == [1, 4]


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "-1/2", "1/0", ""])
def test_other_texts_are_refused(text):
    with pytest.raises(UserError, match="2/8"):
        Shard.read(text)
