"""The shield as an HTTP service, and as a proxy in front of another face recognition server.

settings      every setting, with its meaning and its limits
batcher       who may wait; batcher_local: one thread owns the purifier, batcher_ray: replicas on a cluster do
handlers      everything else that takes time: reading, detecting, embedding, the gallery, writing;  readers  its threads
presets       the presets that a request may ask for
request_body  request bodies in memory: multipart, JSON, raw;  schemas  the response bodies
problems      every error as one shape of JSON
keys, access  API keys, hashed at rest, and what each may do
connections   what a connection may cost;  trust  whom a service without keys answers
middleware    around every request: its id, one line of log, its figures;  logs, metrics
requests      what the routes share;  routes, routes_gallery  the addresses under /v1;  app  the application
proxy         calls for another server, with the photographs in them purified
run           from settings to a running server;  ray_serve  the same on a cluster
"""
