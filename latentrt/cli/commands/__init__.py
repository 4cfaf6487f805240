"""The commands as they are typed: arguments, options and help; what they do is imported when they run."""
