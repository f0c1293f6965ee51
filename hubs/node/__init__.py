"""What one process of the service does with its connections and the log: publish, deliver, claim, take over, answer.

Operations call it and connections are its members; below it stand the registry (who is here) and the cluster (the log
and the other processes). It decides nothing about permissions, payloads or sockets.
"""
