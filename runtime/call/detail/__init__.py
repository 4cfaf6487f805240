"""The detail pass: regions of a picture, one after the other, inpainted at full size and pasted back."""
