"""The service over HTTP: protocols that people's clients speak, and what guards them.

app.py              the application: routes, guards, the beginning and the end
guards.py           every request: its id and log line, its body, its key
keys.py             API keys in a file
errors.py           errors as answers, in the form of each protocol
problems.py         what is wrong with a request's fields, in plain sentences
events.py           server-sent events
fields.py           decoding options as a request's fields
infill.py           POST /v1/infill and /v1/score
completions.py      OpenAI's POST /v1/completions and GET /v1/models
tensors.py          tensors of the Open Inference Protocol, in JSON and in binary
inference.py        the Open Inference Protocol, version 2
services.py         the models that one process serves, by name
operations.py       /metrics, and whether the service is alive and ready
connections.py      connections whose headers never end
server.py           uvicorn, signals, exit
"""
