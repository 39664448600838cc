"""Whatever a template may make can be deleted again."""

from localaws import removal, resources


def test_every_type_that_is_made_can_be_deleted() -> None:
    assert resources.KINDS.keys() - removal.DELETES.keys() - removal.GOES_WITH_ANOTHER.keys() == set()


def test_nothing_is_said_to_go_both_ways() -> None:
    assert not removal.DELETES.keys() & removal.GOES_WITH_ANOTHER.keys()
