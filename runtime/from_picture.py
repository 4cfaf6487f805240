"""What a pipeline draws with models that were made to be told of a picture."""


class FromPicture:
    """The part of a pipeline whose calls need a picture: videos, views of an object, edits and variations.

    Each refuses a model that was made for something else, and says what that one draws.
    """
