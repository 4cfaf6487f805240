"""The bundle on disk: records, files, components, probes and the gates they pass."""
