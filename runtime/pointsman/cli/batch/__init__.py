"""`pointsman infill --input`: a file of texts, one record for each of its lines, which can be stopped and resumed.

options.py     what the command line says
command.py     one run, from the lines to the records
filling.py     lines to records, some together
job.py         the file of records and the file beside it that says how it was begun; one process writes them
progress.py    how far a run is
reading.py     what a line is: a text, or an object with one; gzipped or not
stopping.py    Ctrl-C and SIGTERM, which never part a record from its being counted
"""
