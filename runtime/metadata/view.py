"""What the settings of a view tell of the camera."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from latentrt.runtime.metadata.a1111_text import quoted

if TYPE_CHECKING:
    from latentrt.runtime.call.tasks.views.pose import Pose


def pose_pairs(poses: Sequence["Pose"]) -> dict[str, str]:
    """The poses of one view, or of several in one file, where a number that holds for all stands once."""
    columns: dict[str, list[float | None]] = {
        "Elevation": [pose.elevation for pose in poses],
        "Azimuth": [pose.azimuth for pose in poses],
        "Distance": [pose.distance for pose in poses],
        "Image elevation": [pose.image_elevation for pose in poses],
    }
    return {name: _told(column) for name, column in columns.items() if column[0] is not None}


def _told(column: Sequence[float | None]) -> str:
    """The numbers of a column; one where they are all the same."""
    told = column[:1] if len(set(column)) == 1 else column
    return quoted(", ".join(f"{one:g}" for one in told))
