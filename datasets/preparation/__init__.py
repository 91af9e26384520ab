"""Getting data sets: archives and downloads."""
