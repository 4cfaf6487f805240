"""The settings that drew a picture, under A1111's names."""
