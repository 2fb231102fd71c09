"""The shield as an HTTP service, and as a proxy in front of another face recognition server.

settings   every setting, with its meaning and its limits
engine     one thread owns the model; faces of many clients are purified together
desk       everything else that takes time: reading, detecting, embedding, the gallery, writing
bodies     request bodies in memory: multipart, JSON, raw
problems   every error as one shape of JSON
keys       API keys, hashed at rest
logs, metrics, frame   one line of log a request, its id, its figures
routes     the addresses under /v1;  app  the application
proxy      calls for another server, with the photographs in them purified
run        from settings to a running server
"""
