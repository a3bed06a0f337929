"""Bundles as a service: requests of many clients over one model.

    jobs.py        what the scheduler is given: ids and options, checked
    ticket.py      what whoever asks is given: the tokens as they come, the answer, a way to give up
    scheduler.py   one thread that owns the model, and what waits for it
    admission.py   what may be decoded at the same time, and who joins next
    worker.py      what is decoded together: joined, stepped, answered
    limits.py      what a service takes from its clients
    service.py     a bundle behind a scheduler: texts in, fills and growing spans out
    outputs.py     fills as tensors, for inference servers
    triton.py      a bundle as a model of Triton's Python backend
    metrics.py     what is counted and timed, for Prometheus
    http/          protocols over HTTP, and what guards them
    page/          the page at /
    client.py      a service from Python, which fills, streams and scores as `Infiller` does

`scheduler` and what it stands on need nothing beside the runtime; `http` and `metrics` are the extra `serve`, `client`
is the extra `client`.
"""
