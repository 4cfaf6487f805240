"""The hostile requests themselves; whether a server survives them is asked with the others of chaos."""

from latentrt.benchmarks.serving.chaos.bodies import hostile_requests


def test_hostile_requests_have_names_of_their_own() -> None:
    """More than fifty; each can be sent again, and the endless ones begin with a head."""
    requests = hostile_requests()
    assert len(requests) >= 50
    assert len({one.name for one in requests}) == len(requests)
    for one in requests:
        assert next(iter(one.pieces())) == next(iter(one.pieces()))
