"""What every stage stands on: columns, ids, files, progress, optional packages."""
