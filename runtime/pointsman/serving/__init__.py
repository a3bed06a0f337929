"""Bundles as a service: requests of many clients over one model.

jobs.py        what the scheduler is given: ids and options, checked
ticket.py      what whoever asks is given: the tokens as they come, the answer, a way to give up
scheduler.py   one thread that owns the model, and what waits for it
"""
