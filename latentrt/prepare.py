"""Control pictures made without a network and without torch: ``latentrt.prepare.canny(image)`` and the like."""

from latentrt.runtime.pictures.prepare import blur as blur
from latentrt.runtime.pictures.prepare import canny as canny
from latentrt.runtime.pictures.prepare import inpaint as inpaint
from latentrt.runtime.pictures.prepare import invert as invert
from latentrt.runtime.pictures.prepare import palette as palette
from latentrt.runtime.pictures.prepare import shuffle as shuffle
from latentrt.runtime.pictures.prepare import threshold as threshold
from latentrt.runtime.pictures.prepare import tile as tile
