"""What people read: tables, lists, progress. The only place where seconds become milliseconds, and bytes MiB."""
