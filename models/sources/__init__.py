"""Models from elsewhere: other libraries, files, a person's own code, installed packages."""
