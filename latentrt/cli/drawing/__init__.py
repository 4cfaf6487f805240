"""The options that drawing commands share."""
