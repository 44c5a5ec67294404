"""The request log: frames on local disk before the answer leaves, then typed Parquet in the store.

`frames.py` is the file format, `records.py` what a frame holds, `segments.py` the files and their locks;
`recorder.py` writes them in the server, `windows.py` and `shipper.py` take them to the store in a process of
their own, which `supervisor.py` keeps alive. `session.py` puts both together for a server.
"""
