"""`plumbline report`: runs as one page that needs nothing else, as pictures, and as tables for machines.

harness/studies/report.py gathers the evidence; pictures/ draws it; page.py puts it on a page; tables.py writes CSV, Parquet and
Markdown. Nothing here measures or judges.
"""
