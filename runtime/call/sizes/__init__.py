"""A picture's size in a call: what is drawn on, what the model is told, and what pictures bring along."""
