"""Channel layers: how the processes of one service reach each other.

It carries messages between processes in logs that Redis keeps, and says what became of them; it knows neither hubs
nor connections, and any other use of Channels may have it. `hubs.cluster` is its customer; nobody else in this
service calls it.
"""
