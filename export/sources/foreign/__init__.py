"""Files and folders that hold something else: named for what they are, before torch is imported."""
