"""Models on the hub and in its cache on disk: how they are named, found and fetched."""
