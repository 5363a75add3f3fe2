"""`plumbline report`: runs as one page that needs nothing else, as pictures, and as tables for machines.

harness/studies/report.py gathers the evidence; pictures/ draws it; summary.py says what people read first, matrix.py how numbers
are read; page.py makes the page, payload.py what its scripts read; tables.py writes CSV, Parquet and Markdown.
Nothing here measures.
"""
